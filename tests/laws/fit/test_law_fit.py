"""A floor that departs from the law's form is followed inside the runs, and a straight one left straight."""

from dataclasses import replace

import numpy as np
import pytest

from carbs_scaling import fit_law
from carbs_scaling.laws.fit import law_fit
from carbs_scaling.laws.form.bends import FIRST_BEND
from carbs_scaling.laws.form.law import FLOOR, INDEX, NAMES, value_and_slopes


@pytest.fixture(scope="module")
def bent_runs(truth):
    """The exponent in N grows where tokens are many: ln of the reducible loss has a term in ln N ln D."""
    runs = truth.draw()
    n, d = np.log(runs.params / 1e8), np.log(runs.tokens / 4e9)
    reducible = truth.loss(runs.params, runs.tokens) - 1.7
    return runs.assign(loss=runs.loss + reducible * np.expm1(-0.03 * n * d))


def test_a_bent_floor_is_predicted_within_its_interval(bent_runs, truth):
    n, d = 1.2e9, 1.6e10
    real = 1.7 + (truth.loss(n, d) - 1.7) * np.exp(-0.03 * np.log(n / 1e8) * np.log(d / 4e9))
    law = fit_law(bent_runs, check=False)
    straight = fit_law(truth.draw(), check=False)
    low, high = law.recommend(n, d).interval("loss", 0.99)
    assert low < real < high
    assert abs(float(law.loss(n, d)) - real) < 0.02
    # The recipe does not hang on it.
    assert law.learning_rate(n, d) == pytest.approx(straight.learning_rate(n, d), rel=0.1)


def test_a_straight_floor_stays_straight(law):
    assert len(law.bend) == 3
    assert np.abs(law.bend[2]).max() < 0.01


def test_the_loss_at_the_optimum_is_that_of_a_run_there(law):
    n, d = np.array([1e8, 5e9]), np.array([4e9, 9e10])
    rate, batch = law.learning_rate(n, d), law.batch_tokens(n, d)
    np.testing.assert_allclose(law.run_loss(n, d, rate, batch), law.loss(n, d))
    np.testing.assert_allclose(law.loss_draws(n, d, 4000).mean(axis=0), law.loss(n, d), rtol=0.02)


@pytest.mark.parametrize("seed", [4, 8])
def test_law_and_noise_that_go_round_in_circles_come_to_rest(truth, seed):
    """A slip among few runs: whole turns of law and noise jump between two valleys for ever."""
    runs = truth.search(seed, 25)
    law = fit_law(runs.assign(loss=runs.loss + 0.8 * (np.arange(25) == 7)), check=False)
    assert not any("come to rest" in said for said in law.warnings)


def test_a_floor_is_as_unsure_as_the_valley_that_was_taken_off(truth):
    """All of a few runs lie off the best rate and batch: the steeper the valley, the lower the floor."""
    rng = np.random.default_rng(0)
    n, d = np.exp(rng.uniform(np.log([[2e7], [1e9]]), np.log([[6e8], [1.6e10]]), (2, 8)))
    u, v = rng.normal(size=(2, 8))
    loss = truth.loss(n, d) + 0.05 * (u - 0.4 * v) ** 2 + 0.02 * v**2 + 0.003 * rng.normal(size=8)
    rate, batch = truth.rate(n, d) * np.exp(u), truth.batch(d) * np.exp(v)
    names = ("params", "tokens", "learning_rate", "batch_tokens", "loss")
    law = fit_law(dict(zip(names, (n, d, rate, batch, loss), strict=True)), check=False)
    slope = np.where(np.isin(NAMES, FLOOR), value_and_slopes(np.array(law.theta), np.zeros((1, 4)))[2][0], 0)
    covariance = np.array(law.covariance)[: len(NAMES), : len(NAMES)]
    assert np.linalg.eigvalsh(np.array(law.covariance)).min() > -1e-8
    for name in ("ln_k_e", "ln_k_B"):
        with_valley = slope @ covariance[:, INDEX[name]]
        assert with_valley / np.sqrt(slope @ covariance @ slope) / law.standard_error(name) < -0.1


@pytest.mark.parametrize(("scattered", "told"), [(True, False), (False, True)])
def test_how_far_exponents_bend_is_told_by_swept_cells_alone(truth, monkeypatch, scattered, told):
    """Three searches on text of one and the same model had best batches eighteen times apart otherwise."""
    found, whole = [], law_fit.most_probable

    def seen(*arguments, **named):
        found.append(whole(*arguments, **named))
        return found[-1]

    monkeypatch.setattr(law_fit, "most_probable", seen)
    fit_law(truth.search() if scattered else truth.draw(), check=False)
    assert (found[-1].spread2 != (FIRST_BEND**2,) * 2) == told


def test_losses_of_tiny_models_wander_more_beyond_the_runs_and_no_more_among_them(law):
    low, high = law.support.low, law.support.high
    tiny = replace(law, support=replace(law.support, high=(5e4, *high[1:])))
    beyond, among = (30 * high[0], high[1]), ((low[0] * high[0]) ** 0.5, high[1])
    assert tiny.scatter(*beyond)[2] > 1.5 * law.scatter(*beyond)[2]
    assert tiny.scatter(*among)[2] == law.scatter(*among)[2]
