"""The whole loop on a small text: the budget is kept, a broken search goes on as the unbroken one."""

import io
import random

import pytest
from rich.console import Console

from carbs_scaling.errors import CarbsScalingError, ConfigError, StudyError
from carbs_scaling.report.front import front_rows
from carbs_scaling.report.live import SearchDisplay
from carbs_scaling.search import Search
from carbs_scaling.study import Study, spent_flops
from carbs_scaling.training.outcome import Status, TrialOutcome

BUDGET_FLOPS = 1.5e9
TINY = (
    "executor=in_process",
    f"budget.flops={BUDGET_FLOPS}",
    "budget.max_trial_fraction=0.25",
    "budget.trial_overhead_flops=2e8",
    "space.width=16",
    "space.depth=1",
    "space.tokens_per_parameter={low: 0.5, high: 10, log: true}",
    "space.batch_size={low: 1, high: 8, log: true}",
    "model.sequence_length=32",
    "objective.validation_tokens=512",
)


@pytest.fixture
def tiny(tmp_path, search_config):
    """Configuration of a search that takes seconds, on a text of its own."""
    words = ["loss", "model", "token", "batch", "width", "depth", "scale", "law", "front", "search"]
    generator = random.Random(0)
    for index in range(60):
        (tmp_path / f"{index}.txt").write_text(" ".join(generator.choices(words, k=400)))

    def configure(name, *overrides):
        config = search_config(
            *TINY,
            "data=files",
            f"data.paths=[{tmp_path}/*.txt]",
            f"study.directory={tmp_path}/studies",
            f"study.name={name}",
            *overrides,
        )
        config.study.folder.mkdir(parents=True, exist_ok=True)
        return config

    return configure


def run(config):
    display = SearchDisplay(config.study.name, config.budget.flops, console=Console(file=io.StringIO()))
    return Search(config, display).run()


def ledger(study):
    return [(r.number, r.recipe, r.loss, r.flops, r.outcome.status) for r in study.records()]


class Interrupted(Exception):
    """Stands for the power cut."""


def test_the_budget_is_spent_and_never_exceeded(tiny):
    config = tiny("whole")
    study = run(config)
    records = study.records()
    assert 0.9 * BUDGET_FLOPS < spent_flops(records) <= BUDGET_FLOPS
    assert all(record.flops <= 0.25 * BUDGET_FLOPS for record in records)
    rows = front_rows(records)
    assert rows[-1]["loss_nats_per_token"] < rows[0]["loss_nats_per_token"]
    assert records[0].provenance["text_sha256"]
    assert records[0].provenance["flops_convention"] == "6N+head+attention"
    assert (config.study.folder / "curves" / "00000.jsonl").exists()


def test_a_broken_search_ends_as_the_unbroken_one(tiny, monkeypatch):
    whole = ledger(run(tiny("whole")))
    moments = iter([1, 1, 2, 2])
    closed = Study.tell

    def tell(self, number, outcome):
        """Dies before the write at one moment, after it at the next."""
        nonlocal left, after
        left -= 1
        if left < 0:
            if after:
                closed(self, number, outcome)
            left, after = next(moments, 10**6), not after
            raise Interrupted
        return closed(self, number, outcome)

    left, after = next(moments), False
    monkeypatch.setattr(Study, "tell", tell)
    breaks = 0
    while True:
        try:
            study = run(tiny("broken"))
            break
        except Interrupted:
            breaks += 1
    assert breaks == 4
    assert ledger(study) == whole


def test_a_finished_search_does_nothing_more_and_a_raised_budget_goes_on(tiny):
    first = ledger(run(tiny("again")))
    assert ledger(run(tiny("again"))) == first
    more = ledger(run(tiny("again", f"budget.flops={1.5 * BUDGET_FLOPS}")))
    assert more[: len(first)] == first
    assert len(more) > len(first)


def test_a_changed_space_or_text_is_refused(tiny, tmp_path):
    run(tiny("mine"))
    with pytest.raises(StudyError, match=r"space\.batch_size\.high: 8 -> 16"):
        run(tiny("mine", "space.batch_size.high=16"))
    (tmp_path / "new.txt").write_text("another text altogether " * 50)
    with pytest.raises(StudyError, match=r"data\.sha256"):
        run(tiny("mine"))


def test_three_machine_failures_in_a_row_stop_the_search_and_are_charged_nothing(tiny, monkeypatch):
    from carbs_scaling.executors import in_process

    lost = TrialOutcome(Status.MACHINE, 0, 0, 0.0, "cpu", message="its worker process died")
    monkeypatch.setattr(in_process, "train", lambda job: lost)
    config = tiny("lost")
    with pytest.raises(CarbsScalingError, match="3 trials in a row"):
        run(config)
    assert spent_flops(Study.load(config.study).records()) == 0


def test_a_text_too_short_is_refused_before_anything_is_trained(tiny):
    with pytest.raises(CarbsScalingError, match="too few"):
        run(tiny("short", "model.sequence_length=100000"))


def test_a_budget_below_the_cheapest_run_is_refused(tiny):
    with pytest.raises(ConfigError, match=r"budget\.flops"):
        run(tiny("poor", "budget.flops=1e6"))


def test_a_device_without_memory_stops_the_search_in_one_line(tiny, monkeypatch):
    from carbs_scaling.executors import in_process

    full = TrialOutcome(Status.OUT_OF_MEMORY, 1, 32, 0.0, "cpu", message="out of memory")
    monkeypatch.setattr(in_process, "train", lambda job: full)
    with pytest.raises(CarbsScalingError, match="micro_batch_tokens"):
        run(tiny("full"))


def test_a_fault_of_pytorch_is_the_machines_and_not_the_recipes(tiny, monkeypatch):
    from carbs_scaling.executors import in_process

    def train(job):
        raise RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED\nsecond line")

    monkeypatch.setattr(in_process, "train", train)
    with pytest.raises(CarbsScalingError, match="CUBLAS_STATUS_EXECUTION_FAILED") as error:
        run(tiny("fault"))
    assert "\n" not in str(error.value)


def test_open_trials_that_a_lowered_budget_cannot_pay_are_closed(tiny, monkeypatch):
    from carbs_scaling.executors import in_process

    def interrupted(job):
        raise Interrupted

    monkeypatch.setattr(in_process, "train", interrupted)
    with pytest.raises(Interrupted):
        run(tiny("lowered"))
    monkeypatch.undo()
    config = tiny("lowered")
    cost = Study.load(config.study).records()[0].flops
    cheapest = 2e7
    study = run(tiny("lowered", f"budget.flops={max(0.9 * cost, cheapest)}", "budget.max_trial_fraction=1"))
    assert study.records()[0].outcome.status is Status.MACHINE
    assert spent_flops(study.records()) <= study.budget_flops
