"""A mixture of normal distributions with unequal weights, as a BoTorch posterior; models that give one."""

from abc import abstractmethod
from collections.abc import Callable
from typing import cast

import torch
from botorch.acquisition.objective import PosteriorTransform
from botorch.exceptions import UnsupportedError
from botorch.models.model import Model
from botorch.posteriors import Posterior
from botorch.sampling.get_sampler import GetSampler
from botorch.sampling.normal import SobolQMCNormalSampler
from linear_operator.utils.cholesky import psd_safe_cholesky
from torch import Tensor


class MixturePosterior(Posterior):
    """Posterior over q points whose s members are normal, with the same correlations and unequal weights.

    BoTorch's `GaussianMixturePosterior` has equal weights only. A base sample has one number more than there
    are points: the first picks the member, the others are its normal numbers. A Sobol sequence therefore
    spreads samples evenly over members, by weight, as it does over values.

    Args:
        weights: of the members, shape `s`, summing to 1.
        means: shape `s x batch_shape x q`.
        deviations: standard deviations of each point, shape `s x batch_shape x q`.
        correlation: gives the correlations of the q points, shape `batch_shape x q x q`, when they are first
            needed; None where q = 1.
    """

    def __init__(
        self,
        weights: Tensor,
        means: Tensor,
        deviations: Tensor,
        correlation: Callable[[], Tensor] | None = None,
    ) -> None:
        self.weights, self.means, self.deviations = weights, means, deviations
        self._ask_correlation, self._correlation = correlation, None if correlation else self._ones()

    @property
    def device(self) -> torch.device:
        """Device of the means."""
        return self.means.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the means."""
        return self.means.dtype

    @property
    def batch_shape(self) -> torch.Size:
        """The t-batch shape."""
        return self.means.shape[1:-1]

    @property
    def mean(self) -> Tensor:
        """Mean of the mixture, shape `batch_shape x q x 1`."""
        return torch.tensordot(self.weights, self.means, dims=1)[..., None]

    @property
    def variance(self) -> Tensor:
        """Variance of the mixture, shape `batch_shape x q x 1`."""
        spread = (self.means - self.mean[..., 0]).square() + self.deviations.square()
        return torch.tensordot(self.weights, spread, dims=1)[..., None]

    @property
    def correlation(self) -> Tensor:
        """Correlations within each member, shape `batch_shape x q x q`."""
        if self._correlation is None:
            assert self._ask_correlation is not None
            self._correlation = self._ask_correlation()
        return self._correlation

    @property
    def covariance_matrix(self) -> Tensor:
        """Covariance of the mixture, shape `batch_shape x q x q`; its diagonal is `variance`."""
        scale = (self.weights.reshape(-1, *[1] * (self.means.dim() - 1)).sqrt()).to(self.means)
        own, off = scale * self.deviations, scale * (self.means - self.mean[..., 0])
        return self.correlation * torch.einsum("s...i,s...j->...ij", own, own) + torch.einsum(
            "s...i,s...j->...ij", off, off
        )

    @property
    def base_sample_shape(self) -> torch.Size:
        """`batch_shape x (1 + q) x 1`: what picks the member, then a number for each point."""
        return self.batch_shape + torch.Size([1 + self.means.shape[-1], 1])

    @property
    def batch_range(self) -> tuple[int, int]:
        """Dimensions of the base samples that are t-batches."""
        return 0, -2

    def _extended_shape(self, sample_shape: torch.Size = torch.Size()) -> torch.Size:  # noqa: B008
        return sample_shape + self.means.shape[1:] + torch.Size([1])

    def _ones(self) -> Tensor:
        if self.means.shape[-1] != 1:
            raise ValueError("several points need their correlations")
        return torch.ones_like(self.means[0])[..., None]

    def rsample(self, sample_shape: torch.Size | None = None) -> Tensor:
        """Draws with stratified members: of n samples a member of weight w gets n w, give or take one.

        Args:
            sample_shape: of the draws; None for one.

        Returns:
            Shape `sample_shape x batch_shape x q x 1`.
        """
        shape = torch.Size() if sample_shape is None else sample_shape
        base = torch.randn(shape + self.base_sample_shape, dtype=self.dtype, device=self.device)
        count = shape.numel()
        strata = (torch.randperm(count, device=self.device) + torch.rand(1, device=self.device)) / count
        picks = strata.to(self.dtype).reshape(*shape, *[1] * len(self.batch_shape))
        return self._drawn(picks.expand(shape + self.batch_shape), base[..., 1:, 0])

    def rsample_from_base_samples(self, sample_shape: torch.Size, base_samples: Tensor) -> Tensor:
        """Draws from standard normal base samples.

        Args:
            sample_shape: of the draws.
            base_samples: shape `sample_shape x batch_shape x (1 + q) x 1`.

        Returns:
            Shape `sample_shape x batch_shape x q x 1`.
        """
        if base_samples.shape != sample_shape + self.base_sample_shape:
            raise RuntimeError(f"base samples have shape {tuple(base_samples.shape)}")
        return self._drawn(torch.special.ndtr(base_samples[..., 0, 0]), base_samples[..., 1:, 0])

    def _drawn(self, picks: Tensor, normal: Tensor) -> Tensor:
        """Values from uniform `picks`, `shape x batch_shape`, and normal numbers, with q after it."""
        ends = self.weights.cumsum(0)
        member = torch.searchsorted(ends, (picks * ends[-1]).contiguous()).clamp_max(len(ends) - 1)
        if normal.shape[-1] > 1:
            normal = (psd_safe_cholesky(self.correlation) @ normal[..., None])[..., 0]
        index = member[..., None].expand(normal.shape)[None]
        means, deviations = (
            values.reshape(len(ends), *[1] * (index.dim() - values.dim()), *values.shape[1:])
            .expand(len(ends), *normal.shape)
            .gather(0, index)[0]
            for values in (self.means, self.deviations)
        )
        return (means + deviations * normal)[..., None]


class LossModel(Model):
    """A BoTorch model of one noise-free outcome, a loss, whose posterior is a `MixturePosterior`.

    Inputs get no gradients: candidates are legal points, which are chosen from a list
    (`botorch.optim.optimize_acqf_discrete`).
    """

    @property
    def num_outputs(self) -> int:
        """One."""
        return 1

    @property
    def batch_shape(self) -> torch.Size:
        """Empty: members are mixed in the posterior."""
        return torch.Size()

    def posterior(
        self,
        X: Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: PosteriorTransform | None = None,
    ) -> MixturePosterior:
        """The outcome at X; a `MixturePosterior` unless a transform makes another of it.

        Args:
            X: shape `batch_shape x q x d'`.
            output_indices: None or [0].
            observation_noise: must be False.
            posterior_transform: of the posterior.

        Raises:
            UnsupportedError: there is no such output, or observation noise is asked for.
        """
        if output_indices not in (None, [0]) or observation_noise is not False:
            raise UnsupportedError("the model has one noise-free output")
        found = self._posterior(X)
        return found if posterior_transform is None else cast(MixturePosterior, posterior_transform(found, X))

    @abstractmethod
    def _posterior(self, X: Tensor) -> MixturePosterior:
        """The outcome at X, `batch_shape x q x d'`."""


@GetSampler.register(MixturePosterior)  # type: ignore[untyped-decorator]
def _sobol_sampler(
    posterior: MixturePosterior, sample_shape: torch.Size, *, seed: int | None = None
) -> SobolQMCNormalSampler:
    """The sampler that BoTorch's Monte-Carlo acquisitions take where none is given."""
    return SobolQMCNormalSampler(sample_shape=sample_shape, seed=seed)
