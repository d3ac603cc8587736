"""A study of somebody's own program has all that a study of ours has."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from carbs_scaling.commands import compare, fit, front, recommend
from carbs_scaling.commands.search import build_task, counted_in_trials, load_search
from carbs_scaling.config import StudyConfig
from carbs_scaling.errors import CarbsScalingError, ConfigError, StudyError
from carbs_scaling.ledger.curves import read_curve, run_curves
from carbs_scaling.ledger.study import Study, spent_flops
from carbs_scaling.trial import Status
from tests.own_program import BEHAVIOURS, DAEMON, gone, written
from tests.toy_task import ledger, search

# As nanoGPT's: options with values, a line of losses now and then.
SCRIPT = """
import math, sys
width, rate, tokens = map(float, sys.argv[1:4])
if rate > 0.3:
    raise ValueError("the loss exploded")
loss = 1.7 + 3 * (12 * width ** 2) ** -.3 + 40 * tokens ** -.4 + .05 * math.log(rate / .01) ** 2
for step in range(0, 101, 20):
    print(f"step {step}: train loss {loss + 1 - step / 100:.4f}, val loss {loss + 1.1 - step / 100:.4f}")
"""
SETTINGS = [
    *("task=command", "executor=in_process", "sampler=random", "executor.device=cpu"),
    r"task.metric.pattern=step (?P<step>\d+): train loss (?P<train_loss>\S+), val loss (?P<loss>\S+)",
    *("task.roles.params=12 * width ** 2", "task.roles.batch_tokens=tokens / 100"),
    "space.width={low: 16, high: 128, log: true, multiple_of: 16}",
    "space.learning_rate={low: 1e-3, high: 1, log: true}",
    "space.tokens={low: 1e4, high: 1e6, log: true}",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("own")


@pytest.fixture
def run(composed, folder):
    """Runs a search of the script, with some overrides."""
    script = folder / "train.py"
    script.write_text(SCRIPT)

    def run_search(name, *overrides, executor="in_process"):
        settings = [text.replace("in_process", executor) for text in SETTINGS]
        command = f"task.command={sys.executable} -I -S {script} {{width}} {{learning_rate}} {{tokens}}"
        given = written(command, *settings, f"study.directory={folder}", f"study.name={name}", *overrides)
        config, task_config = load_search(composed(*given))
        task = build_task(config, task_config)
        return search(counted_in_trials(config, task), task)

    return run_search


def test_a_study_goes_on_and_its_failures_curves_and_folders_are_kept(run, folder):
    first = run("study", "budget.flops=3e12", "budget.trials=5")
    assert len(first.records()) == 5
    study = run("study", "budget.flops=3e12", "budget.trials=12")
    unbroken = run("unbroken", "budget.flops=3e12", "budget.trials=12")
    assert ledger(study) == ledger(unbroken)
    records = study.records()
    assert {record.status for record in records} == {Status.COMPLETED, Status.DIVERGED}
    assert 0 < spent_flops(records) <= 3e12
    broken = next(record for record in records if record.status is Status.DIVERGED)
    assert broken.outcome.message == "exit code 1: ValueError: the loss exploded"
    assert broken.flops == 0
    good = next(record for record in records if record.completed)
    points = read_curve(folder / "study" / "curves" / f"{good.number:05d}.jsonl")
    assert [point["step"] for point in points] == [0, 20, 40, 60, 80, 100]
    assert points[-1]["progress"] == 1.0
    assert points[-1]["validation_loss"] == good.loss
    assert len(run_curves(records, folder / "study" / "curves")) == sum(r.completed for r in records)
    assert "val loss" in (folder / "study" / "trials" / f"{good.number:05d}" / "output.log").read_text()


def test_front_fit_recommend_and_compare(run, folder, composed, capsys):
    run("study", "budget.flops=3e12", "budget.trials=12")
    named = (f"study.directory={folder}", "study.name=study")
    front.run(composed(*named, "plots=false", verb="front"))
    fit.run(composed(*named, "plots=false", verb="fit"))
    compare.run(composed(named[0], "studies=[study,unbroken]", "plots=false", verb="compare"))
    said = capsys.readouterr().out
    assert "width" in said
    target = ("target.params=3e5", "target.tokens=2e6", "format=json")
    recommend.run(composed(*named, *target, verb="recommend"))
    assert 1e-3 < json.loads(capsys.readouterr().out)["learning_rate"] < 1e-1
    with pytest.raises(ConfigError, match="task=command"):
        recommend.run(composed(*named, *target[:2], "format=recipe", verb="recommend"))


def test_another_command_is_refused(run):
    with pytest.raises(StudyError, match="metric"):
        run("study", "task.metric.goal=maximize")
    with pytest.raises(StudyError, match=r"program\.environment"):
        run("study", "task.environment.X=1")
    run("study", "budget.flops=3e12", "budget.trials=12", "task.time_limit_seconds=99")


def test_only_folders_of_the_front_are_kept_where_that_is_asked_for(run, folder):
    study = run("kept", "budget.flops=3e12", "budget.trials=6", "task.keep=front")
    kept = {int(path.name) for path in (folder / "kept" / "trials").iterdir()}
    completed = [record for record in study.records() if record.completed]
    best = min(completed, key=lambda record: record.loss)
    assert best.number in kept
    assert len(kept) < 6


def test_trials_are_the_budget_where_nothing_says_what_a_run_costs(run):
    without = ["task.roles.params=null", "budget.trials=5"]
    study = run("counted", *without)
    assert {record.flops for record in study.records() if record.completed} == {1.0}
    assert study.convention == "trials"
    assert len(study.records()) == 5
    with pytest.raises(ConfigError, match=r"set budget\.trials"):
        run("uncounted", *without[:1])


def test_a_program_that_cannot_run_at_all_stops_the_search(run, folder):
    with pytest.raises(CarbsScalingError, match=r"the first 6 trials all failed alike .*no_such_file"):
        run(
            "hopeless",
            f"task.command={sys.executable} {folder}/no_such_file_{{width}}.py",
            "budget.trials=20",
        )
    assert len(Study.load(StudyConfig("hopeless", str(folder), None, 0)).records()) == 6


def test_the_search_goes_on_whatever_a_program_does(run, folder):
    """One trial each, by its number: what it does, and how it ends."""
    completes = "print('step 9 loss 2.5')"
    told = [
        (completes, Status.COMPLETED),
        (BEHAVIOURS["hangs"], Status.DIVERGED),
        (BEHAVIOURS["prints NaN"], Status.DIVERGED),
        (BEHAVIOURS["floods"], Status.COMPLETED),
        (BEHAVIOURS["is killed"], Status.MACHINE),
        (f"{DAEMON}\n{completes}", Status.COMPLETED),
        (completes, Status.COMPLETED),
    ]
    script, pid = folder / "odd.py", folder / "pid"
    script.write_text(f"import sys\nexec({[text for text, _ in told]!r}[int(sys.argv[1])])")
    study = run(
        "odd",
        f"task.command={sys.executable} -I -S {script} {{trial}} {pid}",
        r"task.metric.pattern=step (?P<step>\d+) loss (?P<loss>\S+)",
        *("task.time_limit_seconds=2", "task.output_bytes=10000", f"budget.trials={len(told)}"),
        *("budget.flops=1e13", "executor.retries=0"),
    )
    assert [record.status for record in study.records()] == [status for _, status in told]
    assert gone(int(pid.read_text()))
    assert all(path.stat().st_size < 10_100 for path in (folder / "odd" / "trials").glob("*/output.log"))


# From the third trial on it waits for a file to appear.
WAITS = """
import os, time
with open(f"{sys.argv[4]}/pid", "w") as file:
    file.write(str(os.getpid()))
