"""Hyperparameters of what the law misses."""

import numpy as np
from scipy.optimize import check_grad

import carbs_scaling.surrogate.hyperparameters as residual
from carbs_scaling.space.floor_field import field_correlation
from carbs_scaling.surrogate.hyperparameters import ResidualPrior, fit_residual


def test_the_hyperparameters_gradient_is_the_derivative():
    rng = np.random.default_rng(0)
    cube, surprise, spread = rng.random((12, 2)), 0.2 * rng.normal(size=12), 0.1 * rng.random(12)
    basis, lack = rng.normal(size=(12, 3)), rng.random(12)
    floors = np.outer(lack, lack) * field_correlation(cube, cube)
    seen = {}

    def spy(function, start, **options):
        seen["function"] = function
        return type("Result", (), {"x": start})()

    original, residual.minimize = residual.minimize, spy
    try:
        fit_residual(cube, surprise, basis @ basis.T, floors, np.full(12, 1e-3), spread, ResidualPrior(2))
    finally:
        residual.minimize = original
    at = ResidualPrior(2).mean + 0.3
    assert check_grad(lambda x: seen["function"](x)[0], lambda x: seen["function"](x)[1], at) < 5e-3
