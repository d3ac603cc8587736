"""Feasibility: nothing broken means nothing feared; a cliff in the rate is found and carried over."""

import numpy as np

from carbs_scaling.surrogate.feasibility import Feasibility


def test_there_is_no_model_while_nothing_has_broken():
    assert Feasibility.fit(np.zeros((3, 2)), np.zeros(3), np.ones(3, dtype=bool)) is None


def test_a_cliff_above_the_best_rate_is_feared_at_other_sizes_too():
    rng = np.random.default_rng(0)
    cube, offset = rng.random((30, 3)) * [0.3, 1, 1], rng.uniform(-2, 3, 30)
    model = Feasibility.fit(cube, offset, offset < 1.5)
    elsewhere = np.tile([0.9, 0.5, 0.5], (2, 1))
    low, high = model.probability(elsewhere, np.array([0.0, 2.5]))
    assert low > 0.8
    assert high < 0.5


def test_far_from_everything_runs_are_taken_to_end():
    model = Feasibility.fit(np.array([[0.0, 0.0]]), np.array([2.0]), np.array([False]))
    near, far = model.probability(np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([2.0, -1.0]))
    assert near < 0.3
    assert far > 0.75
