"""The loss law as a Gaussian process' prior mean, for one law or a whole ensemble of them.

Inputs are rows of d unit-cube coordinates followed by the 4 centred log features of `laws.loss`. An ensemble of
laws gives a batch of processes with one kernel, as BoTorch's fully Bayesian models have: the doubt about the
law's parameters is the spread between members, the doubt about what the law misses is each member's own.
"""

import gpytorch
import numpy as np
import torch

from carbs_scaling.laws.loss import law_value

N_FEATURES = 4


class LawMean(gpytorch.means.Mean):
    """Losses by the law, divided by `scale`.

    Args:
        thetas: parameters of the law, shape `batch_shape x 18`.
        has_role: which of the law's roles there are.
        scale: unit of the process in losses.
    """

    def __init__(self, thetas: np.ndarray, has_role: tuple[bool, bool, bool, bool], scale: float) -> None:
        super().__init__()
        self.thetas, self.has_role, self.scale = np.asarray(thetas, dtype=float), has_role, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`n x (d + 4)` to `batch_shape x n`; with inputs repeated over `batch_shape` to the same."""
        rows = x[..., -N_FEATURES:].detach()
        rows = rows.reshape(-1, *rows.shape[-2:])[0].numpy()
        return torch.from_numpy(law_value(self.thetas, rows, self.has_role) / self.scale)
