"""What the gains read off a posterior: its normal components, or its joint moments."""

from typing import Any

import torch
from torch import Tensor

from carbs_scaling.surrogate.posterior import MixturePosterior


def components(posterior: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Weights `s`, means and standard deviations `s x batch_shape x q` of the normal components.

    Of a posterior that is no `MixturePosterior` there is one, with its mean and variance.
    """
    if isinstance(posterior, MixturePosterior):
        return posterior.weights, posterior.means, posterior.deviations
    mean = posterior.mean[..., 0]
    return torch.ones(1).to(mean), mean[None], posterior.variance[..., 0].sqrt()[None]


def joint_moments(posterior: Any) -> tuple[Tensor, Tensor]:
    """Mean `batch_shape x q` and covariance `batch_shape x q x q` of one outcome."""
    if isinstance(posterior, MixturePosterior):
        return posterior.mean[..., 0], posterior.covariance_matrix
    return posterior.mean[..., 0], posterior.distribution.covariance_matrix
