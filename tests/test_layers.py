"""No module imports upwards, and no circle of imports: the contracts in `pyproject.toml`."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_imports_keep_to_the_layers():
    command = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_no_module_imports_private_names_of_another():
    private = [
        f"{path.relative_to(ROOT)}: {alias.name} of {node.module}"
        for path in (ROOT / "carbs_scaling").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("carbs_scaling")
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.startswith("__")
    ]
    assert not private


def test_no_module_makes_a_console_of_its_own():
    makers = [
        path.name
        for path in (ROOT / "carbs_scaling").rglob("*.py")
        if any(
            isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Console"
            for node in ast.walk(ast.parse(path.read_text()))
        )
    ]
    # `report.terminal` makes a subclass, which takes names and paths as they are, not as markup.
    assert not makers
