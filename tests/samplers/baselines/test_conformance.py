"""Every sampler, ours and the baselines, under one contract: legal, affordable, reproducible points."""

import numpy as np
import optuna
import pytest
from carbs_scaling.samplers.baselines.build import BASELINES, build_baseline
from optuna.distributions import FloatDistribution

from carbs_scaling.errors import BudgetSpent
from carbs_scaling.samplers.baselines.grid import grid_points
from carbs_scaling.samplers.carbs import CarbsSampler, new_study
from carbs_scaling.space.encoding import Encoding
from carbs_scaling.space.projection import LegalSpace

optuna.logging.set_verbosity(optuna.logging.ERROR)
DISTRIBUTIONS = {
    "params": FloatDistribution(1e6, 1e8, log=True),
    "tokens": FloatDistribution(1e8, 1e10, log=True),
    "learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
    "batch_tokens": FloatDistribution(1e4, 1e6, log=True),
}
LADDER = np.geomspace(1e6, 1e8, 9)
BUDGET = 3e18


def flops(point):
    return 6.0 * point["params"] * point["tokens"]


def project(point):
    return {**point, "params": float(LADDER[np.argmin(np.abs(np.log(LADDER / point["params"])))])}


def loss(point):
    off = np.log(point["learning_rate"] / (2e-3 * (point["params"] / 1e7) ** -0.4))
    return 2 + 0.5 * (point["params"] / 1e7) ** -0.3 + 0.5 * (point["tokens"] / 1e9) ** -0.3 + 0.05 * off**2


def build(name, seed=0):
    if name == "ours":
        return CarbsSampler(DISTRIBUTIONS, flops, dict, project, budget_flops=BUDGET, seed=seed)
    space = LegalSpace(Encoding(DISTRIBUTIONS), flops, dict, project)
    options = {"nsga2": {"population_size": 4}, "qlognehvi": {"startup_trials": 6}}.get(name, {})
    return build_baseline(name, space, BUDGET, seed, until_spent=False, **options)


def run(name, count, seed=0):
    sampler = build(name, seed)
    study = new_study(sampler)
    while len(study.trials) < count and sampler.affordable(study):
        try:
            trial = study.ask(DISTRIBUTIONS)
        except BudgetSpent:
            break
        study.tell(trial, [loss(trial.params), flops(trial.params)])
    return [trial for trial in study.trials if trial.values]


@pytest.mark.parametrize("name", ["ours", *BASELINES])
def test_points_are_legal_and_the_budget_holds(name):
    trials = run(name, 8 if name in ("qlognehvi", "optuna_gp") else 14)
    assert len(trials) >= 5
    assert sum(trial.values[1] for trial in trials) <= BUDGET
    for trial in trials:
        assert trial.params == project(trial.params)
        assert set(trial.params) == set(DISTRIBUTIONS)


@pytest.mark.parametrize("name", ["ours", "random", "sobol", "tpe", "nsga2", "grid", "imbue_carbs"])
def test_the_same_seed_gives_the_same_points(name):
    first, second = run(name, 9), run(name, 9)
    assert [trial.params for trial in first] == [trial.params for trial in second]


def test_the_grid_sweeps_rates_and_batches_on_a_rising_ladder():
    points = grid_points(LegalSpace(Encoding(DISTRIBUTIONS), flops, dict, project), BUDGET)
    costs = [flops(point) for point in points[:12]]
    assert costs == sorted(costs)
    assert len({point["learning_rate"] for point in points[:6]}) >= 3
    assert sum(flops(point) for point in points[: len(points) // 2]) < 2 * BUDGET
