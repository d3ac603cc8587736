"""Baselines under the search's rules: what stands in where their own proposals cannot be paid."""

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from carbs_scaling.errors import BudgetSpent
from carbs_scaling.ledger.history import read_history
from carbs_scaling.ledger.trials import OUTCOME
from carbs_scaling.samplers.sampler import build_sampler, new_study
from carbs_scaling.space.encoding import Encoding
from carbs_scaling.space.projection import LegalSpace

optuna.logging.set_verbosity(optuna.logging.ERROR)
DISTRIBUTIONS = {
    "params": FloatDistribution(1e6, 1e8, log=True),
    "tokens": FloatDistribution(1e8, 1e10, log=True),
    "learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
}
BUDGET = 3e18


def flops(point):
    return 6.0 * point["params"] * point["tokens"]


def sampler_of(name):
    return build_sampler(name, LegalSpace(Encoding(DISTRIBUTIONS), flops, dict), BUDGET, 0)


@pytest.mark.parametrize("name", ["random", "grid", "nsga2"])
def test_a_search_spends_its_budget_and_a_benchmark_stops_at_what_cannot_be_paid(name):
    def spent(stands_in):
        sampler = sampler_of(name)
        sampler.stands_in = stands_in
        study = new_study(sampler)
        while sampler.remaining_flops(study) > 0.02 * BUDGET and sampler.affordable(study):
            try:
                trial = study.ask(DISTRIBUTIONS)
            except BudgetSpent:
                assert not stands_in
                break
            study.tell(trial, [2 + (trial.params["params"] / 1e7) ** -0.3, flops(trial.params)])
        return sum(trial.values[1] for trial in study.trials if trial.values)

    assert spent(stands_in=False) <= spent(stands_in=True) <= BUDGET
    assert spent(stands_in=True) >= 0.98 * BUDGET


def test_points_that_diverged_are_not_run_again():
    study = new_study(sampler_of("grid"))
    for _ in range(12):
        trial = study.ask(DISTRIBUTIONS)
        trial.set_user_attr("outcome", "diverged")
        trial.set_user_attr("flops", 1.0)
        study.tell(trial, state=TrialState.FAIL)
    points = [tuple(trial.params.values()) for trial in study.trials]
    assert len(set(points)) == len(points)


def test_a_point_that_was_stopped_is_not_run_again_when_the_grid_is_over():
    sampler = sampler_of("grid")
    study = new_study(sampler)
    stopped = set()
    for number in range(60):  # the grid has fewer points
        trial = study.ask(DISTRIBUTIONS)
        point = tuple(trial.params.values())
        assert point not in stopped
        if number % 2:
            stopped.add(point)
            trial.set_user_attr("outcome", "stopped")
            trial.set_user_attr(OUTCOME, {"at_least": 2.0})
            trial.set_user_attr("flops", 1.0)
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, [2.5, 1.0])
    assert len(read_history(study, sampler.space).bounded) == len(stopped) == 30
