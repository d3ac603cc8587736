"""The loss law as a Gaussian process' prior mean and kernel, for one law or a whole ensemble of them.

Inputs are rows of d unit-cube coordinates followed by the 4 centred log features of `laws.form.law`. An
ensemble of laws gives a batch of processes with one kernel, as BoTorch's fully Bayesian models have: the
uncertainty of the law's parameters is the spread between members, that of what the law misses is each
member's own.
"""

import gpytorch
import numpy as np
import torch
from torch import Tensor

from carbs_scaling.laws.form.law import best_batch, best_rate, curvatures, floor, floor_and_height, reducible
from carbs_scaling.laws.form.valley import Array
from carbs_scaling.space.floor_field import FloorField, field_correlation

N_FEATURES = 4
Roles = tuple[bool, bool, bool, bool]


def features_of(x: Tensor) -> np.ndarray:
    """Centred log features of inputs `batch_shape x d'`, as rows, shape (m, 4)."""
    return x[..., -N_FEATURES:].detach().reshape(-1, N_FEATURES).numpy()


class LawMean(gpytorch.means.Mean):
    """Losses by the law, divided by `scale`.

    Args:
        thetas: parameters of the law, shape `batch_shape x 19`.
        has_role: which of the law's roles there are.
        scale: unit of the process in losses.
        offset: added to what the law says, which is positive, where losses may not be.
    """

    def __init__(self, thetas: Array, has_role: Roles, scale: float, offset: float = 0.0) -> None:
        super().__init__()
        self.thetas, self.has_role = np.asarray(thetas, dtype=float), has_role
        self.scale, self.offset = scale, offset

    def forward(self, x: Tensor) -> Tensor:
        """`n x (d + 4)` to `batch_shape x n`; with inputs repeated over `batch_shape` to the same."""
        batch = x[..., -N_FEATURES:].detach().reshape(-1, *x.shape[-2:-1], N_FEATURES)
        if not torch.equal(batch, batch[:1].expand_as(batch)):
            raise ValueError("the laws of an ensemble are asked for the same rows")
        return self.value_and_floor(batch[0].numpy())[0] / self.scale

    def value_and_floor(self, features: np.ndarray) -> tuple[Tensor, Tensor]:
        """Losses, and losses at the best rate and batch, by each law, at features (n, 4).

        Returns:
            Both of shape `batch_shape x n`.
        """
        base, height = floor_and_height(self.thetas, features)
        return torch.from_numpy(base + height + self.offset), torch.from_numpy(base + self.offset)

    def floor(self, features: Array) -> Array:
        """Losses at the best rate and batch, shape `batch_shape x n`, at features (n, 4)."""
        n, d = features[:, 0], features[:, 1]
        return floor(self.thetas[..., None, :], n, d) + self.offset

    def reducible(self, features: Array) -> Array:
        """Reducible losses at the best rate and batch, shape `batch_shape x n`, at features (n, 4)."""
        return reducible(self.thetas[..., None, :], features[:, 0], features[:, 1])

    def valley(self, features: Array) -> tuple[Array, Array]:
        """ln best rate at the features' own batch and ln best batch, centred; `batch_shape x n` each."""
        n, d, _, b = features.T
        thetas = self.thetas[..., None, :]
        return best_rate(thetas, n, d, b), best_batch(thetas, n, d)

    def curvatures(self, features: Array) -> tuple[Array, Array]:
        """Loss per squared factor of e off the best rate, and off the best batch; `batch_shape x n` each."""
        return curvatures(self.thetas[..., None, :], features[:, 0], features[:, 1])


class MisfitKernel(gpytorch.kernels.Kernel):
    """What a law misses: (s^2 + w^2 e e') c(x, x') + f^2 l l' g(x, x') for a base s^2 c(x, x').

    e is the law's excess over the valley's floor. What a law misses grows with what it says: near the floor a
    curve is off by little, far up its walls by a share of their height. Without this, bad runs make the
    process distrust the law everywhere; with it, a wall is still no place to hope for losses below the floor.
    l is the reducible loss and g the field of `floor_field`.

    Args:
        base: of what the law misses at the floor.
        law: the law, of one theta (19,).
        wall_share: w, deviation as a share of the excess.
        floor_field: where floors are off by the same, or None for no such field.
        field_share: f, deviation as a share of the reducible loss.
    """

    has_lengthscale = False

    def __init__(
        self,
        base: gpytorch.kernels.ScaleKernel,
        law: LawMean,
        wall_share: float,
        floor_field: FloorField | None,
        field_share: float,
    ) -> None:
        super().__init__()
        self.base, self.law, self.wall_share = base, law, wall_share
        self.floor_field, self.field_share = floor_field, field_share

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: object) -> Tensor:
        left, right = self._wall(x1), self._wall(x2)
        if diag:
            process = self.base(x1, x2, diag=True) * (1 + left * right)
        else:
            process = self.base(x1, x2).to_dense() * (1 + left[..., None] * right[..., None, :])
        return process if self.floor_field is None else process + self._field(x1, x2, diag)

    def relative_sd(self, excess: Tensor, x: Tensor) -> Tensor:
        """Deviation that the kernel would have with other laws' walls over that with its own, shape (s, n).

        Args:
            excess: of the other laws over their own floors, in losses, shape (s, n).
            x: inputs, shape (n, d + 4).
        """
        level = 1 + self._field_sd(x).square() / self.base.outputscale.detach()
        walls = self._wall_of(excess)
        return ((level + walls.square()) / (level + self._wall(x).square())).sqrt()

    def _wall(self, x: Tensor) -> Tensor:
        """w e / s, in the shape of the rows."""
        value, floor = self.law.value_and_floor(features_of(x))
        return self._wall_of(value - floor).reshape(x.shape[:-1])

    def _wall_of(self, excess: Tensor) -> Tensor:
        return self.wall_share * (excess / self.law.scale) / self.base.outputscale.detach().sqrt()

    def _field_sd(self, x: Tensor) -> Tensor:
        """f l, in the shape of the rows."""
        if self.floor_field is None:
            return torch.zeros(x.shape[:-1], dtype=torch.float64)
        above = self.law.reducible(features_of(x)).reshape(x.shape[:-1])
        return torch.from_numpy(self.field_share * above / self.law.scale)

    def _field(self, x1: Tensor, x2: Tensor, diag: bool) -> Tensor:
        assert self.floor_field is not None
        left, right = (
            self.floor_field.places(x[..., :-N_FEATURES], x[..., -N_FEATURES:])
            for x in (x1.detach().numpy(), x2.detach().numpy())
        )
        left_sd, right_sd = self._field_sd(x1), self._field_sd(x2)
        if diag:
            apart = np.square(left - right).sum(axis=-1)
            return left_sd * right_sd * torch.from_numpy(np.exp(-0.5 * apart))
        return left_sd[..., None] * right_sd[..., None, :] * torch.from_numpy(field_correlation(left, right))
