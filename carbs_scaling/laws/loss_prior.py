"""TEMPORARY shim."""

import numpy as np

from carbs_scaling.laws.prior.prior import published_level_sd


def published_doubt(centre, has_role):
    if not (has_role[0] and has_role[1]):
        return 1.0, 1.0
    return published_level_sd(np.exp(centre[0]), np.exp(centre[1]))
