"""The mixture posterior: moments, draws by weight, and BoTorch's samplers."""

import pytest
import torch
from botorch.sampling import IIDNormalSampler
from botorch.sampling.get_sampler import get_sampler

from carbs_scaling.surrogate.posterior import MixturePosterior

WEIGHTS = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)


def mixture(batch_shape=(), q=1, correlation=0.5):
    generator = torch.Generator().manual_seed(0)
    shape = (3, *batch_shape, q)
    means = torch.randn(shape, generator=generator, dtype=torch.float64)
    deviations = 0.1 + torch.rand(shape, generator=generator, dtype=torch.float64)
    matrix = torch.full((*batch_shape, q, q), correlation, dtype=torch.float64)
    matrix.diagonal(dim1=-2, dim2=-1).fill_(1.0)
    return MixturePosterior(WEIGHTS, means, deviations, lambda: matrix)


@pytest.mark.parametrize("batch_shape", [(), (4,), (2, 3)])
@pytest.mark.parametrize("q", [1, 3])
def test_draws_have_the_moments_and_the_members_their_weights(batch_shape, q):
    posterior = mixture(batch_shape, q)
    shape = torch.Size([*batch_shape, q, 1])
    for samples in (
        posterior.rsample(torch.Size([20_000])),
        get_sampler(posterior, torch.Size([2**13]), seed=0)(posterior),
        IIDNormalSampler(torch.Size([20_000]), seed=0)(posterior),
    ):
        assert samples.shape[1:] == shape == posterior.mean.shape == posterior._extended_shape()
        off = samples - posterior.mean
        torch.testing.assert_close(off.mean(dim=0), torch.zeros(shape).double(), atol=0.03, rtol=0)
        covariance = (off[..., 0, None] * off.mT).mean(dim=0)
        torch.testing.assert_close(covariance, posterior.covariance_matrix, atol=0.08, rtol=0.05)


def test_members_are_drawn_in_proportion_give_or_take_one():
    means = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)[:, None]
    posterior = MixturePosterior(WEIGHTS, means, torch.full_like(means, 1e-9))
    for count in (1, 7, 10, 503):
        drawn = posterior.rsample(torch.Size([count])).round().long().reshape(-1)
        shares = drawn.bincount(minlength=3)
        assert (shares - count * WEIGHTS).abs().max() <= 1.0


def test_a_sobol_sequence_converges_fast():
    posterior = mixture()
    for count, error in ((2**10, 5e-3), (2**14, 4e-4)):
        samples = get_sampler(posterior, torch.Size([count]), seed=1)(posterior)
        assert float((samples.mean(dim=0) - posterior.mean).abs()) < error


def test_several_points_need_their_correlations():
    values = torch.ones(3, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="correlations"):
        MixturePosterior(WEIGHTS, values, values)


def test_base_samples_of_another_shape_are_refused():
    with pytest.raises(RuntimeError, match="base samples"):
        mixture().rsample_from_base_samples(torch.Size([2]), torch.zeros(2, 1, 1))
