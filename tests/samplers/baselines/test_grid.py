"""The grid of a careful person."""

from itertools import pairwise

import pytest
from optuna.distributions import FloatDistribution, IntDistribution

from carbs_scaling.samplers.baselines.grid import grid_points
from carbs_scaling.space.encoding import Encoding
from carbs_scaling.space.projection import LegalSpace


def test_it_sweeps_rates_and_batches_on_a_rising_ladder():
    distributions = {
        "params": FloatDistribution(1e6, 1e8, log=True),
        "tokens": FloatDistribution(1e8, 1e10, log=True),
        "learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
        "batch_tokens": FloatDistribution(1e4, 1e6, log=True),
    }

    def flops(point):
        return 6.0 * point["params"] * point["tokens"]

    points = grid_points(LegalSpace(Encoding(distributions), flops, dict), 3e18)
    # Eight runs at each cost: of cells as near to it as the space has.
    sweep = points[: len(points) // 2]
    costs = [flops(point) for point in sweep[::8]]
    assert costs == sorted(costs)
    assert 3 <= len(costs) <= 4
    assert len({point["learning_rate"] for point in sweep[:8]}) == 4
    assert len({point["batch_tokens"] for point in sweep[:8]}) == 2
    assert sum(flops(point) for point in sweep) == pytest.approx(3e18, rel=0.15)


def test_width_and_depth_grow_together():
    distributions = {
        "width": IntDistribution(16, 1024, log=True),
        "depth": IntDistribution(1, 64, log=True),
        "ratio": FloatDistribution(2, 200, log=True),
        "learning_rate": FloatDistribution(1e-5, 1, log=True),
        "batch_tokens": FloatDistribution(1e3, 1e7, log=True),
    }

    def params(point):
        return 12 * point["depth"] * point["width"] ** 2

    def roles(point):
        own = {name: point[name] for name in ("learning_rate", "batch_tokens")}
        return {"params": params(point), "tokens": params(point) * point["ratio"], **own}

    space = LegalSpace(Encoding(distributions), lambda p: 6 * params(p) ** 2 * p["ratio"], roles)
    sweep = grid_points(space, 1e17)[:32:8]
    aspects = [point["width"] / point["depth"] for point in sweep]
    assert max(aspects) / min(aspects) < 2.5  # the space has from 1/4 to 1024
    assert all(10 < point["ratio"] < 40 for point in sweep)


def test_it_can_be_paid_and_its_rates_stay_in_the_range():
    distributions = {
        "params": IntDistribution(1000, 1_000_000, log=True),
        "tokens": IntDistribution(10_000, 100_000_000, log=True),
        "learning_rate": FloatDistribution(1e-4, 2e-2, log=True),  # the law's rate for small models is above
        "batch_tokens": FloatDistribution(1e2, 1e6, log=True),
    }

    def flops(point):
        return 6.0 * point["params"] * point["tokens"]

    points = grid_points(LegalSpace(Encoding(distributions), flops, dict), 1e13)
    sweep = points[: len(points) // 2]
    assert sum(flops(point) for point in sweep) <= 1e13
    for first in range(0, len(sweep), 8):
        rates = sorted({point["learning_rate"] for point in sweep[first : first + 8]})
        assert [high / low for low, high in pairwise(rates)] == pytest.approx([2] * 3)
