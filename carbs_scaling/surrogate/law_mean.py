"""The loss law as a Gaussian process' prior mean, for one law or a whole ensemble of them.

Inputs are rows of d unit-cube coordinates followed by the 4 centred log features of `laws.loss`. An ensemble
of laws gives a batch of processes with one kernel, as BoTorch's fully Bayesian models have: the doubt about
the law's parameters is the spread between members, the doubt about what the law misses is each member's own.
"""

import gpytorch
import numpy as np
import torch

from carbs_scaling.laws.loss import law_floor, law_value
from carbs_scaling.surrogate.floor_field import FloorField, field_correlation, law_lack

N_FEATURES = 4


class LawMean(gpytorch.means.Mean):
    """Losses by the law, divided by `scale`.

    Args:
        thetas: parameters of the law, shape `batch_shape x 19`.
        has_role: which of the law's roles there are.
        scale: unit of the process in losses.
    """

    def __init__(self, thetas: np.ndarray, has_role: tuple[bool, bool, bool, bool], scale: float) -> None:
        super().__init__()
        self.thetas, self.has_role, self.scale = np.asarray(thetas, dtype=float), has_role, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`n x (d + 4)` to `batch_shape x n`; with inputs repeated over `batch_shape` to the same."""
        rows = x[..., -N_FEATURES:].detach()
        batch = rows.reshape(-1, *rows.shape[-2:])
        if not torch.equal(batch, batch[:1].expand_as(batch)):
            raise ValueError("the laws of an ensemble are asked for the same rows")
        return torch.from_numpy(law_value(self.thetas, batch[0].numpy(), self.has_role) / self.scale)


class MisfitKernel(gpytorch.kernels.Kernel):
    """What a law misses: (s^2 + w^2 e e') c(x, x') + f^2 l l' g(x, x') for a base s^2 c(x, x').

    e is the law's excess over the valley's floor. What a law misses grows with what it says: near the floor a
    curve is off by little, far up its walls by a share of their height. Without this, bad runs make the
    process distrust the law everywhere; with it, a wall is still no place to hope for losses below the floor.
    l is what N and D lack and g the field of `floor_field`.

    Args:
        base: of what the law misses at the floor.
        theta: the law, shape (19,).
        has_role: which of the law's roles there are.
        wall_share: w, deviation as a share of the excess.
        floor_field: where floors are off by the same, or None for no such field.
        field_share: f, deviation as a share of the lack.
        scale: unit of the process in losses.
    """

    has_lengthscale = False

    def __init__(
        self,
        base: gpytorch.kernels.ScaleKernel,
        theta: np.ndarray,
        has_role: tuple[bool, bool, bool, bool],
        wall_share: float,
        floor_field: FloorField | None,
        field_share: float,
        scale: float,
    ) -> None:
        super().__init__()
        self.base, self.theta, self.has_role, self.scale = base, theta, has_role, scale
        self.wall_share, self.floor_field, self.field_share = wall_share, floor_field, field_share

    def forward(self, x1: torch.Tensor, x2: torch.Tensor, diag: bool = False, **params) -> torch.Tensor:
        left, right = self._wall(x1), self._wall(x2)
        if diag:
            process = self.base(x1, x2, diag=True) * (1 + left * right)
        else:
            process = self.base(x1, x2).to_dense() * (1 + left[..., None] * right[..., None, :])
        return process if self.floor_field is None else process + self._field(x1, x2, diag)

    def relative_sd(self, thetas: np.ndarray, x: torch.Tensor) -> torch.Tensor:
        """Deviation that the kernel would have with other laws' walls over that with its own, shape (s, n).

        Args:
            thetas: the other laws, shape (s, 19).
            x: inputs, shape (n, d + 4).
        """
        level = 1 + self._field_sd(x).square() / self.base.outputscale.detach()
        return ((level + self._wall(x, thetas).square()) / (level + self._wall(x).square())).sqrt()

    def _wall(self, x: torch.Tensor, theta: np.ndarray | None = None) -> torch.Tensor:
        """w e / s, in the shape of the laws and of the rows."""
        rows = x[..., -N_FEATURES:].detach().reshape(-1, N_FEATURES).numpy()
        theta = self.theta if theta is None else theta
        excess = torch.from_numpy(law_excess(theta, rows, self.has_role)) / self.scale
        excess = excess.reshape(*theta.shape[:-1], *x.shape[:-1])
        return self.wall_share * excess / self.base.outputscale.detach().sqrt()

    def _field_sd(self, x: torch.Tensor) -> torch.Tensor:
        """f l, in the shape of the rows."""
        if self.floor_field is None:
            return torch.zeros(x.shape[:-1], dtype=torch.float64)
        rows = x[..., -N_FEATURES:].detach().reshape(-1, N_FEATURES).numpy()
        lack = law_lack(self.theta, rows, self.has_role).reshape(x.shape[:-1])
        return torch.from_numpy(self.field_share * lack / self.scale)

    def _field(self, x1: torch.Tensor, x2: torch.Tensor, diag: bool) -> torch.Tensor:
        places = [
            self.floor_field.places(x[..., :-N_FEATURES], x[..., -N_FEATURES:])
            for x in (x1.detach().numpy(), x2.detach().numpy())
        ]
        left, right = self._field_sd(x1), self._field_sd(x2)
        if diag:
            apart = np.square(places[0] - places[1]).sum(axis=-1)
            return left * right * torch.from_numpy(np.exp(-0.5 * apart))
        return left[..., None] * right[..., None, :] * torch.from_numpy(field_correlation(*places))


def law_excess(theta: np.ndarray, features: np.ndarray, has_role) -> np.ndarray:
    """Laws' excess over the valley's floor, in losses, `batch_shape x n`, of theta `batch_shape x 19`."""
    return law_value(theta, features, has_role) - law_floor(theta, features, has_role)
