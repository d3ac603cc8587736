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


def test_sizes_that_nearly_coincide_do_not_blow_the_loss_up():
    """Four shapes of nearly one size at the top, each off by a shape's scatter (it was 3 to 10 nats wide)."""
    rng, rows = np.random.default_rng(0), []
    top = [4e8, 4.05e8, 4.1e8, 4.15e8]
    for n in (5e7, 1e8, 2e8, *top):
        off = rng.normal(0, 0.02)
        for d in (2e9, 8e9, 3e10):
            for rate in (5e-4, 1e-3, 2e-3):
                best = 1.79 * n**-0.713 * d**0.307
                loss = 1.69 + 406.4 * n**-0.34 + 410.7 * d**-0.28 + off + 0.03 * np.log(rate / best) ** 2
                rows.append((n, d, rate, 2.0**19, loss + rng.normal(0, 0.003)))
    names = ("params", "tokens", "learning_rate", "batch_tokens", "loss")
    law = fit_law(dict(zip(names, zip(*rows, strict=True), strict=True)))
    assert law.held_out.sizes == tuple(top)
    low, high = law.recommend(4e9, 8e10).interval("loss")
    assert low < 1.69 + 406.4 * 4e9**-0.34 + 410.7 * 8e10**-0.28 < high
    assert high - low < 0.5
