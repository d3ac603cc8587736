"""The prior of the surface: published laws inside, in one direction, whatever the unit of the loss."""

import numpy as np
import pytest

from carbs_scaling import fit_law
from carbs_scaling.laws.form.law import INDEX, floor
from carbs_scaling.laws.prior.prior import law_prior, published_level, published_level_sd
from carbs_scaling.laws.prior.published import BY_NAME

CENTRE = np.log([2e8, 1e10, 1e-3, 2e5])


def test_precision_is_the_inverse_of_the_covariance():
    prior = law_prior(2.3, CENTRE)
    covariance = np.diag(prior.sd**2) + prior.shared.T @ prior.shared
    np.testing.assert_allclose(prior.precision @ covariance, np.eye(len(prior.mean)), atol=1e-9)
    np.testing.assert_allclose(prior.scale, np.sqrt(np.diag(covariance)))
    np.testing.assert_allclose(prior.widened(3).precision, prior.precision / 9)


def test_half_squares_and_root_are_of_the_same_covariance():
    prior = law_prior(2.3, CENTRE, (True, True, True, False))
    covariance = np.diag(prior.sd**2) + prior.shared.T @ prior.shared
    np.testing.assert_allclose(prior.root @ prior.root.T, covariance)
    draws = prior.mean + np.random.default_rng(0).normal(size=(5, prior.root.shape[1])) @ prior.root.T
    free = np.ix_(prior.free, prior.free)
    off = (draws - prior.mean)[:, prior.free]
    direct = [0.5 * row @ np.linalg.solve(covariance[free], row) for row in off]
    np.testing.assert_allclose(prior.half_squares(draws), direct)


def test_what_is_pinned_is_no_part_of_the_precision():
    prior = law_prior(2.3, CENTRE)
    pinned = prior.pinned({"a_N": -0.5})
    assert pinned.at("a_N") == -0.5
    assert INDEX["a_N"] not in pinned.free
    assert len(pinned.precision) == len(prior.precision) - 1


@pytest.mark.parametrize(("params", "tokens"), [(1e8, 2e9), (7e9, 1.4e12), (3e3, 3e5)])
def test_the_level_is_the_geometric_mean_of_two_published_laws(params, tokens):
    step, deepseek = (BY_NAME[name].recipe(params, tokens) for name in ("Step Law", "DeepSeek"))
    rate, batch = published_level(params, tokens)
    assert np.exp(rate) == pytest.approx(np.sqrt(step.learning_rate * deepseek.learning_rate))
    assert np.exp(batch) == pytest.approx(np.sqrt(step.batch_tokens * deepseek.batch_tokens))


@pytest.mark.parametrize(("factor", "way"), [(1.0, 0.0), (np.exp(-9.0), 9.0)])
def test_the_level_is_uncertain_by_disagreement_and_by_distance(factor, way):
    """Where two laws cross they agree by chance: of exponents known to a tenth that says nothing."""
    at = (2e8 * factor, 1e10 * factor)
    step, deepseek = (BY_NAME[name].recipe(*at) for name in ("Step Law", "DeepSeek"))
    apart = [
        np.log(getattr(step, name) / getattr(deepseek, name)) for name in ("learning_rate", "batch_tokens")
    ]
    assert published_level_sd(*at) == pytest.approx([np.hypot(half / 2, 0.1 * way) for half in apart])


def test_the_level_keeps_inside_what_may_be_proposed():
    prior = law_prior(3.0, CENTRE, rate_range=(np.log(1e-6), np.log(1e-4)))
    assert np.log(1e-6) < prior.at("a0") + CENTRE[2] < np.log(1e-4)


@pytest.mark.parametrize("centre", [(0.0, 0.0), (-40.0, -40.0), (90.0, 90.0)])
def test_units_that_no_model_has_give_a_usable_prior(centre):
    prior = law_prior(3.0, (*centre, 0.0, 0.0))
    assert np.isfinite(prior.root).all()
    assert np.isfinite(prior.mean).all()


@pytest.mark.parametrize(("name", "side"), [("Besiroglu", 1.0), ("Kaplan", -1.0)])
def test_a_deviation_to_either_side_is_a_published_law(name, side):
    published = BY_NAME[name].loss
    level = published(*np.exp(CENTRE[:2]))
    prior = law_prior(level, CENTRE)
    theta = prior.mean + side * prior.shared
    params, tokens = np.geomspace(3e7, 2e9, 4), np.geomspace(2e9, 2e11, 4)
    said = floor(theta, np.log(params) - CENTRE[0], np.log(tokens) - CENTRE[1])
    real = np.array([published(n, d) for n, d in zip(params, tokens, strict=True)])
    # A tenth of the loss stands for Kaplan's missing E.
    np.testing.assert_allclose(said, real + (0.1 * level if name == "Kaplan" else 0.0), rtol=1e-6)


def test_from_two_sizes_the_loss_of_a_much_larger_model_is_not_far_off(truth):
    law = fit_law(truth.draw(sizes=(2e7, 6e7)), check=False)
    real = truth.loss(2e9, 1.6e10)
    low, high = law.recommend(2e9, 1.6e10).interval("loss")
    assert low < real < high
    assert law.loss(2e9, 1.6e10) == pytest.approx(real, abs=0.1)
