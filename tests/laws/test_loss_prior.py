"""Priors of the loss law: where published laws are, and as wide as they disagree."""

from math import exp, log, sqrt

import numpy as np
import pytest

from carbs_scaling.laws.loss import INDEX, PARAMETERS
from carbs_scaling.laws.loss_prior import (
    law_prior,
    nearly_additive,
    published_disagreement,
    published_learning_rate,
)
from carbs_scaling.laws.published import BY_NAME

ALL = (True, True, True, True)


@pytest.mark.parametrize(("params", "tokens"), [(1e8, 2e9), (7e9, 1.4e12), (3e3, 3e5)])
def test_the_centre_is_the_geometric_mean_of_two_published_laws(params, tokens):
    step, deepseek = (BY_NAME[name].recipe(params, tokens) for name in ("Step Law", "DeepSeek"))
    rate, batch = published_learning_rate(params, tokens)
    assert exp(rate) == pytest.approx(sqrt(step.learning_rate * deepseek.learning_rate))
    assert exp(batch) == pytest.approx(sqrt(step.batch_tokens * deepseek.batch_tokens))
    doubt = published_disagreement((log(params), log(tokens), 0.0, 0.0), ALL)
    assert doubt[0] == pytest.approx(abs(log(step.learning_rate / deepseek.learning_rate)) / 2)
    assert doubt[1] == pytest.approx(abs(log(step.batch_tokens / deepseek.batch_tokens)) / 2)


def test_far_from_where_laws_were_fitted_the_prior_is_wider():
    near, far = (
        law_prior(3.0, (log(n), log(20 * n), log(1e-3), log(1e5)), ALL).sd[INDEX["a0"]] for n in (1e8, 1e3)
    )
    assert far > 1.5 * near


def test_the_centre_keeps_inside_what_may_be_proposed():
    centre = (log(1e8), log(2e9), log(1e-5), log(1e5))
    prior = law_prior(3.0, centre, ALL, rate_range=(log(1e-6), log(1e-4)))
    assert log(1e-6) < prior.mean[INDEX["a0"]] + centre[2] < log(1e-4)


def test_absent_roles_are_pinned_and_gamma_alone_changes_for_the_search():
    centre = (log(1e8), log(2e9), log(1e-3), log(1e5))
    prior = law_prior(3.0, centre, (True, True, False, False))
    assert prior.sd[INDEX["ln_k_e"]] == prior.sd[INDEX["b0"]] == 0
    near = nearly_additive(prior)
    others = [i for i, name in enumerate(PARAMETERS) if name != "ln_gamma"]
    np.testing.assert_array_equal(near.mean[others], prior.mean[others])
    assert log(0.5) < near.mean[INDEX["ln_gamma"]] < 0
