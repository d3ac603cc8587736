"""What thirty wrong commands print, and how a search looks on five terminals, held against files.

`CARBS_SCALING_WRITE_GOLDEN=1 pytest tests/test_golden.py` writes the files anew, for reading in a diff.
"""

import io
import os
import re
import shlex
import sys
from pathlib import Path

import pytest
from rich.console import Console

from carbs_scaling import cli
from carbs_scaling.report.live import SearchDisplay
from carbs_scaling.report.terminal import ERRORS, ready_streams
from tests.report.conftest import _make_record, _random_records

GOLDEN = Path(__file__).parent / "golden"
WRONG = """
serch
search budget.flops 1e12
search --budget.flops=1e12
search --budget.flops 1e12
search budget.flopz=1e12
search colour=red
search budget.flops=much
search budget.flops=-1
search budget.flops=inf
search budget.trials=0
search model=gpt3
search sampler=magic
search sampler.population_size=4
search executor=slurmm
search study.name=a/b
search study.seed=-1
search space.width=50
search space=null
search data=files data.paths=[nowhere.txt]
search 'data.paths=[a,' 'b]'
search first=[1]
search first=[{rate:1}]
search --verbose
front study.name=none
front format=xml
report study.name=none
dashboard port=70000
compare studies=[one]
compare 'studies=[none*,other]'
fit runs=none.csv
recommend law=none.json target.flops=1e18
train recipe=none.json
plan gpus=8 gpu=abacus hours=1
completion fish
"""
TERMINALS = {
    "120x40": {"width": 120, "height": 40, "force_terminal": True},
    "80x24": {"width": 80, "height": 24, "force_terminal": True},
    "60x20": {"width": 60, "height": 20, "force_terminal": True},
    "dumb": {"width": 80, "height": 24, "force_terminal": True, "_environ": {"TERM": "dumb"}},
    "piped": {"width": 80, "height": 24, "force_terminal": False},
}


def held_against(name, text):
    """The text is that of the file, or becomes it where files are written anew."""
    path = GOLDEN / name
    if os.environ.get("CARBS_SCALING_WRITE_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), f"{name}: see the docstring of this test"


def test_thirty_wrong_commands_say_one_line_each(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    told = []
    for command in WRONG.strip().splitlines():
        monkeypatch.setattr(sys, "argv", ["carbs-scaling", *shlex.split(command)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        assert said.out == ""
        line = re.sub(re.escape(str(tmp_path)), "FOLDER", said.err)
        line = re.sub(r"choose from \w+, .*", "choose from ...", line)  # what there is may grow
        assert line.count("\n") == 1, line
        assert line.startswith("carbs-scaling: error: ")
        told.append(f"$ carbs-scaling {command}\n{line}exit code {ended.value.code}\n")
    assert len(told) >= 30
    assert not (tmp_path / "studies").exists()
    held_against("wrong_commands.txt", "\n".join(told))


def shown(options):
    """A search with two running trials, as a terminal has it."""
    console = Console(file=io.StringIO(), **options)
    display = SearchDisplay("mine", 1e13, "nats/token", console, clock=lambda: 0.0)
    display.start(_random_records(30))
    for number, doing in ((100, "your point 1 of 1"), (101, "design run 5 of 8")):
        display.trial_started(_make_record(number, status=None, flops=1e11), doing)
        for fraction, loss in ((0.05, 9.1), (0.12, 5.2), (0.2, 3.4), (0.27, 2.9), (0.4, 2.3)):
            display.trial_progress(number, fraction, loss)
    display.trial_ended(_make_record(100, loss=1.9, flops=1e11))
    if display.plain:
        return console.file.getvalue()
    page = Console(file=io.StringIO(), width=options["width"], height=options["height"])
    page.print(display.render())
    return page.file.getvalue()


@pytest.mark.parametrize("terminal", TERMINALS)
def test_a_search_on_five_terminals(terminal):
    text = shown(TERMINALS[terminal])
    width, height = TERMINALS[terminal]["width"], TERMINALS[terminal]["height"]
    if terminal in ("120x40", "80x24", "60x20"):
        assert max(map(len, text.splitlines())) <= width
        assert len(text.splitlines()) < height
    ready_streams()  # knows the look-alikes
    assert "\\u" not in text.encode("ascii", ERRORS).decode()
    held_against(f"search_{terminal}.txt", "".join(f"{line.rstrip()}\n" for line in text.splitlines()))
