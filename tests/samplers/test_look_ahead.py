"""A run is worth more where it makes cheap what the front lacks, and no more where it makes nothing cheap."""

from dataclasses import replace

import pytest
import torch
from optuna.distributions import IntDistribution

from carbs_scaling.samplers.candidates import Limit
from carbs_scaling.samplers.carbs import CarbsSampler
from carbs_scaling.samplers.front_search import front_gain_per_flop
from carbs_scaling.samplers.look_ahead import continued_once
from carbs_scaling.space.projection import NOT_RUN_YET
from tests.samplers.test_prices import price
from tests.samplers.test_stopping import DISTRIBUTIONS, flops, known  # noqa: F401

POINT = {"params": 10**7, "tokens": 1e9, "learning_rate": 2e-3}


@pytest.fixture(scope="module")
def own():
    return CarbsSampler(DISTRIBUTIONS, flops, dict, budget_flops=3e19, seed=0, members=8, price=price)


def test_continuations_of_a_run_that_is_not_there_yet(own):
    pool = own.space.describe([POINT, {**POINT, "tokens": 1e10}])
    later, parents, prices = continued_once(pool, Limit(own.space, 1e19))
    assert parents.tolist() == [0, 0, 0]  # the longest run cannot go on
    assert min(run["tokens"] for run in later.points) > 1.01 * POINT["tokens"]
    assert all(run == {**POINT, "tokens": run["tokens"]} for run in later.points)
    assert prices == pytest.approx([price(run, {NOT_RUN_YET: POINT}) for run in later.points])
    # What is left must pay for both.
    less, _, left = continued_once(pool, Limit(own.space, flops(POINT) + prices[1] * 1.001))
    assert len(less) == 2
    assert left == pytest.approx(prices[:2])


def test_where_lengths_are_few_the_next_ones_are_the_continuations():
    few = {**DISTRIBUTIONS, "tokens": IntDistribution(1, 4)}
    sampler = CarbsSampler(
        few,
        lambda p: 6e9 * p["params"] * p["tokens"],
        dict,
        seed=0,
        budget_flops=3e19,
        price=lambda p, _: 1.0,
    )
    pool = sampler.space.describe([{**POINT, "tokens": 2}, {**POINT, "tokens": 4}])
    later, parents, _ = continued_once(pool, Limit(sampler.space, 1e19))
    assert [run["tokens"] for run in later.points] == [3, 4]
    assert parents.tolist() == [0, 0]


def test_scores_rise_by_what_a_run_makes_cheap(own, known):  # noqa: F811
    _, history, _, model = known
    search = own.front_search(history)
    state = search._state(history, history, own.space.describe(history.points), model)
    short, long = ({**POINT, "tokens": tokens} for tokens in (8e8, 1e10))
    pool = own.space.describe([short, long])
    X = pool.rows[:, None]
    alone = front_gain_per_flop(state, pool)(X)
    limited = replace(state, limit=Limit(own.space, 1e19))
    ahead = front_gain_per_flop(limited, pool)(X)
    assert ahead[0] > alone[0] + 0.05
    assert ahead[1] == pytest.approx(float(alone[1]))
    torch.testing.assert_close(front_gain_per_flop(limited, pool)(X[1:]), ahead[1:])
