"""Laws drawn from their posterior."""

import numpy as np
import pytest

from carbs_scaling.laws.form.law import NAMES
from carbs_scaling.surrogate.ensemble import sample_laws


def test_drawn_laws_follow_a_normal_posterior_where_it_is_normal():
    count = len(NAMES)
    covariance = np.zeros((count, count))
    covariance[0, 0], covariance[1, 1] = 0.25, 1.0

    def log_density(thetas):
        return -0.5 * ((thetas[:, 0] - 1) ** 2 / 0.25 + (thetas[:, 1] - 1) ** 2)

    draws = sample_laws(np.ones(count), covariance, log_density, 2000, np.random.default_rng(0))
    assert draws[:, 0].std() == pytest.approx(0.5, rel=0.08)
    assert draws[:, 1].std() == pytest.approx(1.0, rel=0.08)
    assert (draws[:, 2:] == 1).all()
