"""The front and its area against brute force."""

import numpy as np
import pytest

from carbs_scaling.frontier import hypervolume, pareto_front


def brute_force_front(flops, loss):
    front = []
    for i in range(len(flops)):
        if not (np.isfinite(flops[i]) and np.isfinite(loss[i])):
            continue
        beaten = any(
            flops[j] <= flops[i]
            and loss[j] <= loss[i]
            and (flops[j] < flops[i] or loss[j] < loss[i] or j < i)
            for j in range(len(flops))
        )
        if not beaten:
            front.append(i)
    return sorted(front, key=lambda i: flops[i])


@pytest.mark.parametrize("seed", range(40))
def test_the_front_is_what_nothing_beats_also_with_ties_and_missing_losses(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 25))
    flops = 10.0 ** rng.integers(1, 6, size=count)
    loss = rng.integers(0, 6, size=count).astype(float)
    loss[rng.random(count) < 0.1] = np.nan
    assert pareto_front(flops, loss).tolist() == brute_force_front(flops, loss)


def test_along_the_front_costs_rise_and_losses_fall():
    rng = np.random.default_rng(0)
    flops, loss = rng.random(200) + 1, rng.random(200)
    front = pareto_front(flops, loss)
    assert (np.diff(flops[front]) > 0).all()
    assert (np.diff(loss[front]) < 0).all()


def test_costs_and_losses_must_match():
    with pytest.raises(ValueError, match="2 costs for 3 losses"):
        pareto_front([1, 2], [1, 2, 3])


@pytest.mark.parametrize("seed", range(10))
def test_the_area_agrees_with_counting_points(seed):
    rng = np.random.default_rng(seed)
    flops, loss = 10 ** rng.uniform(0, 4, 12), rng.uniform(0, 3, 12)
    samples = rng.uniform([0, 0], [3.5, 2.5], size=(40_000, 2))
    dominated = ((np.log10(flops) <= samples[:, :1]) & (loss <= samples[:, 1:])).any(axis=1).mean()
    assert hypervolume(flops, loss, (3.5, 2.5)) == pytest.approx(dominated * 3.5 * 2.5, abs=0.12)


def test_the_area_of_nothing_and_of_what_lies_beyond_the_corner_is_zero():
    assert hypervolume([], [], (1.0, 1.0)) == 0.0
    assert hypervolume([1e3, 1.0], [0.1, 2.0], (2.0, 1.0)) == 0.0
    assert hypervolume([10.0], [0.25], (2.0, 1.0)) == pytest.approx(0.75)
