"""The whole loop on a small text: the budget is kept, a broken search goes on as the unbroken one."""

import io
import random
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from optuna.trial import create_trial
from rich.console import Console

from carbs_scaling.commands.search import build_task, load_search
from carbs_scaling.compute.memory import training_memory_bytes
from carbs_scaling.errors import CarbsScalingError, ConfigError, StudyError
from carbs_scaling.executors.memory import gpu_share_bytes
from carbs_scaling.laws.recommend.predicted_curve import PARTS, SeenCurve
from carbs_scaling.ledger.identity import study_identity
from carbs_scaling.ledger.study import Study, spent_flops
from carbs_scaling.report.front import front_rows
from carbs_scaling.report.live import SearchDisplay
from carbs_scaling.samplers.baselines.grid import grid_points
from carbs_scaling.samplers.carbs import CarbsSampler
from carbs_scaling.samplers.sampler import new_study
from carbs_scaling.search import Search, build_sampler, build_stopper
from carbs_scaling.stop_rule import StopRule
from carbs_scaling.tasks import trained_model
from carbs_scaling.trial import MachineFailure, OutOfMemory, Status

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
def tiny(tmp_path, composed):
    """Configuration of a search that takes seconds, on a text of its own."""
    words = ["loss", "model", "token", "batch", "width", "depth", "scale", "law", "front", "search"]
    generator = random.Random(0)
    for index in range(60):
        (tmp_path / f"{index}.txt").write_text(" ".join(generator.choices(words, k=400)))

    def configure(name, *overrides):
        return load_search(
            composed(
                *TINY,
                "data=files",
                f"data.paths=[{tmp_path}/*.txt]",
                f"study.directory={tmp_path}/studies",
                f"study.name={name}",
                *overrides,
            )
        )

    return configure


def run(loaded):
    config, task_config = loaded
    task = build_task(config, task_config)
    display = SearchDisplay(config.study.name, config.budget.flops, console=Console(file=io.StringIO()))
    return Search(config, task, display).run()


def ledger(study):
    return [
        (r.number, r.point, r.details, r.flops, r.status, r.loss if r.completed else None)
        for r in study.records()
    ]


class Interrupted(Exception):
    """Stands for the power cut."""


def test_the_budget_is_spent_and_never_exceeded(tiny):
    config = tiny("whole")
    study = run(config)
    records = study.records()
    assert 0.9 * BUDGET_FLOPS < spent_flops(records) <= BUDGET_FLOPS
    assert all(record.flops <= 0.25 * BUDGET_FLOPS for record in records)
    rows = front_rows(records)
    assert min(row["flops"] for row in rows) < 0.1 * BUDGET_FLOPS
    assert records[0].provenance["text_sha256"]
    assert records[0].provenance["flops_convention"] == "6N+head+attention"
    assert (config[0].study.folder / "curves" / "00000.jsonl").exists()


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
    lost = MachineFailure(message="its worker process died")
    monkeypatch.setattr(trained_model, "train", lambda job: lost)
    config = tiny("lost")
    with pytest.raises(CarbsScalingError, match="3 trials in a row"):
        run(config)
    assert spent_flops(Study.load(config[0].study).records()) == 0


def test_a_lost_trial_is_charged_for_what_its_curve_says_was_done(tiny, monkeypatch):
    def lost(job):
        with open(job.curve_path, "w") as file:  # noqa: PTH123
            file.write('{"progress": 0.25, "seconds": 3.0}\n{"progress": 0.5, "seconds": 6.0}\n')
        return MachineFailure(message="its worker process died")

    monkeypatch.setattr(trained_model, "train", lost)
    config = tiny("charged")
    with pytest.raises(CarbsScalingError, match="3 trials in a row"):
        run(config)
    for record in Study.load(config[0].study).records():
        assert record.flops == 0.5 * record.details["flops_6N+head+attention"]
        assert record.outcome.seconds == 6.0


def test_a_text_too_short_is_refused_before_anything_is_trained(tiny):
    with pytest.raises(CarbsScalingError, match="too few"):
        run(tiny("short", "model.sequence_length=100000"))


def test_a_budget_below_the_cheapest_run_is_refused(tiny):
    with pytest.raises(ConfigError, match=r"budget\.flops"):
        run(tiny("poor", "budget.flops=1e6"))


def test_a_limit_on_memory_keeps_large_runs_from_being_proposed(search_config, pretraining):
    def most_needed(*overrides, trials=16):
        task = pretraining("executor.device=cpu", *overrides)
        study = new_study(build_sampler(search_config("executor.device=cpu", *overrides), task))
        needed = []
        for _ in range(trials):
            trial = study.ask(task.space)
            recipe = task.legal.recipe(trial.params, seed=0)
            needed.append(training_memory_bytes(recipe.shape, recipe.batch_size, "adamw"))
            loss = 2 + 50 * recipe.params**-0.3 + 50 * recipe.tokens**-0.3
            study.tell(trial, [loss, task.flops(trial.params)])
        return max(needed)

    limit_bytes = 12_000_000
    assert most_needed(f"executor.memory_bytes={limit_bytes}") <= limit_bytes < most_needed()


