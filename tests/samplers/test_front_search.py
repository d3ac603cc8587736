"""Proposals go through the model and the acquisition functions, and through nothing beside them."""

import numpy as np
import optuna
import pytest
import torch
from botorch.models.deterministic import GenericDeterministicModel
from optuna.distributions import FloatDistribution, IntDistribution

from carbs_scaling.acquisition.front_gain import ExpectedFrontGain
from carbs_scaling.acquisition.lesson import LessonGain
from carbs_scaling.acquisition.price import LogGainPerCost, known_costs
from carbs_scaling.acquisition.target_information import TargetInformation, TargetModel
from carbs_scaling.samplers.carbs import CarbsSampler
from carbs_scaling.samplers.front_search import front_gain_per_flop
from carbs_scaling.samplers.sampler import new_study
from carbs_scaling.surrogate.feasibility import Feasibility
from carbs_scaling.surrogate.model import LawEnsembleModel

optuna.logging.set_verbosity(optuna.logging.ERROR)
DISTRIBUTIONS = {
    "params": IntDistribution(10**6, 10**8, log=True),
    "tokens": FloatDistribution(1e8, 1e10, log=True),
    "learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
}


def flops(point):
    return 6.0 * point["params"] * point["tokens"]


def loss(point):
    off = np.log(point["learning_rate"] / (2e-3 * (point["params"] / 1e7) ** -0.4))
    return 2 + 0.5 * (point["params"] / 1e7) ** -0.3 + 0.5 * (point["tokens"] / 1e9) ** -0.3 + 0.05 * off**2


def begun(**options):
    """A study past its design, with a trial that failed and one that runs."""
    own = CarbsSampler(DISTRIBUTIONS, flops, dict, budget_flops=3e18, seed=0, members=8, **options)
    study = new_study(own)
    for number in range(9):
        trial = study.ask(DISTRIBUTIONS)
        if number == 3:
            trial.set_user_attr("outcome", "diverged")
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, [loss(trial.params), flops(trial.params)])
    study.ask(DISTRIBUTIONS)
    return study


PARTS = [
    (LawEnsembleModel, "posterior", {}),
    (LawEnsembleModel, "condition_on_observations", {}),
    (ExpectedFrontGain, "forward", {}),
    (LessonGain, "forward", {}),
    (LogGainPerCost, "forward", {}),
    (GenericDeterministicModel, "forward", {}),
    (Feasibility, "posterior", {}),
    (TargetModel, "posterior", {"target": (1e9, 2e10)}),
    (TargetInformation, "forward", {"target": (1e9, 2e10)}),
    (LogGainPerCost, "forward", {"target": (1e9, 2e10)}),
]


@pytest.mark.parametrize(("part", "method", "options"), PARTS)
def test_a_part_that_breaks_breaks_the_search(part, method, options, monkeypatch):
    study = begun(**options)

    def broken(*_, **__):
        raise ArithmeticError(f"{part.__name__}.{method}")

    monkeypatch.setattr(part, method, broken)
    with pytest.raises(ArithmeticError, match=method):
        study.ask(DISTRIBUTIONS)


def test_the_run_is_the_one_that_the_acquisition_scores_highest(monkeypatch):
    """Another acquisition chooses another run: here the smallest model, and then the largest."""
    for sign, expected in ((-1.0, 10**6), (1.0, 10**8)):
        study = begun()

        def by_size(self, X, sign=sign):
            return sign * X[..., 0, 0]

        with monkeypatch.context() as patch:
            patch.setattr(LogGainPerCost, "forward", by_size)
            found = study.ask(DISTRIBUTIONS).params["params"]
        assert abs(np.log(found / expected)) < 0.1


def test_scores_are_gains_per_flop_of_the_candidates():
    study = begun()
    own = study.sampler
    history = own.read(study)
    model = own.model_of(history, np.random.default_rng(0))
    search = own.front_search(history)
    state = search._state(history, history, own.space.describe(history.points), model)
    pool = own.space.candidates(np.random.default_rng(1).random((40, 3)))
    X = pool.rows[:, None]
    scores = front_gain_per_flop(state, pool)(X)
    costs = known_costs(pool.rows, torch.from_numpy(pool.flops))
    gain = ExpectedFrontGain(state.model, state.front, costs)(X) * state.feasibility.probability(X)[:, 0]
    price = torch.from_numpy(pool.flops) + search.overhead_flops
    torch.testing.assert_close(scores, gain.clamp_min(1e-300).log() - price.log())
