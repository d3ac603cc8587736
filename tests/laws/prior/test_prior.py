"""The prior of the surface: published laws inside, in one direction, whatever the unit of the loss."""

import numpy as np
import pytest

from carbs_scaling import fit_law
from carbs_scaling.laws.form import law as surface
from carbs_scaling.laws.prior.prior import SurfacePrior, weak_prior
from carbs_scaling.laws.prior.published import BY_NAME

CENTRE = np.log([2e8, 1e10, 1e-3, 2e5])


def test_precision_is_the_inverse_of_the_covariance():
    prior = weak_prior(2.3, CENTRE)
    covariance = np.diag(prior.sd**2) + np.outer(prior.shared, prior.shared)
    np.testing.assert_allclose(prior.precision @ covariance, np.eye(len(prior.mean)), atol=1e-9)
    np.testing.assert_allclose(prior.scale, np.sqrt(np.diag(covariance)))
    np.testing.assert_allclose(prior.widened(3).precision, prior.precision / 9)


def test_a_pinned_parameter_stays_pinned():
    prior = SurfacePrior(np.zeros(3), np.array([1.0, 0.0, 2.0]), np.zeros(3))
    assert prior.precision[1, 1] > 1e17
    assert prior.scale[1] < 1e-8


@pytest.mark.parametrize(("name", "side"), [("Besiroglu", 1.0), ("Kaplan", -1.0)])
def test_a_deviation_to_either_side_is_a_published_law(name, side):
    published = BY_NAME[name].loss
    level = published(*np.exp(CENTRE[:2]))
    prior = weak_prior(level, CENTRE)
    theta = prior.mean + side * prior.shared
    params, tokens = np.geomspace(3e7, 2e9, 4), np.geomspace(2e9, 2e11, 4)
    said = surface.floor(theta, np.log(params) - CENTRE[0], np.log(tokens) - CENTRE[1])
    real = np.array([published(n, d) for n, d in zip(params, tokens, strict=True)])
    # A tenth of the loss stands for Kaplan's missing E.
    np.testing.assert_allclose(said, real + (0.1 * level if name == "Kaplan" else 0.0), rtol=1e-6)


def test_from_two_sizes_the_loss_of_a_much_larger_model_is_not_far_off(truth):
    law = fit_law(truth.draw(sizes=(2e7, 6e7)), check=False)
    real = truth.loss(2e9, 1.6e10)
    low, high = law.recommend(2e9, 1.6e10).interval("loss")
    assert low < real < high
    assert law.loss(2e9, 1.6e10) == pytest.approx(real, abs=0.1)
