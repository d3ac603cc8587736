"""The ledger: one trial is charged once, what was open is found again, and a changed search is refused."""

from dataclasses import replace

import pytest

from carbs_scaling.config import StudyConfig
from carbs_scaling.errors import StudyError, WrongStudy
from carbs_scaling.ledger.identity import differences
from carbs_scaling.ledger.lease import sole_coordinator
from carbs_scaling.ledger.refusals import LEDGER_FORMAT, check_identity
from carbs_scaling.ledger.study import Study, spent_flops, trial_seed
from carbs_scaling.samplers.carbs import CarbsSampler
from carbs_scaling.trial import Completed, Diverged, MachineFailure
from tests.toy_task import ToyTask

TASK = ToyTask()
BUDGET = 1e7


def config(tmp_path, name="s"):
    return StudyConfig(name=name, directory=str(tmp_path), storage=None, seed=0)


def begin(tmp_path, task=TASK, budget=BUDGET):
    (tmp_path / "s").mkdir(exist_ok=True)
    sampler = CarbsSampler(task.space, task.flops, task.roles, task.project, budget_flops=budget, seed=0)
    return Study.begin(config(tmp_path), task, budget, sampler)


def test_a_trial_is_charged_for_what_was_done_of_it(tmp_path):
    study = begin(tmp_path)
    whole, half, lost = (study.ask(TASK, {"sampler": "x"}) for _ in range(3))
    study.tell(whole.number, Completed(loss=2.0))
    study.tell(half.number, Diverged(progress=0.5))
    study.tell(lost.number, MachineFailure(message="why"))
    records = study.records()
    assert records[0].flops == whole.flops == TASK.flops(whole.point)
    assert records[1].flops == half.flops / 2
    assert spent_flops(records) == records[0].flops + records[1].flops
    assert [record.completed for record in records] == [True, False, False]
    with pytest.raises(ValueError, match="trial 1 has no loss: it is diverged"):
        _ = records[1].loss
    assert study.optuna_study.trials[1].user_attrs["outcome"] == "diverged"


def test_a_record_says_what_the_task_says_of_the_point(tmp_path):
    study = begin(tmp_path)
    asked = study.ask(TASK, {"sampler": "x"})
    assert (asked.roles, asked.details) == (TASK.roles(asked.point), TASK.details(asked.point))
    assert asked.running
    (record,) = Study.load(config(tmp_path)).records()
    assert record == asked
    assert record.provenance["sampler"] == "x"
    assert record.values["reach"] == record.point["samples"] * record.point["step_length"]
    study.tell(0, Completed(loss=2.0, metrics={"height": 3.0}))
    assert Study.load(config(tmp_path)).records() == [
        replace(asked, outcome=Completed(loss=2.0, metrics={"height": 3.0}))
    ]


def test_records_come_in_the_order_in_which_trials_ended(tmp_path):
    study = begin(tmp_path)
    for _ in range(3):
        study.ask(TASK, {})
    for number in (2, 0):
        study.tell(number, Completed(loss=2.0))
    assert [record.number for record in study.records_as_ended()] == [2, 0]


def test_a_trial_that_a_dashboard_closed_costs_nothing(tmp_path):
    import optuna

    study = begin(tmp_path)
    study.ask(TASK, {})
    study.optuna_study.tell(0, state=optuna.trial.TrialState.FAIL)
    (record,) = study.records()
    assert record.outcome == MachineFailure(message="closed from outside")
    assert record.flops == 0


def test_a_ledger_of_another_format_is_refused_in_one_line(tmp_path):
    study = begin(tmp_path)
    study.ask(TASK, {})
    study.optuna_study.set_user_attr("ledger_format", LEDGER_FORMAT - 1)
    for use in (lambda: begin(tmp_path), lambda: Study.load(config(tmp_path))):
        with pytest.raises(StudyError, match=f"ledger format {LEDGER_FORMAT - 1}") as error:
            use()
        assert "\n" not in str(error.value)


