"""The command line as a person uses it: exit codes, and exactly one line for each thing that can be wrong."""

import subprocess
import sys

import pytest


def carbs_scaling(*arguments, cwd):
    """Runs the console script's module in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "carbs_scaling.cli", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_help_is_quick_to_import_and_names_the_verbs(tmp_path):
    result = carbs_scaling("--help", cwd=tmp_path)
    assert result.returncode == 0
    assert "search" in result.stdout
    assert "front" in result.stdout
    heavy = "import sys, carbs_scaling.cli; print([m for m in ('torch', 'optuna') if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_cfg_job_prints_the_configuration(tmp_path):
    result = carbs_scaling("search", "+experiment=smoke", "budget.flops=1e9", "--cfg", "job", cwd=tmp_path)
    assert result.returncode == 0
    assert "flops: 1000000000.0" in result.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serch"], "did you mean search?"),
        (["search", "budget.flopz=1"], "did you mean budget.flops?"),
        (["search", "model=gpt3"], "gpt2, llama"),
        (["search", "budget.flops=much"], "budget.flops"),
        (["search", "budget.flops=1e6"], "costs"),
        (["search", "space.width=50"], "multiple of model.head_size=16"),
        (["search", "data=files", "data.paths=[nowhere.txt]"], "nowhere.txt"),
        (["search", "data=files", "data.paths=[empty.txt]"], "empty"),
        (["search", "study.name=a/b"], "study.name"),
        (["search", "study.directory=file/below"], "file/below"),
        (["front", "study.name=none"], "no study"),
        (["front", "format=xml"], "table, csv, json, parquet"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_each_mistake_is_one_line_and_a_non_zero_exit(tmp_path, arguments, said):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "file").write_text("not a folder")
    result = carbs_scaling(*arguments, cwd=tmp_path)
    assert result.returncode != 0
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("carbs-scaling: error: ")
    assert said in lines[0]
    assert "Traceback" not in result.stdout + result.stderr


def test_a_corrupt_ledger_is_one_line_and_stays_as_it_is(tmp_path):
    ledger = tmp_path / "studies" / "default" / "study.db"
    ledger.parent.mkdir(parents=True)
    ledger.write_bytes(b"garbage" * 1000)
    for verb in ("search", "front"):
        result = carbs_scaling(verb, cwd=tmp_path)
        assert result.returncode == 1
        assert result.stderr.count("\n") == 1
        assert "study.db" in result.stderr
    assert ledger.read_bytes() == b"garbage" * 1000
