"""A table whose runs all had one batch gives a law for that batch, and says so."""

import numpy as np
import pandas as pd
import pytest

from carbs_scaling import fit_law
from carbs_scaling.laws.scaling_law import ScalingLaw

BATCH = 2e5
SIZES, TOKENS = (2e7, 6e7, 2e8, 6e8), (1e9, 4e9, 1.6e10)


def best_rate_there(truth, n, d):
    return truth.rate(n, d) * (BATCH / truth.batch(d)) ** 0.4


def best_loss_there(truth, n, d):
    return truth.loss(n, d) + 0.02 * np.log(BATCH / truth.batch(d)) ** 2


def swept(truth, bend=0.0):
    """Rates around the best one, which is e^(bend ln(N / 1e8)^2) times the power law's."""
    rng = np.random.default_rng(1)
    rows = []
    for n in SIZES:
        for d in TOKENS:
            for off in np.log(2) * (np.arange(-3, 4) + rng.uniform(-0.4, 0.4, 7)):
                rate = best_rate_there(truth, n, d) * np.exp(off + bend * np.log(n / 1e8) ** 2)
                loss = best_loss_there(truth, n, d) + 0.05 * off**2 + 0.003 * rng.normal()
                rows.append((n, d, rate, BATCH, loss))
    return pd.DataFrame(rows, columns=["params", "tokens", "learning_rate", "batch_tokens", "loss"])


@pytest.fixture(scope="module")
def one_batch_law(truth):
    return fit_law(swept(truth))


def test_its_learning_rate_and_loss_are_those_at_that_batch(one_batch_law, truth):
    recipe = one_batch_law.recommend(2e9, 1.6e10)
    assert np.log(recipe.learning_rate / best_rate_there(truth, 2e9, 1.6e10)) == pytest.approx(0, abs=0.15)
    assert recipe.loss == pytest.approx(best_loss_there(truth, 2e9, 1.6e10), abs=0.02)
    low, high = recipe.interval("learning_rate")
    assert low < best_rate_there(truth, 2e9, 1.6e10) < high


def test_its_batch_is_that_batch_without_doubt(one_batch_law):
    recipe = one_batch_law.recommend(2e9, 1.6e10)
    assert recipe.batch_tokens == pytest.approx(BATCH)
    assert recipe.interval("batch_tokens") == pytest.approx((BATCH, BATCH))
    assert "all runs had it" in one_batch_law.formula()


def test_it_says_so_once_and_is_checked_on_held_out_sizes(one_batch_law):
    (said,) = [said for said in one_batch_law.warnings if "batch" in said]
    assert said.startswith("all runs had a batch of 2e+05 tokens: the learning rate is for that")
    assert one_batch_law.held_out is not None
    assert one_batch_law.held_out.loss_error < 0.03


def test_it_comes_back_from_json(one_batch_law, tmp_path):
    again = ScalingLaw.load(one_batch_law.save(tmp_path / "law.json"))
    assert again == one_batch_law
    assert again.support.one_batch


def test_a_bend_is_the_rates_and_not_the_batchs(truth):
    law = fit_law(swept(truth, bend=0.1), check=False)
    assert law.bend[1] == (0.0, 0.0, 0.0)
    for n in SIZES:
        off = np.log(law.learning_rate(n, 4e9) / best_rate_there(truth, n, 4e9)) - 0.1 * np.log(n / 1e8) ** 2
        assert off == pytest.approx(0, abs=0.06)


def test_other_hyperparameters_are_fitted_beside_it(truth):
    runs = swept(truth)
    rng = np.random.default_rng(2)
    decay = np.exp(rng.uniform(np.log(0.01), np.log(1.0), len(runs)))
    runs = runs.assign(weight_decay=decay, loss=runs.loss + 0.02 * np.log(decay / 0.1) ** 2)
    law = fit_law(runs, check=False)
    assert [other.name for other in law.others] == ["weight_decay"]
    recipe = law.recommend(6e8, 4e9)
    assert recipe.other["weight_decay"] == pytest.approx(0.1, rel=0.3)
    assert np.log(recipe.learning_rate / best_rate_there(truth, 6e8, 4e9)) == pytest.approx(0, abs=0.2)
