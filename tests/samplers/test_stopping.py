"""A stop rule ends hopeless runs alone, and a stopped run is a bound to the surrogate."""

from dataclasses import replace

import numpy as np
import pytest
from optuna.distributions import FloatDistribution, IntDistribution

from carbs_scaling.laws.recommend.predicted_curve import PARTS, SeenCurve
from carbs_scaling.ledger.history import History
from carbs_scaling.samplers.carbs import CarbsSampler
from carbs_scaling.samplers.stopping import front_level, stop_rule
from carbs_scaling.stop_rule import StopRule

DISTRIBUTIONS = {
    "params": IntDistribution(10**6, 10**8, log=True),
    "tokens": FloatDistribution(1e8, 1e10, log=True),
    "learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
}


def flops(point):
    return 6.0 * point["params"] * point["tokens"]


def loss(point, share=1.0):
    off = np.log(point["learning_rate"] / 2e-3)
    more = 0.5 * (share * point["tokens"] / 1e9) ** -0.3
    return 2 + 0.5 * (point["params"] / 1e7) ** -0.3 + more + 0.05 * off**2


def curve(point, rng, higher=0.0):
    """Training losses of a run: some percent above the end until the rate decays."""
    share = (np.arange(PARTS) + 0.5) / PARTS
    along = np.array([loss(point, part) for part in share]) * np.exp(0.02 + 0.004 * rng.normal(size=PARTS))
    end = loss(point)
    return SeenCurve(point["params"], point["tokens"], end, share, along * (1 + higher))


@pytest.fixture(scope="module")
def known():
    """A sampler, its history of runs near the valley, their curves, and the model."""
    own = CarbsSampler(DISTRIBUTIONS, flops, dict, budget_flops=3e19, seed=0, members=8)
    rng = np.random.default_rng(0)
    points = [
        {
            "params": int(10 ** rng.uniform(6.2, 7.8)),
            "tokens": float(10 ** rng.uniform(8.2, 9.8)),
            "learning_rate": float(2e-3 * np.exp(rng.normal(0, 0.4))),
        }
        for _ in range(24)
    ]
    history = History(points, [loss(p) for p in points], [flops(p) for p in points], [], [], 0.0, 0.0)
    return own, history, [curve(p, rng) for p in points], own.model_of(history, np.random.default_rng(1))


def test_good_runs_go_on_and_hopeless_ones_end(known):
    own, history, curves, model = known
    rng = np.random.default_rng(2)
    good = {"params": 2 * 10**7, "tokens": 3e9, "learning_rate": 2e-3}
    for point, higher, ends in (
        (good, 0.0, False),
        (good, 0.25, True),
        ({**good, "learning_rate": 1e-4}, 0.1, True),
    ):
        rule = stop_rule(own.space, history, model, curves, point, 0.01)
        seen = curve(point, rng, higher).loss
        stops = [rule.stops(part / PARTS, (part + 1) / PARTS, seen[part]) for part in range(PARTS - 1)]
        assert any(stops) == ends
        assert not any(stops[:3])
        assert rule.at_least == front_level(own.space, history, point)


def test_too_few_curves_and_a_point_cheaper_than_the_front_give_no_rule(known):
    own, history, curves, model = known
    point = {"params": 10**7, "tokens": 1e9, "learning_rate": 2e-3}
    assert stop_rule(own.space, history, model, curves[:7], point, 0.01) is None
    cheap = {"params": 10**6, "tokens": 1e8, "learning_rate": 2e-3}
    assert stop_rule(own.space, history, model, curves, cheap, 0.01) is None


def test_a_rule_looks_at_one_part_of_a_run_at_a_time():
    rule = StopRule((0.25, 0.5, 0.75), (float("inf"), 2.0, 1.0), 0.5)
    assert not rule.stops(0.0, 0.3, 9.0)
    assert rule.stops(0.3, 0.5, 2.1)
    assert not rule.stops(0.3, 0.5, 2.0)
    assert not rule.stops(0.3, 0.8, 9.0)  # over two parts
    assert not rule.stops(0.5, 0.6, 9.0)
    with pytest.raises(ValueError, match="increasing"):
        StopRule((0.5, 0.25), (1.0, 1.0), 0.5)


def test_a_bound_raises_what_was_predicted_below_it_and_tells_nothing_else(known):
    own, history, _, model = known
    point = {"params": 9 * 10**7, "tokens": 9e9, "learning_rate": 6e-3}
    rows = own.space.describe([point]).rows

    def mean(bound):
        stopped = replace(history, bounded=[(point, bound)])
        told = own.model_of(stopped, np.random.default_rng(1))
        return float(told.posterior(rows[:, None]).mean)

    before = float(model.posterior(rows[:, None]).mean)
    assert mean(before - 1) == before
    assert mean(before + 0.3) > before + 0.15
    assert mean(before) > before
