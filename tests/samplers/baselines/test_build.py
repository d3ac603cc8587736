"""Baselines by name: proposals that a crash does not change, a budget that is spent, and clear refusals."""

import optuna
import pytest
from carbs_scaling.samplers.baselines.build import BASELINES, build_baseline, start_point
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState

from carbs_scaling.errors import BudgetSpent, ConfigError
from carbs_scaling.samplers.carbs import new_study
from carbs_scaling.space.encoding import Encoding
from carbs_scaling.space.projection import LegalSpace

optuna.logging.set_verbosity(optuna.logging.ERROR)
DISTRIBUTIONS = {
    "params": IntDistribution(10**6, 10**8, log=True),
    "tokens": FloatDistribution(1e8, 1e10, log=True),
    "learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
    "batch_tokens": FloatDistribution(1e4, 1e6, log=True),
}
BUDGET = 3e18


def flops(point):
    return 6.0 * point["params"] * point["tokens"]


def space(allowed=None):
    return LegalSpace(Encoding(DISTRIBUTIONS), flops, dict, None, allowed)


def loss(point):
    return 2 + (point["params"] / 1e7) ** -0.3 + (point["tokens"] / 1e9) ** -0.3


def finish(study, trial):
    """Every fifth trial diverges, at a third of its cost."""
    if trial.number % 5 == 4:
        trial.set_user_attr("outcome", "diverged")
        trial.set_user_attr("flops", flops(trial.params) / 3)
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, [loss(trial.params), flops(trial.params)])


def ledger(name, count, broken):
    """The points of a study; `broken`: each by a new sampler, after another was killed while it proposed."""
    study = new_study(build_baseline(name, space(), 10 * BUDGET, seed=3))
    for _ in range(count):
        if broken:
            study.sampler = build_baseline(name, space(), 10 * BUDGET, seed=3)
        trial = study.ask(DISTRIBUTIONS)
        if broken:  # what a restarted search does with a trial that has no recipe yet
            study.sampler = build_baseline(name, space(), 10 * BUDGET, seed=3)
            trial = optuna.trial.Trial(study, trial._trial_id)
            for parameter, distribution in DISTRIBUTIONS.items():
                trial._suggest(parameter, distribution)
        finish(study, trial)
    return [trial.params for trial in study.trials]


@pytest.mark.parametrize("name", ["random", "sobol", "grid", "imbue_carbs", "tpe", "nsga2"])
def test_a_broken_study_ends_with_the_points_of_the_unbroken_one(name):
    count = 25 if name == "nsga2" else 14  # past a population of 20, and past the startup of TPE
    assert ledger(name, count, broken=True) == ledger(name, count, broken=False)


@pytest.mark.parametrize("name", ["optuna_gp", "qlognehvi"])
def test_those_that_fit_a_model_are_seeded_by_the_trial_too(name):
    studies = [new_study(build_baseline("random", space(), BUDGET, seed=3)) for _ in range(2)]
    for study in studies:
        for _ in range(14):  # past both startups of 10
            finish(study, study.ask(DISTRIBUTIONS))
        # A budget without end: asked again for what it cannot pay, it would fit its model each time.
        study.sampler = build_baseline(name, space(), 1e30, seed=3)
    first, second = (study.ask(DISTRIBUTIONS).params for study in studies)
    assert first == second


@pytest.mark.parametrize("name", ["random", "sobol"])
def test_another_seed_gives_other_points(name):
    first, second = (new_study(build_baseline(name, space(), BUDGET, seed)) for seed in (0, 1))
    assert first.ask(DISTRIBUTIONS).params != second.ask(DISTRIBUTIONS).params


def test_sobol_points_fill_the_space_evenly():
    study = new_study(build_baseline("sobol", space(), 1e30, seed=0))
    encoding = Encoding(DISTRIBUTIONS)
    for _ in range(16):
        finish(study, study.ask(DISTRIBUTIONS))
    for knob in range(len(DISTRIBUTIONS)):
        positions = [encoding.position(trial.params)[knob] for trial in study.trials]
        # Sixteen points of a Sobol sequence: one in each sixteenth of every dimension.
        assert sorted(int(16 * u) for u in positions) == list(range(16))


@pytest.mark.parametrize("name", ["random", "grid", "nsga2"])
def test_a_search_spends_its_budget_and_a_benchmark_stops_at_what_cannot_be_paid(name):
    def spent(until_spent):
        sampler = build_baseline(name, space(), BUDGET, seed=0, until_spent=until_spent)
        study = new_study(sampler)
        while sampler.remaining_flops(study) > 0.02 * BUDGET and sampler.affordable(study):
            try:
                trial = study.ask(DISTRIBUTIONS)
            except BudgetSpent:
                assert not until_spent
                break
            study.tell(trial, [loss(trial.params), flops(trial.params)])
        return sum(trial.values[1] for trial in study.trials if trial.values)

    assert spent(until_spent=False) <= spent(until_spent=True) <= BUDGET
    assert spent(until_spent=True) >= 0.98 * BUDGET


@pytest.mark.parametrize("name", ["random", "sobol", "grid", "imbue_carbs", "tpe", "nsga2"])
def test_what_the_caller_refuses_is_never_proposed(name):
    study = new_study(build_baseline(name, space(lambda point: point["batch_tokens"] < 1e5), BUDGET, 0))
    for _ in range(14):
        finish(study, study.ask(DISTRIBUTIONS))
    assert max(trial.params["batch_tokens"] for trial in study.trials) < 1e5


def test_points_that_diverged_are_not_run_again():
    study = new_study(build_baseline("grid", space(), BUDGET, 0))
    for _ in range(12):
        trial = study.ask(DISTRIBUTIONS)
        trial.set_user_attr("outcome", "diverged")
        trial.set_user_attr("flops", 1.0)
        study.tell(trial, state=TrialState.FAIL)
    points = [tuple(trial.params.values()) for trial in study.trials]
    assert len(set(points)) == len(points)


def test_the_start_is_the_middle_but_for_what_is_named():
    start = start_point(space(), {"learning_rate": "2e-3"})
    assert start["learning_rate"] == 2e-3
    assert start["tokens"] == pytest.approx(1e9)
    assert start["params"] == 10**7


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("annealing", {}, ", ".join(BASELINES)),
        ("random", {"start": {}}, "sampler.start is not an option of random, which has none"),
        ("imbue_carbs", {"begin": {}}, "which has start"),
        ("imbue_carbs", {"start": [1]}, "values by name"),
        ("imbue_carbs", {"start": {"rate": 1}}, "sampler.start.rate is not searched; there are params"),
        ("imbue_carbs", {"start": {"tokens": "many"}}, "sampler.start.tokens='many' is not a number"),
        ("imbue_carbs", {"start": {"tokens": 1}}, "sampler.start.tokens=1.0 is outside"),
        ("nsga2", {"population_size": 1}, "at least 2"),
        ("nsga2", {"population_size": 2.5}, "whole number"),
        ("qlognehvi", {"startup_trials": True}, "not a number"),
    ],
)
def test_each_mistake_is_one_line(name, options, said):
    with pytest.raises(ConfigError) as error:
        build_baseline(name, space(), BUDGET, 0, **options)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
