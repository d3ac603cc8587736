"""However a program ends, it ends as the guide says, and nothing that it started is left."""

import signal
import subprocess
import sys
import time

import pytest

from carbs_scaling.commands.search import build_task, load_search
from carbs_scaling.task import TrialContext
from carbs_scaling.tasks.programs.process import KeptOutput
from carbs_scaling.trial import Completed, Diverged, OutOfMemory
from tests.own_program import BEHAVIOURS, DAEMON, gone, written

METRIC = "task.metric.pattern=step (?P<step>\\d+) loss (?P<loss>\\S+)"


@pytest.fixture
def command(composed, tmp_path):
    """A task that runs a program of some Python text."""

    def build(program: str, *overrides: str, arguments: str = ""):
        file = tmp_path / "program.py"
        file.write_text(program)
        text = f"task.command={sys.executable} -I -S {file} {arguments}"
        space = "space.x={low: 0, high: 1}"
        return build_task(*load_search(composed("task=command", *written(text, METRIC, space, *overrides))))

    return build


@pytest.mark.parametrize(
    ("behaviour", "overrides", "kind", "said"),
    [
        ("hangs", ["task.time_limit_seconds=1"], Diverged, "longer than task.time_limit_seconds=1"),
        ("hangs", ["task.silence_limit_seconds=1"], RuntimeError, "printed nothing"),
        ("crashes", [], Diverged, "exit code 1: ValueError: no such width"),
        ("crashes", ["task.failure.out_of_memory_codes=[1]"], OutOfMemory, "exit code 1"),
        ("is killed", [], RuntimeError, "killed by signal 9"),
        ("prints no metric", [], Diverged, "without a metric"),
        ("prints no metric", ["task.failure.diverged=[all .* well]"], Diverged, "its output says so"),
        ("prints NaN", [], Diverged, "NaN"),
        ("has no memory", [], OutOfMemory, "MemoryError"),
        ("floods", [], Completed, ""),
        ("prints one long line", [], Completed, ""),
    ],
)
def test_each_ending_is_what_the_guide_says(command, tmp_path, behaviour, overrides, kind, said):
    task = command(BEHAVIOURS[behaviour], "task.output_bytes=10000", *overrides)
    context = TrialContext(number=3, seed=7, study_folder=str(tmp_path / "study"))
    if kind is RuntimeError:
        with pytest.raises(RuntimeError, match=said):
            task.run({"x": 0.5}, context)
    else:
        outcome = task.run({"x": 0.5}, context)
        assert type(outcome) is kind
        assert said in outcome.message
        if kind is Completed:
            assert outcome.loss == 2.5
    kept = (tmp_path / "study" / "trials" / "00003" / "output.log").read_bytes()
    assert len(kept) < 10_100
    if behaviour in ("floods", "prints one long line"):
        assert b"bytes left out" in kept
        assert b"step 9 loss 2.5" in kept


def test_what_an_earlier_attempt_printed_stays(tmp_path):
    for text in (b"first\n", b"second\n"):
        with KeptOutput(tmp_path / "output.log", 100) as output:
            output.write(text)
    assert (tmp_path / "output.log").read_bytes() == b"first\nsecond\n"


def test_a_child_that_left_its_parent_and_group_ends_with_the_trial(command, tmp_path):
    """It would hold a GPU; and it holds the output open, for which nobody must wait."""
    pid = tmp_path / "pid"
    task = command(f"{DAEMON}\nprint('step 1 loss 0.5')", arguments=str(pid))
    assert task.run({"x": 0.5}, TrialContext(0, 0)).loss == 0.5
    assert gone(int(pid.read_text()))


WORKER = """
import signal, sys
if sys.argv[1] == "stopped":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    del sys.argv[1]
from carbs_scaling.tasks.programs.process import KeptOutput, run_program
from pathlib import Path
nothing = lambda *_: ""
with KeptOutput(Path(sys.argv[1]), 100) as output:
    run_program(sys.argv[2:], folder=None, environment={}, output=output, on_line=nothing, on_turn=nothing)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not hand orphans to a supervisor")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_everything_ends_with_a_killed_worker(tmp_path, number):
    program, pid = tmp_path / "program.py", tmp_path / "pid"
    program.write_text(f"{DAEMON}\ntime.sleep(1000)")
    arguments = [tmp_path / "output.log", sys.executable, "-I", "-S", program, pid]
    worker = subprocess.Popen([sys.executable, "-c", WORKER, *map(str, arguments)])
    deadline = time.monotonic() + 60
    while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    worker.send_signal(number)
    worker.wait()
    assert gone(int(pid.read_text()))


SAVES = """
import signal, sys, time
def save(*_):
    print("saved", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
open(sys.argv[1], "w").write("1")
time.sleep(1000)
"""


def test_a_program_may_save_its_work_when_the_search_stops(tmp_path):
    program, ready, kept = tmp_path / "program.py", tmp_path / "ready", tmp_path / "output.log"
    program.write_text(SAVES)
    arguments = ["stopped", kept, sys.executable, "-I", "-S", program, ready]
    worker = subprocess.Popen([sys.executable, "-c", WORKER, *map(str, arguments)], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not ready.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    worker.terminate()
    assert b"KeyboardInterrupt" in worker.communicate()[1]
    assert kept.read_text() == "saved\n"
