"""Feasibility: nothing failed means nothing feared; a cliff in the rate is found and carried over."""

import numpy as np
import pytest
import torch
from botorch.models import SingleTaskGP
from botorch.settings import validate_input_scaling
from gpytorch.means import ZeroMean
from scipy.linalg import cho_factor, cho_solve
from scipy.special import ndtr

from carbs_scaling.surrogate.feasibility import Feasibility
from carbs_scaling.surrogate.law_mean import LawMean

# A law whose best rate is the centre's, everywhere.
LAW = LawMean(np.zeros(19), (True,) * 4, 1.0)


def runs(cube, offset):
    """Rows whose rates are `offset` above the law's best."""
    offset = np.asarray(offset, dtype=float)
    zero = np.zeros(len(offset))
    return torch.from_numpy(np.column_stack([cube, zero, zero, offset, zero]))


def by_hand(cube, offset, ended, new_cube, new_offset):
    """The same process written out."""

    def scaled(cube, offset):
        return np.column_stack([cube / 0.4, np.maximum(offset, -1.0) / 0.7])

    def kernel(left, right):
        near = ((left[:, None] - right[None]) ** 2).sum(axis=-1)
        return np.exp(-0.5 * near) + np.exp(-0.5 * (left[:, None, -1] - right[None, :, -1]) ** 2)

    known, new = scaled(cube, offset), scaled(new_cube, new_offset)
    factor = cho_factor(kernel(known, known) + 0.3 * np.eye(len(known)), lower=True)
    cross = kernel(new, known)
    mean = 1.5 + cross @ cho_solve(factor, np.where(ended, 0.0, -2.5))
    variance = 2.0 - np.einsum("ij,ji->i", cross, cho_solve(factor, cross.T))
    return ndtr(mean / np.sqrt(0.5 + variance / 4))


@pytest.mark.parametrize("count", [3, 40, 300])
def test_probabilities_are_those_of_the_process_written_out(count):
    rng = np.random.default_rng(count)
    cube, offset, ended = rng.random((count, 3)), rng.uniform(-3, 3, count), rng.random(count) < 0.7
    ended[0] = False
    new_cube, new_offset = rng.random((50, 3)), rng.uniform(-3, 3, 50)
    model = Feasibility(runs(cube, offset), torch.from_numpy(ended), LAW)
    expected = by_hand(cube, offset, ended, new_cube, new_offset)
    new = runs(new_cube, new_offset)
    np.testing.assert_allclose(model.probability(new), expected, atol=1e-6)
    np.testing.assert_allclose(model.probability(new[:, None])[:, 0], expected, atol=1e-6)
    np.testing.assert_allclose(model.probability(new.reshape(5, 10, -1)).reshape(-1), expected, atol=1e-6)


def test_the_posterior_is_that_of_a_stock_gaussian_process():
    """Means, variances and covariances, in batches too."""
    rng = np.random.default_rng(3)
    known, ended = runs(rng.random((30, 3)), rng.uniform(-3, 3, 30)), torch.from_numpy(rng.random(30) < 0.7)
    model = Feasibility(known, ended, LAW)
    labels = torch.where(ended, 0.0, -2.5).double()[:, None]
    with validate_input_scaling(False):
        stock = SingleTaskGP(
            model.runs,
            labels,
            torch.full_like(labels, 0.3),
            mean_module=ZeroMean(),
            covar_module=model.kernel,
            outcome_transform=None,
        )
    new = runs(rng.random((12, 3)), rng.uniform(-3, 3, 12))
    for shape in ((12,), (4, 3), (2, 2, 3)):
        X = new.reshape(*shape, 7)
        ours, expected = model.posterior(X), stock.posterior(model._inputs(X))
        torch.testing.assert_close(ours.mean, expected.mean + 1.5, atol=1e-6, rtol=0)
        covariance = expected.distribution.covariance_matrix
        torch.testing.assert_close(ours.covariance_matrix, covariance, atol=1e-6, rtol=0)


def test_a_cliff_above_the_best_rate_is_feared_at_other_sizes_too():
    rng = np.random.default_rng(0)
    cube, offset = rng.random((30, 3)) * [0.3, 1, 1], rng.uniform(-2, 3, 30)
    model = Feasibility(runs(cube, offset), torch.from_numpy(offset < 1.5), LAW)
    low, high = model.probability(runs(np.tile([0.9, 0.5, 0.5], (2, 1)), [0.0, 2.5]))
    assert low > 0.8
    assert high < 0.5


def test_far_from_everything_runs_are_taken_to_end():
    model = Feasibility(runs(np.zeros((1, 2)), [2.0]), torch.tensor([False]), LAW)
    near, far = model.probability(runs(np.array([[0.0, 0.0], [1.0, 1.0]]), [2.0, -1.0]))
    assert near < 0.3
    assert far > 0.75
