"""Priors of the loss law: where published laws are, and as wide as they disagree."""

from math import exp, log, sqrt

import numpy as np
import pytest

from carbs_scaling.laws.loss import INDEX, PARAMETERS, law_floor
from carbs_scaling.laws.loss_prior import (
    law_prior,
    nearly_additive,
    published_doubt,
    published_learning_rate,
    published_losses,
)
from carbs_scaling.laws.prior.published import BY_NAME

ALL = (True, True, True, True)


@pytest.mark.parametrize(("params", "tokens"), [(1e8, 2e9), (7e9, 1.4e12), (3e3, 3e5)])
def test_the_centre_is_the_geometric_mean_of_two_published_laws(params, tokens):
    step, deepseek = (BY_NAME[name].recipe(params, tokens) for name in ("Step Law", "DeepSeek"))
    rate, batch = published_learning_rate(params, tokens)
    assert exp(rate) == pytest.approx(sqrt(step.learning_rate * deepseek.learning_rate))
    assert exp(batch) == pytest.approx(sqrt(step.batch_tokens * deepseek.batch_tokens))


@pytest.mark.parametrize(
    ("params", "tokens", "way"), [(2e8, 1e10, 0.0), (2e8 * exp(-9), 1e10 * exp(-9), 9.0)]
)
def test_what_is_published_is_doubted_by_disagreement_and_by_distance(params, tokens, way):
    """Where two laws cross they agree by chance: of exponents known to a tenth that says nothing."""
    step, deepseek = (BY_NAME[name].recipe(params, tokens) for name in ("Step Law", "DeepSeek"))
    doubt = published_doubt((log(params), log(tokens), 0.0, 0.0), ALL)
    rates, batches = (
        log(getattr(step, name) / getattr(deepseek, name)) / 2 for name in ("learning_rate", "batch_tokens")
    )
    assert doubt == pytest.approx((np.hypot(rates, 0.1 * way), np.hypot(batches, 0.1 * way)))


def test_far_from_where_laws_were_fitted_the_prior_is_wider():
    near, far = (
        law_prior(3.0, (log(n), log(20 * n), log(1e-3), log(1e5)), ALL).sd[INDEX["a0"]] for n in (1e8, 1e3)
    )
    assert far > 1.5 * near


def test_the_centre_keeps_inside_what_may_be_proposed():
    centre = (log(1e8), log(2e9), log(1e-5), log(1e5))
    prior = law_prior(3.0, centre, ALL, rate_range=(log(1e-6), log(1e-4)))
    assert log(1e-6) < prior.mean[INDEX["a0"]] + centre[2] < log(1e-4)


def test_absent_roles_are_pinned():
    centre = (log(1e8), log(2e9), log(1e-3), log(1e5))
    prior = law_prior(3.0, centre, (True, True, False, False))
    assert prior.sd[INDEX["ln_k_e"]] == prior.sd[INDEX["b0"]] == 0
    alone = law_prior(3.0, centre, (True, False, False, False))
    pinned = [INDEX[name] for name in ("ln_C", "ln_beta", "ln_gamma")]
    assert (alone.root[pinned] == 0).all()
    nothing = law_prior(3.0, centre, (False,) * 4)
    assert np.flatnonzero(nothing.root.any(axis=1)).tolist() == [INDEX["E"]]


def test_gamma_alone_changes_for_the_search():
    centre = (log(1e8), log(2e9), log(1e-3), log(1e5))
    prior = law_prior(3.0, centre, ALL)
    near, gamma = nearly_additive(prior), INDEX["ln_gamma"]
    others = [i for i in range(len(PARAMETERS)) if i != gamma]
    np.testing.assert_array_equal(near.root[others], np.delete(prior.root, gamma, axis=0))
    assert log(0.5) < near.mean[gamma] < 0
    assert np.square(near.root[gamma]).sum() == pytest.approx(near.sd[gamma] ** 2)
    without = law_prior(3.0, centre, (True, False, True, True))
    assert (nearly_additive(without).root[gamma] == 0).all()


@pytest.mark.parametrize(("params", "tokens"), [(3e3, 3e5), (1e8, 2e9), (7e9, 1.4e12)])
def test_both_published_laws_lie_a_deviation_from_the_mean(params, tokens):
    """At any size, and so does the loss that they say nearby; one that mixes them up lies far off."""
    centre = (log(params), log(tokens), log(1e-3), log(1e5))
    for name, gamma in (("Besiroglu", 1.0), ("Kaplan", 0.095)):
        published = BY_NAME[name]
        level = published.loss(params, tokens)
        prior = law_prior(level, centre, ALL)
        theta = prior.mean + (1 if name == "Besiroglu" else -1) * prior.shared
        assert prior.half_squares(theta[None])[0] < 0.5
        assert np.exp(theta[INDEX["ln_gamma"]]) == pytest.approx(gamma)
        near = np.array([[0.0, 0.0, 0.0, 0.0], [1.0, -0.5, 0.0, 0.0]])
        said = [published.loss(params, tokens), published.loss(params * np.e, tokens * np.exp(-0.5))]
        np.testing.assert_allclose(law_floor(theta, near, ALL), said, rtol=1e-3)
    mixed = prior.mean + prior.shared
    for exponent in ("ln_alpha", "ln_beta"):
        mixed[INDEX[exponent]] -= 2 * prior.shared[INDEX[exponent]]
    assert prior.half_squares(mixed[None])[0] > 3


def test_the_root_is_one_of_the_priors_covariance():
    prior = law_prior(3.0, (log(1e8), log(2e9), log(1e-3), log(1e5)), ALL)
    expected = np.diag(prior.sd**2) + np.outer(prior.shared, prior.shared)
    np.testing.assert_allclose(prior.root @ prior.root.T, expected)
    draws = np.random.default_rng(0).normal(size=(3, len(PARAMETERS))) + prior.mean
    direct = [0.5 * off @ np.linalg.solve(expected, off) for off in draws - prior.mean]
    np.testing.assert_allclose(prior.half_squares(draws), direct, rtol=1e-6)


def test_small_models_lack_most_of_their_loss():
    """By Besiroglu's law; models of 3,000 parameters have almost no share of irreducible loss."""
    large, small = (
        published_losses((log(n), log(d), 0.0, 0.0), ALL)[0] for n, d in ((7e9, 1.4e12), (3e3, 3e5))
    )
    assert large["E"] > 0.85
    assert small["E"] < 0.1


@pytest.mark.parametrize("centre", [(0.0, 0.0), (-40.0, -40.0), (90.0, 90.0)])
def test_units_that_no_model_has_give_a_usable_prior(centre):
    prior = law_prior(3.0, (*centre, 0.0, 0.0), ALL)
    assert np.isfinite(prior.root).all()
    assert np.isfinite(prior.mean).all()
