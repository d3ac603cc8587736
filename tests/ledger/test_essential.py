"""Which runs a proposal rests on, where there are many."""

import numpy as np
import pytest

from carbs_scaling.frontier import pareto_front
from carbs_scaling.ledger.history import History, essential


def history(count, repeats=0):
    rng = np.random.default_rng(0)
    points = [{"size": float(size)} for size in np.exp(rng.uniform(0, 10, count))]
    points += points[:repeats]
    flops = [6 * point["size"] for point in points]
    loss = [1 + point["size"] ** -0.3 + 0.5 * rng.random() for point in points]
    return History(points, loss, flops, [], [], spent_flops=1.0, committed_flops=0.0, begun=count)


def test_an_ordinary_study_is_as_it_was():
    runs = history(300)
    assert essential(runs, 300) is runs


def test_of_many_runs_the_front_and_an_even_spread_over_costs_stay():
    runs = history(5000)
    few = essential(runs, 400)
    assert len(few.points) == 400
    assert (few.spent_flops, few.begun) == (runs.spent_flops, runs.begun)
    kept = set(few.loss)
    assert all(runs.loss[i] in kept for i in pareto_front(runs.flops, runs.loss))
    deciles = np.quantile(np.log(runs.flops), np.linspace(0, 1, 11))
    assert np.histogram(np.log(few.flops), deciles)[0].min() >= 15  # half of them: 20 a decile
    # Those that are not on its front are nearer to it than most.
    assert np.median(few.loss) < np.median(runs.loss)


def test_all_runs_of_a_point_stay_together_and_its_luckiest_is_not_taken_for_it():
    runs = history(1000, repeats=1000)
    few = essential(runs, 100)
    sizes = [point["size"] for point in few.points]
    assert all(sizes.count(size) == 2 for size in sizes)
    assert len(sizes) == pytest.approx(200)
