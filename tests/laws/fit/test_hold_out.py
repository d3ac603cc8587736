"""What held-out sizes say of a law: a drift that is real counts, one run that went wrong does not."""

import numpy as np
import pytest

from carbs_scaling import fit_law
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


def test_sizes_that_nearly_coincide_do_not_blow_the_loss_up(truth):
    """Four shapes of one size at the top, each off by a shape's scatter (it was 3 to 10 nats wide)."""
    runs = truth.draw(sizes=(5e7, 1e8, 2e8, 4e8, 4.05e8, 4.1e8, 4.15e8))
    off = np.random.default_rng(3).normal(0, 0.01, runs.params.nunique())
    runs["loss"] += off[np.unique(runs.params, return_inverse=True)[1]]
    law = fit_law(runs.iloc[::3])
    assert law.held_out.sizes == (4e8, 4.05e8, 4.1e8, 4.15e8)
    low, high = law.recommend(4e9, 8e10).interval("loss")
    assert high - low < 0.6
    assert low < truth.loss(4e9, 8e10) < high
