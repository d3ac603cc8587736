"""What the gains read off a posterior: its normal components."""

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