@pytest.mark.parametrize("sampler", ["carbs", "grid", "random"])
def test_nothing_costs_less_or_more_than_the_budget_says(search_config, pretraining, sampler):
    limits = ("budget.flops=1e12", "budget.min_trial_fraction=0.005", "budget.max_trial_fraction=0.05")
    task = pretraining(*limits)
    built = build_sampler(search_config(*limits, f"sampler={sampler}"), task)
    study, costs = new_study(built), []
    for _ in range(10):
        trial = study.ask(task.space)
        costs.append(task.flops(trial.params))
        study.tell(trial, [2 + costs[-1] ** -0.1, costs[-1]])
    assert 5e9 <= min(costs) < 2e10
    assert max(costs) <= 5e10


def test_accumulating_batches_lets_them_fit(pretraining):
    def limit(*overrides):
        overrides = ("executor.memory_bytes=300_000_000", "executor.device=cpu", *overrides)
        return pretraining(*overrides, vocabulary_size=50_257).memory

    largest = {
        "width": 128,
        "depth": 6,
        "learning_rate": 1e-2,
        "batch_size": 64,
        "tokens_per_parameter": 50.0,
    }
    whole, pieces = limit(), limit("training.micro_batch_tokens=512")
    assert not whole(largest)
    assert pieces(largest)
    assert pieces.needed_bytes(largest) == pieces.needed_bytes({**largest, "batch_size": 8})


def test_a_limit_on_memory_that_no_run_keeps_to_is_one_line_with_what_the_smallest_needs(pretraining):
    with pytest.raises(ConfigError, match=r"needs [\d,]+ bytes .* over the 1,000 .*memory_bytes") as error:
        pretraining("executor.memory_bytes=1000")
    assert "\n" not in str(error.value)
    smallest = int(re.search(r"needs ([\d,]+) bytes", str(error.value))[1].replace(",", ""))
    assert pretraining(f"executor.memory_bytes={smallest}").memory.limit_bytes == smallest
    with pytest.raises(ConfigError):
        pretraining(f"executor.memory_bytes={smallest - 1}")


def test_without_a_limit_the_gpu_sets_it_and_workers_share_it(search_config, monkeypatch):
    cards = [SimpleNamespace(total_memory=80 * 10**9), SimpleNamespace(total_memory=24 * 10**9)]
    assert gpu_share_bytes(search_config("executor.device=cpu").executor) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: cards[index])
    assert gpu_share_bytes(search_config("executor.device=cpu").executor) is None
    assert gpu_share_bytes(search_config().executor) == 21.6e9
    assert gpu_share_bytes(search_config("executor.workers=3").executor) == 10.8e9
    assert gpu_share_bytes(search_config("executor=in_process").executor) == 72e9


def test_how_a_device_is_used_may_change_while_a_study_lives_and_what_is_trained_may_not(pretraining):
    before = study_identity(pretraining(), 0)
    for same in (
        "executor.memory_bytes=1e9",
        "training.micro_batch_tokens=512",
        "schedule.decay_fraction=0.5",
    ):
        assert study_identity(pretraining(same), 0) == before
    for other in ("model=llama", "optimizer=sgd", "schedule=wsd", "objective=bits_per_byte", "space.depth=1"):
        assert study_identity(pretraining(other), 0) != before


def test_a_device_without_memory_stops_the_search_in_one_line(tiny, monkeypatch):
    full = OutOfMemory(progress=0.1, message="out of memory")
    monkeypatch.setattr(trained_model, "train", lambda job: full)
    with pytest.raises(CarbsScalingError, match=r"executor\.memory_bytes"):
        run(tiny("full"))


def test_a_fault_of_pytorch_is_the_machines_and_not_the_recipes(tiny, monkeypatch):
    def train(job):
        raise RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED\nsecond line")

    monkeypatch.setattr(trained_model, "train", train)
    with pytest.raises(CarbsScalingError, match="CUBLAS_STATUS_EXECUTION_FAILED") as error:
        run(tiny("fault", "training.compile=true"))
    assert "\n" not in str(error.value)
    assert "try training.compile=false" in str(error.value)


def test_open_trials_that_a_lowered_budget_cannot_pay_are_closed(tiny, monkeypatch):
    def interrupted(job):
        raise Interrupted

    monkeypatch.setattr(trained_model, "train", interrupted)
    with pytest.raises(Interrupted):
        run(tiny("lowered"))
    monkeypatch.undo()
    config = tiny("lowered")
    cost = Study.load(config[0].study).records()[0].flops
    cheapest = 2e7
    study = run(tiny("lowered", f"budget.flops={max(0.9 * cost, cheapest)}", "budget.max_trial_fraction=1"))
    assert study.records()[0].status is Status.MACHINE
    assert spent_flops(study.records()) <= study.budget_flops


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sampler.name=magic", "carbs, grid, imbue_carbs"),
        ("+sampler.magic=1", "which has target, startup_trials"),
        ("+sampler.members=many", "sampler.members"),
        ("+sampler.candidates=0", "sampler.candidates=0 must be a whole number, at least 8"),
        ("+sampler.startup_fraction=0", "must be a finite number, above 0"),
        ("+sampler.learning=nan", "sampler.learning=nan must be"),
        ("sampler.target=[1e8]", "such as"),
        ("sampler.target=large", "such as"),
        ("sampler.target=[1e8,-1]", "such as"),
    ],
)
def test_a_sampler_that_there_is_not_is_one_line(search_config, pretraining, override, said):
    with pytest.raises(ConfigError) as error:
        build_sampler(search_config(override), pretraining())
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_options_reach_the_sampler(search_config, pretraining):
    def built(*overrides):
        return build_sampler(search_config(*overrides), pretraining())

    assert built().target is None
    assert built("sampler.target=[1e8,2e9]").target == (1e8, 2e9)
    assert built("+sampler.learning=0").options.learning == 0
    assert built("budget.trial_overhead_flops=5").options.overhead_flops == 5