while int(sys.argv[5]) > 1 and not os.path.exists(sys.argv[6]):
    time.sleep(0.01)
"""


def test_a_search_with_two_workers_that_is_killed_goes_on(run, folder):
    script, file, trials = folder / "waits.py", folder / "file", folder / "killed" / "trials"
    script.write_text(f"import sys\n{WAITS}{SCRIPT}")
    values = f"{{width}} {{learning_rate}} {{tokens}} {{folder}} {{trial}} {file}"
    own = [
        f"task.command={sys.executable} -I -S {script} {values}",
        *("budget.flops=3e12", "budget.trials=6", "executor.workers=2"),
    ]
    settings = [text.replace("in_process", "processes") for text in SETTINGS]
    command = [*settings, *own, f"study.directory={folder}", "study.name=killed"]
    search = subprocess.Popen(
        [sys.executable, "-m", "carbs_scaling.cli", "search", *command], cwd=Path(__file__).parents[2]
    )
    deadline = time.monotonic() + 240
    waiting = [trials / f"{number:05d}" / "pid" for number in (2, 3)]
    while not all(pid.exists() and pid.read_text() for pid in waiting) and time.monotonic() < deadline:
        assert search.poll() is None
        time.sleep(0.05)
    search.kill()
    search.wait()
    assert all(gone(int(pid.read_text())) for pid in waiting)
    place = StudyConfig("killed", str(folder), None, 0)
    before = Study.load(place).records()
    assert [record.running for record in before] == [False, False, True, True]
    file.touch()
    after = run("killed", *own, executor="processes").records()
    assert [(r.number, r.point, r.seed) for r in after[:4]] == [(r.number, r.point, r.seed) for r in before]
    assert after[:2] == before[:2]
    assert len(after) == 6
    assert not any(record.running for record in after)
    assert 0 < spent_flops(after) <= 3e12