def test_an_open_trial_is_run_again_as_it_was(tmp_path):
    study = begin(tmp_path)
    first, second = (study.ask(TASK, {}) for _ in range(2))
    study.tell(first.number, Completed(loss=2.0))
    assert begin(tmp_path).unfinished(TASK, {}) == [second]


def test_a_trial_killed_at_its_creation_is_proposed_again_under_its_number(tmp_path):
    unbroken = begin(tmp_path)
    unbroken.tell(unbroken.ask(TASK, {}).number, Completed(loss=2.0))
    wanted = unbroken.ask(TASK, {})

    other = tmp_path / "other"
    other.mkdir()
    broken = begin(other)
    broken.tell(broken.ask(TASK, {}).number, Completed(loss=2.0))
    storage = broken.optuna_study._storage
    storage.create_new_trial(broken.optuna_study._study_id)  # and then nothing more was written
    assert [record.number for record in broken.records()] == [0]
    assert begin(other).unfinished(TASK, {}) == [wanted]


def test_a_changed_search_is_refused_in_one_line_that_says_what_differs(tmp_path, monkeypatch):
    begin(tmp_path)
    begin(tmp_path).ask(TASK, {})  # the identity is written with the first trial
    monkeypatch.setattr(ToyTask, "identity", lambda self: {"parabola": {"width": 3}})
    with pytest.raises(StudyError, match=r"parabola\.width: 2 -> 3") as error:
        begin(tmp_path)
    assert "\n" not in str(error.value)


def test_the_budget_may_be_raised(tmp_path):
    begin(tmp_path)
    assert begin(tmp_path, budget=2 * BUDGET).budget_flops == 2 * BUDGET


def test_differences_name_what_is_new_and_what_is_gone():
    assert differences({"a": 1, "b": {"c": 2}}, {"b": {"c": 3}, "d": 4}) == [
        "a: 1 -> (not there)",
        "b.c: 2 -> 3",
        "d: (not there) -> 4",
    ]


def test_a_missing_study_names_those_that_exist(tmp_path):
    begin(tmp_path)
    with pytest.raises(StudyError, match="there are s"):
        Study.load(config(tmp_path, "other"))


@pytest.mark.parametrize("content", [b"not a database at all, but long enough to look" * 50, b"x"])
def test_a_corrupt_ledger_is_refused_and_left_as_it_is(tmp_path, content):
    (tmp_path / "s").mkdir()
    file = tmp_path / "s" / "study.db"
    file.write_bytes(content)
    for use in (lambda: begin(tmp_path), lambda: Study.load(config(tmp_path))):
        with pytest.raises(StudyError) as error:
            use()
        assert "\n" not in str(error.value)
    assert file.read_bytes() == content


def test_a_study_of_somebody_else_is_not_touched(tmp_path):
    import optuna

    (tmp_path / "s").mkdir()
    url = f"sqlite:///{tmp_path / 's' / 'study.db'}"
    foreign = optuna.create_study(study_name="s", storage=url, directions=["minimize", "minimize"])
    foreign.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
    with pytest.raises(StudyError, match="not made by"):
        begin(tmp_path)


def test_two_searches_of_one_study_are_refused(tmp_path):
    with (
        sole_coordinator(config(tmp_path)),
        pytest.raises(StudyError, match="is being searched by process"),
        sole_coordinator(config(tmp_path)),
    ):
        pass


def test_trial_seeds_differ_and_depend_on_both_numbers():
    seeds = {trial_seed(seed, number) for seed in range(10) for number in range(100)}
    assert len(seeds) == 1000
    assert trial_seed(3, 5) == trial_seed(3, 5)


def test_a_study_from_before_fine_tuning_had_rates_of_its_own_goes_on(tmp_path):
    config = StudyConfig("mine", str(tmp_path), None, 0)
    rates = {"optimizer": "adamw", "finetuned_width": 384, "adapters": True}
    check_identity(config, {"rates": {"optimizer": "adamw"}}, {"rates": rates})
    with pytest.raises(WrongStudy, match="finetuned_width"):
        check_identity(config, {"rates": rates}, {"rates": {**rates, "finetuned_width": 768}})
