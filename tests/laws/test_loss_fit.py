"""Fits of the loss law: recovery from drawn runs, round trips, and what too few runs give."""

import json

import numpy as np
import pytest

from carbs_scaling.laws.loss import LossLaw
from carbs_scaling.laws.loss_fit import fit_loss_law


def drawn_runs(count, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    params, tokens = 10 ** rng.uniform(6, 9, count), 10 ** rng.uniform(8, 11, count)
    rate, batch = 10 ** rng.uniform(-4, -2, count), 10 ** rng.uniform(4, 6.5, count)
    best_batch = 1e5 * (tokens / 1e9) ** 0.5
    best_rate = 2e-3 * (params / 1e8) ** -0.4 * (batch / 1e5) ** 0.4
    loss = (
        1.8
        + 480 * params**-0.35
        + 2000 * tokens**-0.36
        + 0.03 * np.log(rate / best_rate) ** 2
        + 0.02 * np.log(batch / best_batch) ** 2
    )
    return params, tokens, rate, batch, loss + noise * rng.normal(size=count)


def test_the_law_is_recovered_from_runs_drawn_from_it():
    law = fit_loss_law(*drawn_runs(200, noise=0.003))
    assert law.alpha == pytest.approx(0.35, abs=0.05)
    assert law.beta == pytest.approx(0.36, abs=0.05)
    assert law.irreducible_loss == pytest.approx(1.8, abs=0.06)
    assert law.residual_sd < 0.006
    assert float(law.best_learning_rate(3e8, 5e9, 2e5)) == pytest.approx(
        2e-3 * 3.0**-0.4 * 2.0**0.4, rel=0.08
    )
    assert float(law.best_batch_tokens(3e8, 5e9)) == pytest.approx(1e5 * 5**0.5, rel=0.1)
    truth = 1.8 + 480 * 3e8**-0.35 + 2000 * 5e9**-0.36
    assert float(law.loss(3e8, 5e9)) == pytest.approx(truth, abs=0.01)


def test_losses_in_another_unit_give_the_same_law_in_that_unit():
    params, tokens, rate, batch, loss = drawn_runs(80, noise=0.003)
    nats = fit_loss_law(params, tokens, rate, batch, loss)
    bits = fit_loss_law(params, tokens, rate, batch, loss / np.log(2))
    assert bits.alpha == pytest.approx(nats.alpha, rel=1e-3)
    assert float(bits.loss(1e9, 1e11)) * np.log(2) == pytest.approx(float(nats.loss(1e9, 1e11)), rel=1e-4)


def test_wild_outliers_move_the_law_little():
    params, tokens, rate, batch, loss = drawn_runs(120, noise=0.003)
    loss[::17] += 5.0
    law = fit_loss_law(params, tokens, rate, batch, loss)
    assert float(law.loss(1e9, 1e11)) == pytest.approx(1.8 + 480 * 1e9**-0.35 + 2000 * 1e11**-0.36, abs=0.05)


def test_round_trip_through_json():
    law = fit_loss_law(*drawn_runs(30))
    again = LossLaw.from_dict(json.loads(json.dumps(law.to_dict())))
    assert again == law
    assert law.formula() == again.formula()
    assert law.formula().startswith("L = ")


def test_missing_roles_leave_their_terms_out():
    params, _, _, _, _ = drawn_runs(40)
    loss = 2 + 300 * params**-0.3
    law = fit_loss_law(params, None, None, None, loss)
    assert "D^" not in law.formula()
    assert float(law.loss(1e8, None)) == pytest.approx(2 + 300 * 1e8**-0.3, abs=0.01)


@pytest.mark.parametrize(
    "columns",
    [
        ([], [], [], [], []),
        ([1e6] * 4, [1e8] * 4, [1e-3] * 4, [1e5] * 4, [3.0, 3.1, 3.2, 3.3]),
        ([1e6] * 50, [1e8] * 50, [1e-3] * 50, [1e5] * 50, [3.0] * 50),
        ([1e6] * 9, [1e8] * 9, [1e-3] * 9, [1e5] * 9, [np.nan] * 9),
    ],
)
def test_too_few_distinct_runs_give_no_law(columns):
    assert fit_loss_law(*columns) is None


def test_constant_columns_and_equal_losses_give_a_finite_law():
    rates = np.geomspace(1e-4, 1e-2, 8)
    law = fit_loss_law(np.full(8, 1e6), np.full(8, 1e8), rates, np.full(8, 1e5), np.full(8, 3.0))
    assert np.isfinite(law.theta).all()
    assert float(law.loss(1e6, 1e8)) == pytest.approx(3.0, abs=0.3)
