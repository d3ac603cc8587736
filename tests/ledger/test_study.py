"""The ledger: one trial is charged once, what was open is found again, and a changed search is refused."""

import pytest

from carbs_scaling.config import ModelConfig, StudyConfig
from carbs_scaling.errors import StudyError
from carbs_scaling.ledger.study import Study, differences, sole_coordinator, spent_flops, trial_seed
from carbs_scaling.samplers.carbs import CarbsSampler
from carbs_scaling.tasks.language_model_space import Space
from carbs_scaling.trial import Status, TrialOutcome

IDENTITY = {
    "space": {"width": {"low": 16, "high": 64}},
    "budget": {"convention": "6N"},
    "objective": {"metric": "nats_per_token"},
}
SPACE = Space(
    {
        "width": {"low": 16, "high": 64, "log": True},
        "depth": {"low": 1, "high": 4},
        "learning_rate": {"low": 1e-3, "high": 0.1, "log": True},
        "batch_size": {"low": 2, "high": 32, "log": True},
        "tokens_per_parameter": {"low": 5, "high": 100, "log": True},
        "weight_decay": 0.1,
        "beta2": 0.95,
        "warmup_fraction": 0.1,
    },
    ModelConfig(architecture="gpt2", head_size=16, sequence_length=64),
    256,
    "6N",
)
BUDGET = 1e12


def config(tmp_path, name="s"):
    return StudyConfig(name=name, directory=str(tmp_path), storage=None, seed=0)


def begin(tmp_path, identity=IDENTITY, budget=BUDGET):
    (tmp_path / "s").mkdir(exist_ok=True)
    sampler = CarbsSampler(
        SPACE.distributions,
        flops=SPACE.flops,
        roles=SPACE.roles,
        project=SPACE.project,
        budget_flops=budget,
        seed=0,
    )
    return Study.begin(config(tmp_path), identity, budget, sampler)


def ended(record, status=Status.COMPLETED, share=1.0):
    steps = int(record.recipe.steps * share)
    done = status is Status.COMPLETED
    return TrialOutcome(
        status,
        steps=steps,
        tokens=steps * record.recipe.batch_tokens,
        seconds=1.0,
        device="cpu",
        loss=2.0 if done else None,
        bits_per_byte=2.9 if done else None,
    )


def test_a_trial_is_charged_for_the_tokens_that_it_saw(tmp_path):
    study = begin(tmp_path)
    whole, half = (study.ask(SPACE, 0, {}) for _ in range(2))
    study.tell(whole.number, ended(whole))
    study.tell(half.number, ended(half, Status.DIVERGED, share=0.5))
    records = study.records()
    assert records[0].flops == whole.flops == 6 * whole.recipe.params * whole.recipe.tokens
    assert (
        records[1].flops == 6 * half.recipe.params * int(half.recipe.steps * 0.5) * half.recipe.batch_tokens
    )
    assert spent_flops(records) == records[0].flops + records[1].flops
    assert records[1].loss is None
    assert study.optuna_study.trials[1].user_attrs["outcome"] == "diverged"


def test_an_open_trial_is_run_again_as_it_was(tmp_path):
    study = begin(tmp_path)
    first, second = (study.ask(SPACE, 0, {}) for _ in range(2))
    study.tell(first.number, ended(first))
    again = begin(tmp_path).unfinished(SPACE, 0, {})
    assert [record.number for record in again] == [second.number]
    assert again[0].recipe == second.recipe


def test_a_trial_killed_at_its_creation_is_proposed_again_under_its_number(tmp_path):
    unbroken = begin(tmp_path)
    records = [unbroken.ask(SPACE, 0, {}) for _ in range(1)]
    unbroken.tell(0, ended(records[0]))
    wanted = unbroken.ask(SPACE, 0, {}).recipe

    other = tmp_path / "other"
    other.mkdir()
    broken = begin(other)
    broken.tell(broken.ask(SPACE, 0, {}).number, ended(records[0]))
    storage = broken.optuna_study._storage
    storage.create_new_trial(broken.optuna_study._study_id)  # and then nothing more was written
    assert [record.number for record in broken.records()] == [0]
    again = begin(other).unfinished(SPACE, 0, {})
    assert [(record.number, record.recipe) for record in again] == [(1, wanted)]


def test_a_changed_search_is_refused_in_one_line_that_says_what_differs(tmp_path):
    begin(tmp_path)
    changed = {**IDENTITY, "space": {"width": {"low": 16, "high": 128}}}
    with pytest.raises(StudyError, match=r"space\.width\.high: 64 -> 128") as error:
        begin(tmp_path, identity=changed)
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
        pytest.raises(StudyError, match="another process"),
        sole_coordinator(config(tmp_path)),
    ):
        pass


def test_trial_seeds_differ_and_depend_on_both_numbers():
    seeds = {trial_seed(seed, number) for seed in range(10) for number in range(100)}
    assert len(seeds) == 1000
    assert trial_seed(3, 5) == trial_seed(3, 5)
