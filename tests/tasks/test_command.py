"""A study of somebody's own program has all that a study of ours has."""

import json
import sys

import pytest

from carbs_scaling.commands import compare, fit, front, recommend
from carbs_scaling.commands.search import build_task, counted_in_trials, load_search
from carbs_scaling.config import StudyConfig
from carbs_scaling.errors import CarbsScalingError, ConfigError, StudyError
from carbs_scaling.ledger.curves import read_curve, run_curves
from carbs_scaling.ledger.study import Study, spent_flops
from carbs_scaling.trial import Status
from tests.own_program import written
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

    def run_search(name, *overrides):
        command = f"task.command={sys.executable} -I -S {script} {{width}} {{learning_rate}} {{tokens}}"
        given = written(command, *SETTINGS, f"study.directory={folder}", f"study.name={name}", *overrides)
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
            f"task.command={sys.executable} {folder}/no_such_file.py {{width}}",
            "budget.trials=20",
        )
    assert len(Study.load(StudyConfig("hopeless", str(folder), None, 0)).records()) == 6
