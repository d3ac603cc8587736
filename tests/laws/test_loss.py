"""The loss law: its derivatives."""

import numpy as np
import pytest

from carbs_scaling.laws.loss import PARAMETERS, law_jacobian, law_value
from carbs_scaling.laws.loss_prior import law_prior

ALL = (True, True, True, True)


@pytest.mark.parametrize("has_role", [ALL, (True, False, True, False), (False, True, False, True)])
@pytest.mark.parametrize("seed", range(3))
def test_the_jacobian_is_the_derivative(has_role, seed):
    rng = np.random.default_rng(seed)
    prior = law_prior(2.5, (18.0, 22.0, -6.0, 12.0), has_role)
    theta = prior.mean + 0.5 * prior.sd * rng.normal(size=len(PARAMETERS))
    features = rng.normal(size=(20, 4)) * np.asarray(has_role)
    _, slopes = law_jacobian(theta, features, has_role)
    for i in np.flatnonzero(prior.sd > 0):
        shift = np.zeros_like(theta)
        shift[i] = 1e-5
        up, down = law_value(theta + shift, features, has_role), law_value(theta - shift, features, has_role)
        np.testing.assert_allclose(slopes[:, i], (up - down) / 2e-5, rtol=1e-4, atol=1e-6)
