"""Searches whose trials go on from others: what is charged and recorded, and what a loss on disk does."""

import io
import shutil

import pytest
from rich.console import Console

from carbs_scaling.commands.search import build_task, load_search
from carbs_scaling.errors import ConfigError
from carbs_scaling.ledger.study import spent_flops, trial_seed
from carbs_scaling.report.live import SearchDisplay
from carbs_scaling.search import Search
from carbs_scaling.space.projection import NOT_RUN_YET
from carbs_scaling.task import TrialContext
from carbs_scaling.tasks.trunks import FOLDER
from carbs_scaling.trial import Completed, ParentLost, Status
from tests.conftest import counting_text

BUDGET_FLOPS = 1.2e9
TINY = (
    "executor=in_process",
    f"budget.flops={BUDGET_FLOPS}",
    "budget.max_trial_fraction=0.4",
    "budget.trial_overhead_flops=1e8",
    "budget.trials=7",
    *("trials=continued", "schedule=wsd", "schedule.decay_fraction=0.3", "schedule.warmup_steps=5"),
    *("space.width=16", "space.depth=1", "space.learning_rate=0.01", "space.batch_size=4"),
    "space.tokens_per_parameter={low: 0.5, high: 10, log: true}",
    *("model.sequence_length=32", "objective.validation_tokens=512"),
)


@pytest.fixture
def continued(tmp_path, composed):
    """A task and a search of seconds, in which all runs are of one recipe."""
    (tmp_path / "sums.txt").write_text(counting_text(3000))

    def build(name, *overrides):
        text = ("data=files", f"data.paths=[{tmp_path}/sums.txt]", "data.validation_fraction=0.2")
        place = (f"study.directory={tmp_path}/studies", f"study.name={name}")
        config, task_config = load_search(composed(*TINY, *text, *place, *overrides))
        task = build_task(config, task_config)
        display = SearchDisplay(name, config.budget.flops, console=Console(file=io.StringIO()))
        return task, Search(config, task, display)

    return build


def ledger(study):
    return [
        (r.number, r.point, r.flops, r.parent, r.inherited_flops, r.seed, r.loss if r.completed else r.status)
        for r in study.records()
    ]


class Interrupted(Exception):
    """Stands for the power cut."""


def test_the_budget_pays_for_what_was_trained_and_the_front_holds_whole_runs(
    continued, tmp_path, monkeypatch
):
    task, search = continued("whole")
    study = search.run()
    records = study.records()
    children = [record for record in records if record.parent is not None]
    assert len(children) >= 2
    by_number = {record.number: record for record in records}
    for record in records:
        assert record.flops == pytest.approx(task.flops(record.point))
        root = record
        while root.parent is not None:
            root = by_number[root.parent]
        assert record.seed == root.seed == trial_seed(0, root.number)
    assert all(0 < child.price_flops < child.flops for child in children)
    paid = sum(record.price_flops for record in records)
    assert spent_flops(records) == paid <= BUDGET_FLOPS
    assert sum(record.flops for record in records) > paid

    # A child is the run in one piece, and did pay for the steps after its parent's trunk alone.
    child = children[-1]
    whole = task.run(child.point, TrialContext(99, child.seed, "cpu", None, str(tmp_path / "aside")))
    assert isinstance(whole, Completed)
    assert whole.loss == child.loss
    step = task.trunks.there[child.parent].step
    assert child.price_flops == pytest.approx(child.flops * (1 - step / task.legal.steps(child.point)))

    # Cut at two moments, the study goes on as the unbroken one: a cut before the ledger was told, and a trunk
    # that was left by a trial which is still open.
    run_trial = type(task).run
    for moment in (2, 5):

        def cut(self, point, context, moment=moment):
            outcome = run_trial(self, point, context)
            if context.number == moment:
                raise Interrupted
            return outcome

        monkeypatch.setattr(type(task), "run", cut)
        with pytest.raises(Interrupted):
            continued("cut")[1].run()
    monkeypatch.setattr(type(task), "run", run_trial)
    assert ledger(continued("cut")[1].run()) == ledger(study)


def test_a_trial_whose_parent_is_gone_is_charged_in_full_or_not_run(continued, tmp_path, monkeypatch):
    task, search = continued("lost")
    run_trial = type(task).run
    seen = []

    def lose(self, point, context):
        if context.parent is not None and len(seen) < 2:
            seen.append(context.number)
            shutil.rmtree(tmp_path / "studies/lost" / FOLDER)
            outcome = run_trial(self, point, context)
            assert isinstance(outcome, ParentLost)
            return outcome
        return run_trial(self, point, context)

    monkeypatch.setattr(type(task), "run", lose)
    records = search.run().records()
    assert len(seen) == 2
    for number in seen:
        record = records[number]
        assert record.parent is None
        if record.status is Status.MACHINE:
            assert "does not pay" in record.outcome.message
            assert record.price_flops == 0
        else:
            assert record.price_flops == record.flops
            assert record.seed == trial_seed(0, number)
    assert spent_flops(records) <= BUDGET_FLOPS


def test_trunks_keep_to_the_disk_and_the_useful_ones_stay(continued, tmp_path):
    task, _ = continued("policy")
    point = task.project({"tokens_per_parameter": 2.0})
    for number in range(4):
        task.run(point, TrialContext(number, 1, "cpu", None, str(tmp_path)))
    folder = tmp_path / FOLDER
    task.trunks.look(folder, [2, 0, 1], [3], 1e9)
    size = task.trunks.there[0].bytes
    assert task.trunks.there.keys() == {0, 1, 2}
    longer = task.project({"tokens_per_parameter": 5.0})
    points = dict.fromkeys(range(4), point)
    assert task.parent(longer, points) == 0
    assert task.parent(point, points) is not None
    assert task.parent(task.project({"tokens_per_parameter": 1.0}), points) is None
    assert task.price(longer, points) < task.flops(longer) == task.price(longer, {})
    # A run that is not there yet counts as if it had left a trunk.
    assert task.price(longer, {NOT_RUN_YET: point}) == task.price(longer, points)
    task.trunks.look(folder, [2, 0, 1], [3], 2.5 * size)  # the running trial's, and the most useful one
    assert sorted(path.name for path in folder.iterdir()) == ["00002", "00003"]
    assert task.parent(longer, points) == 2
    next((folder / "00002").glob("*.json")).write_text("{")
    task.trunks.look(folder, [2], [], 1e9)
    assert not list(folder.iterdir())


def test_schedules_without_a_common_trunk_are_refused(continued):
    with pytest.raises(ConfigError, match="wsd"):
        continued("cosine", "schedule=cosine")
    with pytest.raises(ConfigError, match="warmup_fraction"):
        continued("warmup", "space.warmup_fraction={low: 0.01, high: 0.1, log: true}")
