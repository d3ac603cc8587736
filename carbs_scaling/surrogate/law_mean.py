"""The loss law as a Gaussian process' prior mean, and the doubt about its parameters as a kernel.

Around its most probable parameters t, with prior Normal(t0, S), the law is linear to first order:
m(x; t') = m(x; t) + J(x) (t' - t), so its prior over functions has mean m(x; t) + J(x) (t0 - t) and
covariance J(x) S J(x')'. Adding that kernel to the residual's carries the parameters' uncertainty, with all
its correlations between runs, through every posterior, condition and look-ahead in closed form (Rasmussen &
Williams, section 2.7, with explicit basis functions J).

Inputs are rows of d unit-cube coordinates followed by the 4 centred log features of `laws.loss`.
"""

import gpytorch
import numpy as np
import torch

from carbs_scaling.laws.loss import LawPrior, law_jacobian

N_FEATURES = 4


class LinearisedLaw:
    """Value and prior-scaled slopes of the law at rows of inputs.

    Args:
        theta: parameters that the law is linearised at, shape (18,).
        prior: prior of the parameters.
        scale: losses are divided by this before they reach the process.
    """

    def __init__(self, theta: np.ndarray, prior: LawPrior, scale: float) -> None:
        self.theta, self.prior, self.scale = theta, prior, scale
        self.free = np.flatnonzero(prior.sd > 0)

    def at(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Prior mean, shape `batch_shape x n`, and basis J S^(1/2), shape `batch_shape x n x k`."""
        rows = inputs[..., -N_FEATURES:].detach().reshape(-1, N_FEATURES).numpy()
        value, slopes = law_jacobian(self.theta, rows, self.prior.has_role)
        mean = value + slopes @ (self.prior.mean - self.theta)
        basis = slopes[:, self.free] * self.prior.sd[self.free]
        shape = inputs.shape[:-1]
        return (
            torch.from_numpy(mean / self.scale).reshape(shape),
            torch.from_numpy(basis / self.scale).reshape(*shape, self.free.size),
        )


class LawMean(gpytorch.means.Mean):
    """The linearised law at its prior mean: `batch_shape x n x (d + 4)` to `batch_shape x n`."""

    def __init__(self, law: LinearisedLaw) -> None:
        super().__init__()
        self.law = law

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.law.at(x)[0]


class LawKernel(gpytorch.kernels.Kernel):
    """Covariance J(x) S J(x')' of the law's values under its parameters' prior."""

    has_lengthscale = False

    def __init__(self, law: LinearisedLaw) -> None:
        super().__init__()
        self.law = law

    def forward(self, x1: torch.Tensor, x2: torch.Tensor, diag: bool = False, **params) -> torch.Tensor:
        left, right = self.law.at(x1)[1], self.law.at(x2)[1]
        if diag:
            return (left * right).sum(dim=-1)
        return left @ right.transpose(-1, -2)
