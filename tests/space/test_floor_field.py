"""The field of what a law's floor misses: sure where runs are, unsure of other sizes and shapes."""

import numpy as np
import pytest
import torch

from carbs_scaling.laws.prior.prior import law_prior
from carbs_scaling.space.floor_field import FLOOR_REACH, FloorField, field_correlation
from carbs_scaling.surrogate.fit import residual_kernel
from carbs_scaling.surrogate.hyperparameters import Residual
from carbs_scaling.surrogate.law_mean import LawMean, MisfitKernel

ALL = (True, True, True, True)
CENTRE = (np.log(1e6), np.log(1e8), np.log(1e-2), np.log(1e4))


def features_of(cube):
    """N = 12 depth width^2 over 2 decades, D over 2; rate and batch have no say."""
    n = np.log(10) * (1.2 * (cube[:, 0] - 0.5) + 0.8 * (cube[:, 1] - 0.5))
    zero = np.zeros(len(cube))
    return np.column_stack([n, np.log(100) * (cube[:, 2] - 0.5), zero, zero])


def shapes(count, rng):
    """Cubes of (width, depth, tokens), and their features."""
    cube = rng.random((count, 3))
    return cube, features_of(cube)


def field_of_shapes():
    return FloorField.of(*shapes(400, np.random.default_rng(0)), np.array([0, 1, 2]))


FIELD = field_of_shapes()


def test_shape_is_what_n_and_d_do_not_explain():
    """Runs of one N and D and another shape lie apart; runs along N alone keep their shape."""
    field = FIELD
    cube, features = shapes(400, np.random.default_rng(1))
    shape = field.places(cube, features)[:, 2:]
    np.testing.assert_allclose(shape[:, 2], shape[0, 2], atol=0.05)
    assert np.abs(np.corrcoef(shape[:, 1], features[:, 0])[0, 1]) < 0.1
    # Two shapes of one N: 0.8 of the way in depth is 1.2 in width.
    wide, deep = np.array([[0.6, 0.3, 0.5]]), np.array([[0.4, 0.6, 0.5]])
    np.testing.assert_allclose(features_of(wide), features_of(deep), atol=1e-12)
    alike = field_correlation(field.places(wide, features_of(wide)), field.places(deep, features_of(deep)))
    assert alike[0, 0] < 0.95
    one, other = np.zeros((1, 4)), np.array([[FLOOR_REACH, 0.0, 0.0, 0.0]])
    moved = np.array([[0.5, 0.5, 0.5]]) + other[:, :2] @ field.slopes
    apart = field_correlation(field.places(np.full((1, 3), 0.5), one), field.places(moved, other))[0, 0]
    assert apart == pytest.approx(np.exp(-0.5))


def left_variance(field_share, runs, asked):
    """Variance at `asked` once `runs` are known; both are (cubes, features)."""
    prior = law_prior(2.0, CENTRE, ALL)
    base = residual_kernel(Residual(np.full(3, 1.0), 1e-4, field_share, 1e-6))
    law = LawMean(prior.mean, (True, True, False, False), 1.0)
    kernel = MisfitKernel(base, law, 0.25, FIELD, field_share)
    known, new = (torch.from_numpy(np.column_stack(rows)) for rows in (runs, asked))
    factor = torch.linalg.cholesky(kernel(known).to_dense() + 1e-6 * torch.eye(len(known)))
    half = torch.linalg.solve_triangular(factor, kernel(known, new).to_dense(), upper=False)
    return (kernel(new, diag=True) - half.square().sum(dim=0)).detach().numpy()


def test_runs_of_one_size_leave_another_size_and_another_shape_unknown():
    """Without the field a law that fits narrow models is as sure of wide ones."""
    cube, features = shapes(40, np.random.default_rng(0))
    narrow = cube[:, 0] < 0.5
    runs = cube[narrow], features[narrow]
    wider = np.array([[0.4, 0.5, 0.5], [1.0, 0.5, 0.5]])
    wider = wider, features_of(wider)
    with_field, without = left_variance(0.05, runs, wider), left_variance(0.0, runs, wider)
    assert with_field[1] > 5 * with_field[0]
    assert with_field[1] > 5 * without[1]
    shallow = cube[:, 1] < 0.4
    runs = cube[shallow], features[shallow]
    # Of one N: as shallow as the runs are, and deep.
    same_size = np.array([[0.6, 0.15, 0.5], [0.2, 0.75, 0.5]])
    np.testing.assert_allclose(features_of(same_size)[0], features_of(same_size)[1], atol=1e-12)
    variance = left_variance(0.05, runs, (same_size, features_of(same_size)))
    assert variance[1] > 3 * variance[0]
