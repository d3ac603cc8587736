"""What held-out sizes say of a law: a drift that is real counts, one run that went wrong does not."""

import numpy as np
import pytest

from carbs_scaling.laws.fit.hold_out import _drift

BEYOND = np.full(5, 1.0)


def test_a_miss_of_all_cells_beyond_what_was_expected_is_drift():
    assert _drift(np.full(5, 0.05), np.full(5, 0.03), BEYOND) == pytest.approx(0.04)
    assert _drift(np.full(5, 0.05), np.full(5, 0.03), 2 * BEYOND) == pytest.approx(0.02)
    assert _drift(np.full(5, 0.02), np.full(5, 0.03), BEYOND) == 0.0


def test_one_cell_that_is_off_by_itself_is_none():
    miss = np.array([0.01, -0.012, 0.009, -0.01, 5.0])
    assert _drift(miss, np.full(5, 0.005), BEYOND) < 0.05


def test_cells_hardly_beyond_the_runs_say_nothing_of_the_way():
    # Held-out sizes of a random table lie a hair beyond the rest: noise there is no drift.
    rng = np.random.default_rng(0)
    beyond = np.array([0.01, 0.02, 0.03, 0.9, 1.0])
    miss = 0.02 * rng.choice([-1, 1], 5)
    assert _drift(miss, np.full(5, 0.01), beyond) < 0.02
