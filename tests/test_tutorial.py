"""The tutorial, word for word with a smaller budget, and the notebook: both are run from top to bottom."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from carbs_scaling import cli

ROOT = Path(__file__).parent.parent
# One process, and no surrogate: what is tried is the page, not the search.
# Short runs of every size, so that there are enough of them for a law.
SHORTENED = [
    "executor=in_process",
    "sampler=random",
    "budget.max_trial_fraction=0.1",
    "space.tokens_per_parameter.low=2",
]
BUDGETS = {"study.name=first": "3e10", "study.name=mine": "1.5e10"}
OUT_OF_REACH = 3


def run(words, monkeypatch):
    """The exit code of one command in this process."""
    monkeypatch.setattr(sys, "argv", words)
    try:
        cli.main()
    except SystemExit as ended:
        return ended.code
    return 0


@pytest.mark.slow
def test_who_follows_the_tutorial_gets_what_it_shows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    page = (ROOT / "docs" / "tutorial.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL)
    commands = [shlex.split(line) for block in blocks for line in block.splitlines()]
    for words in commands:
        verb, words = words[1], [w.replace("target.tokens=5e5", "target.tokens=1.5e5") for w in words]
        if verb == "search":
            name = next(word for word in words if word in BUDGETS)
            again = any(word.startswith("budget.flops=") for word in words)
            budget = "4e10" if again else BUDGETS[name]
            words = [w for w in words if not w.startswith("budget.flops=")]
            words += [*SHORTENED, f"budget.flops={budget}"]
        code = run(words, monkeypatch)
        said = capsys.readouterr()
        assert code in ((0, OUT_OF_REACH) if verb == "recommend" else (0,)), f"{words}: {said.err}"
    study = tmp_path / "studies" / "first"
    for name in ("front.csv", "front.png", "front.html", "law.json", "law.png", "report.html"):
        assert (study / name).stat().st_size
    assert (tmp_path / "studies" / "compare-first-mine.png").exists()
    assert (tmp_path / "trained" / "tutorial" / "model.safetensors").exists()


def test_the_notebook_runs_and_its_interval_holds_the_truth(capsys):
    notebook = json.loads((ROOT / "examples" / "study_to_recommendation.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    values = {}
    for number, cell in enumerate(cells):
        exec(compile(cell, f"cell {number}", "exec"), values)
    assert values["low"] < values["truth"] < values["high"]
    assert "learning rate" in capsys.readouterr().out
