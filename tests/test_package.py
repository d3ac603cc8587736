"""The package as a user installs it: a wheel in a folder of its own, far from the checkout."""

import ast
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import carbs_scaling

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "optuna", "pandas", "matplotlib", "hydra")


def output_of(*command, cwd) -> str:
    """Standard output of a command that must succeed, run without the checkout on its path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A virtual environment that holds the wheel alone and borrows this environment's other packages."""
    folder = tmp_path_factory.mktemp("wheel")
    output_of(
        sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder
    )
    (wheel,) = folder.glob("*.whl")
    environment = folder / "environment"
    output_of(sys.executable, "-m", "venv", "--without-pip", environment, cwd=folder)
    python = environment / "bin" / "python"
    output_of(
        sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel,
        cwd=folder,
    )  # fmt: skip
    # A .pth file does not read the .pth files of the folders that it adds, so an editable install stays out.
    borrowed = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "borrowed.pth").write_text("\n".join(borrowed))
    return environment


def test_the_wheel_runs_away_from_the_checkout(installed, tmp_path):
    script = installed / "bin" / "carbs-scaling"
    assert "search" in output_of(script, "--help", cwd=tmp_path)
    assert "\nbudget:\n" in output_of(script, "search", "--cfg", "job", cwd=tmp_path)
    code = "import carbs_scaling; print(carbs_scaling.__version__, carbs_scaling.__file__)"
    version, file = output_of(installed / "bin" / "python", "-c", code, cwd=tmp_path).split()
    assert version == carbs_scaling.__version__
    assert Path(file).is_relative_to(installed)
    assert list(tmp_path.iterdir()) == []


def test_the_wheel_holds_configuration_types_and_licence(installed):
    (package,) = installed.glob("lib/python*/site-packages/carbs_scaling")
    sources = {path.relative_to(ROOT) for path in (ROOT / "conf").rglob("*.yaml")}
    assert sources
    assert {path.relative_to(package) for path in (package / "conf").rglob("*.yaml")} == sources
    assert (package.parent / "hydra_plugins" / "carbs_scaling_sweeper" / "config.py").is_file()
    assert (package / "py.typed").is_file()
    assert len(list(package.parent.glob("carbs_scaling-*.dist-info/licenses/LICENSE"))) == 1


def test_importing_the_package_loads_nothing_heavy():
    code = f"import sys, carbs_scaling; print([name for name in {HEAVY} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_what_is_imported_is_declared_with_a_lower_bound():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {name: needs for name, needs in project["optional-dependencies"].items() if name != "test"}
    declared = [*project["dependencies"], *(need for needs in extras.values() for need in needs)]
    assert all(">=" in requirement for requirement in declared)
    named = {re.split("[^A-Za-z0-9_-]", requirement)[0].lower().replace("_", "-") for requirement in declared}
    named |= set(extras)  # MLflow's own name is that of a larger package
    imported = set()
    for path in (ROOT / "carbs_scaling").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    foreign = imported - set(sys.stdlib_module_names) - {"carbs_scaling"}
    distributions = packages_distributions()
    missing = [
        name
        for name in sorted(foreign)
        if not {found.lower().replace("_", "-") for found in distributions.get(name, [name])} & named
    ]
    assert not missing