def test_a_baseline_spends_the_budget_and_its_trials_say_whose_they_are(tiny):
    records = run(tiny("grid", "sampler=grid")).records()
    assert 0.9 * BUDGET_FLOPS < spent_flops(records) <= BUDGET_FLOPS
    assert {record.provenance["sampler"] for record in records} == {"grid"}


def test_beside_a_baseline_our_model_says_when_a_trial_is_hopeless(tiny, monkeypatch):
    asked = []

    def hopeless(sampler, study, number, point, curves, probability):
        asked.append((number, len(curves), probability))
        return StopRule((0.5,), (0.0,), 1.0) if number % 2 else None

    monkeypatch.setattr(CarbsSampler, "stop_rule", hopeless)
    plain = run(tiny("plain", "sampler=random", "budget.trials=4")).records()
    assert not asked
    ruled = run(tiny("ruled", "sampler=random", "budget.trials=4", "trials.stopping=law")).records()
    assert [record.status for record in ruled] == [Status.COMPLETED, Status.STOPPED] * 2
    assert {record.provenance["sampler"] for record in ruled} == {"random stopping=law"}
    assert [record.point for record in ruled] == [record.point for record in plain]
    assert [known for _, known, _ in asked] == [0, 1, 1, 2]  # curves of those that ended whole


def test_a_real_rule_stands_beside_a_baseline(tiny):
    config, task = tiny_parts(tiny, "grid", "sampler=grid", "trials.stopping=law")
    sampler = build_sampler(config, task)
    stopper = build_stopper(config, task, sampler)
    assert isinstance(stopper, CarbsSampler)
    study, curves, rng = new_study(sampler), [], np.random.default_rng(0)
    share = (np.arange(PARTS) + 0.5) / PARTS
    *known, last = grid_points(sampler.space, config.budget.flops)[:16]
    for point in known:
        roles = sampler.space.roles(point)
        end = 2 + roles["tokens"] ** -0.3
        loss = end * (1.5 - 0.5 * share + rng.normal(0, 0.01, PARTS))
        curves.append(SeenCurve(roles["params"], roles["tokens"], end, share, loss))
        values = [end, sampler.space.cost(point)]
        distributions = sampler.space.encoding.distributions
        study.add_trial(create_trial(params=point, distributions=distributions, values=values))
    rule = stopper.stop_rule(study, len(known), last, curves, 0.01)
    assert rule is not None
    assert np.isfinite(rule.losses[5:]).all()
    ours = build_sampler(*tiny_parts(tiny, "ours", "trials.stopping=law"))
    assert build_stopper(config, task, ours) is ours
    assert build_stopper(tiny("none")[0], task, sampler) is None


def tiny_parts(tiny, *overrides):
    config, task_config = tiny(*overrides)
    return config, build_task(config, task_config)


@pytest.mark.parametrize(
    ("overrides", "stops", "said"),
    [
        (
            ("sampler.target=[1e6,1e7]",),
            True,
            "sampler.target buys runs for what they teach: leave one of them out",
        ),
        ((), False, "trials of task=pretraining are not: leave it out"),
    ],
)
def test_stopping_is_refused_where_it_means_nothing(overrides, stops, said, tiny, monkeypatch):
    config, task = tiny_parts(tiny, "refused", "trials.stopping=law", *overrides)
    monkeypatch.setattr(task, "stops", stops)
    lawless = SimpleNamespace(space=SimpleNamespace(has_role=(False,) * 4))
    for sampler in (build_sampler(config, task), lawless):
        with pytest.raises(ConfigError, match=re.escape(said)):
            build_stopper(config, task, sampler)


def test_a_search_for_the_lowest_loss_is_not_taken_for_one_of_the_front(tiny):
    records = run(tiny("best", "sampler.goal=best", "budget.trials=2")).records()
    assert {record.provenance["sampler"] for record in records} == {"carbs goal=best"}


@pytest.mark.cuda
@pytest.mark.slow
def test_workers_that_share_a_gpu_search_it(tiny):
    config = tiny("gpu", "executor=processes", "executor.device=cuda", "executor.workers=2")
    records = run(config).records()
    assert len(records) > 3
    assert {r.status for r in records} == {Status.COMPLETED}
    assert {r.outcome.device for r in records} == {torch.cuda.get_device_name(0)}
