"""What a run teaches about one large model: its best learning rate, its best batch and its loss.

No law is exact: its best rate, best batch and floor are off by smooth fields over (ln N, ln D) that runs of
another size only half reveal. With them a cheap run far from the target stops teaching once the fields'
spread is all that is left, where a law taken to be exact would go on buying the cheapest runs for ever. And
exponents of rate and batch change along the way (`laws.form.bends`), which only runs of many sizes show.
Everything is linear around the most probable law, so a run's worth is known before it is made
(Chaloner and Verdinelli 1995, Bayesian experimental design).
"""

from __future__ import annotations

import numpy as np
import torch
from botorch.acquisition import AcquisitionFunction
from botorch.utils.transforms import t_batch_mode_transform
from scipy.linalg import solve_triangular
from torch import Tensor

from carbs_scaling.laws.form.bends import WANDERING, bend_basis, reach_of
from carbs_scaling.laws.form.law import (
    INDEX,
    NAMES,
    best_batch,
    best_rate,
    floor_and_height,
    reducible,
    value_and_slopes,
)
from carbs_scaling.laws.form.valley import Array
from carbs_scaling.laws.prior.prior import LawPrior
from carbs_scaling.space.floor_field import field_correlation
from carbs_scaling.surrogate.law_mean import features_of
from carbs_scaling.surrogate.model import stable_cholesky
from carbs_scaling.surrogate.posterior import LossModel, MixturePosterior

Reach = tuple[tuple[float, float], tuple[float, float]]

# Spread, in logs, of best rate and best batch around a power law, and of the floor as a share of the
# reducible loss; over such a distance in ln N and ln D they forget. About as far as
# published exponents differ (.1 to .2) over the two decades that laws are fitted on.
RATE_FIELD, BATCH_FIELD, FLOOR_FIELD = 0.2, 0.25, 0.05
FIELD_REACH = 2.0
# Noise of a run as a share of its height above the floor: how steep walls are is the least known thing.
HEIGHT_NOISE = 0.2
# Change of an exponent of best rate or batch over a factor of e, among the runs as beyond them.
BEND = WANDERING


class TargetModel(LossModel):
    """Losses of runs, and the target's best rate, best batch and loss, linear around a law, given n runs.

    Inputs are rows whose last 4 columns are centred log features.

    Args:
        theta: the law, shape (19,).
        prior: of its parameters.
        features: centred log features of the runs, shape (n, 4).
        at: those of the target's (N, D) with its best rate and batch, shape (1, 4).
        noise_sd: of a run at the floor, in losses.
        factor: Cholesky factor of the runs' covariance with noise, shape (n, n).
        whitened: the factor's inverse times (losses less the law's prior mean), shape (n,).
        reach: of the runs, as in `laws.form.bends.bend_basis`.
    """

    def __init__(
        self,
        theta: Array,
        prior: LawPrior,
        features: Array,
        at: Array,
        noise_sd: float,
        factor: Array,
        whitened: Array,
        reach: Reach,
    ) -> None:
        super().__init__()
        self.theta, self.prior, self.features, self.at = theta, prior, features, at
        self.noise_sd, self.factor, self.whitened, self.reach = noise_sd, factor, whitened, reach
        self.eval()

    @staticmethod
    def of(theta: Array, prior: LawPrior, features: Array, loss: Array, target: Array) -> TargetModel:
        """The model after some runs.

        Args:
            theta: a robust fit of the law to them, shape (19,).
            prior: of its parameters.
            features: centred log features of the runs, shape (n, 4).
            loss: their losses, shape (n,).
            target: centred ln N and ln D, shape (2,).
        """
        theta = np.asarray(theta, dtype=float)
        expected, _, slopes = value_and_slopes(theta, features)
        off = loss - expected
        noise_sd = max(1.4826 * float(np.median(np.abs(off))), 1e-3 * float(np.min(np.abs(loss))))
        at = np.array([[target[0], target[1], 0.0, 0.0]])
        at[0, 3] = best_batch(theta, *target)
        at[0, 2] = best_rate(theta, *target)
        reach = reach_of(features)
        bare = TargetModel(theta, prior, features, at, noise_sd, np.zeros((0, 0)), np.zeros(0), reach)
        covariance = bare._covariance(features, features)
        covariance[np.diag_indices(len(loss))] += bare._noise(features)
        factor = stable_cholesky(torch.from_numpy(covariance)).numpy()
        whitened = solve_triangular(factor, off - slopes @ (prior.mean - theta), lower=True)
        return TargetModel(theta, prior, features, at, noise_sd, factor, whitened, reach)

    def _posterior(self, X: Tensor) -> MixturePosterior:
        """Losses of runs at X, `batch_shape x q x d'`; one component."""
        rows, q = features_of(X), X.shape[-2]
        value, _, slopes = value_and_slopes(self.theta, rows)
        known, prior = self._known(rows), self._variance(rows)
        mean = value + slopes @ (self.prior.mean - self.theta) + known.T @ self.whitened
        # What is left where the runs say everything is rounding.
        sd = np.sqrt(np.maximum(prior - np.square(known).sum(axis=0), 1e-14 * prior))

        def correlation() -> Tensor:
            blocks = [slice(i, i + q) for i in range(0, len(rows), q)]
            covariance = [self._covariance(rows[i], rows[i]) - known[:, i].T @ known[:, i] for i in blocks]
            found = np.array([c / np.outer(sd[i], sd[i]) for c, i in zip(covariance, blocks, strict=True)])
            return torch.from_numpy(found).reshape(*X.shape[:-1], q)

        means, deviations = (torch.from_numpy(part).reshape(1, *X.shape[:-1]) for part in (mean, sd))
        one = torch.ones(1, dtype=torch.float64)
        return MixturePosterior(one, means, deviations, correlation)

    def with_target(self, X: Tensor) -> Array:
        """Covariance of runs at X, m rows in all, with the target's (ln rate, ln batch, loss); (m, 3)."""
        rows = features_of(X)
        prior = self._target_covariances(rows)[0]
        return prior - self._known(rows).T @ self._known_target()

    def noise(self, X: Tensor) -> Array:
        """Noise variance of runs at X, m rows in all, shape (m,)."""
        return self._noise(features_of(X))

    def _known(self, features: Array) -> Array:
        """Whitened covariance of the n runs with m others, shape (n, m)."""
        return solve_triangular(self.factor, self._covariance(self.features, features), lower=True)

    def _known_target(self) -> Array:
        """Whitened covariance of the n runs with the target's (ln rate, ln batch, loss), shape (n, 3)."""
        return solve_triangular(self.factor, self._target_covariances(self.features)[0], lower=True)

    def target_covariance(self) -> Array:
        """Posterior covariance of (ln rate, ln batch, loss) at the target, shape (3, 3)."""
        reached = self._known_target()
        return self._target_covariances(self.at)[1] - reached.T @ reached

    def _fields(self, left: Array, right: Array) -> Array:
        return field_correlation(left[:, :2] / FIELD_REACH, right[:, :2] / FIELD_REACH)

    def _slopes(self, features: Array) -> tuple[Array, Array, Array]:
        """Slopes of n runs' losses by what is not known, times the prior deviation of each.

        By the law's parameters (n, k), by the three bends of best rate and of best batch (n, 6), and by the
        fields of best rate, best batch and floor (n, 3), which differ from place to place.
        """
        slopes = value_and_slopes(self.theta, features)[2]
        above = reducible(self.theta, features[:, 0], features[:, 1])
        rate, batch = (slopes[:, INDEX[name]] for name in ("a0", "b0"))
        basis = BEND * bend_basis(features[:, 0], features[:, 1], self.reach)
        return (
            slopes @ self.prior.root,
            np.concatenate([rate[:, None] * basis, batch[:, None] * basis], axis=1),
            np.stack([RATE_FIELD * rate, BATCH_FIELD * batch, FLOOR_FIELD * above], axis=-1),
        )

    def _target_bends(self) -> Array:
        """Slopes of (ln rate, ln batch, loss) at the target by the bends, times `BEND`; shape (3, 6)."""
        basis = BEND * bend_basis(self.at[:, 0], self.at[:, 1], self.reach)[0]
        moved = np.zeros((3, 6))
        moved[0, :3] = moved[1, 3:] = basis
        return moved

    def _covariance(self, left: Array, right: Array) -> Array:
        (law, bends, fields), (law_r, bends_r, fields_r) = self._slopes(left), self._slopes(right)
        return law @ law_r.T + bends @ bends_r.T + (fields @ fields_r.T) * self._fields(left, right)

    def _variance(self, features: Array) -> Array:
        return np.sum([np.square(part).sum(axis=1) for part in self._slopes(features)], axis=0)

    def _noise(self, features: Array) -> Array:
        height = floor_and_height(self.theta, features)[1]
        return self.noise_sd**2 + (HEIGHT_NOISE * height) ** 2

    def _target_slopes(self) -> Array:
        """Slopes of (ln rate, ln batch, loss) at the target by the law's parameters, shape (3, 19)."""
        n, d = self.at[0, :2]
        slopes = np.zeros((3, len(NAMES)))
        for row, moves in enumerate(({"a0": 1.0, "a_N": n, "a_D": d}, {"b0": 1.0, "b_N": n, "b_D": d})):
            slopes[row, [INDEX[name] for name in moves]] = list(moves.values())
        slopes[2] = value_and_slopes(self.theta, self.at)[2][0]
        return slopes

    def _target_covariances(self, features: Array) -> tuple[Array, Array]:
        """Prior covariance of runs (m,) with the target's (rate, batch, loss), (m, 3), and its own (3, 3)."""
        law, bends = self._target_slopes() @ self.prior.root, self._target_bends()
        above = float(reducible(self.theta, self.at[0, 0], self.at[0, 1]))
        spread = np.array([RATE_FIELD, BATCH_FIELD, FLOOR_FIELD * above])
        run_law, run_bends, run_fields = self._slopes(features)
        shared = self._fields(features, self.at) * run_fields * spread
        return (
            run_law @ law.T + run_bends @ bends.T + shared,
            law @ law.T + bends @ bends.T + np.diag(spread**2),
        )


class TargetInformation(AcquisitionFunction):
    """Nats that a run tells about the target's best rate, best batch and loss.

    Args:
        model: of runs and the target.
    """

    model: TargetModel

    def __init__(self, model: TargetModel) -> None:
        super().__init__(model=model)

    @t_batch_mode_transform(expected_q=1)  # type: ignore[arg-type]
    def forward(self, X: Tensor) -> Tensor:
        """Information, shape `b`, of runs X, `b x 1 x d'`."""
        own = self.model.posterior(X).variance.reshape(-1).numpy()
        target = self.model.target_covariance() + 1e-12 * np.eye(3)
        root = np.linalg.solve(np.linalg.cholesky(target), self.model.with_target(X).T)
        explained = np.square(root).sum(axis=0)
        seen = np.maximum(own, explained) + self.model.noise(X)
        told = -0.5 * np.log1p(-np.minimum(explained / seen, 1 - 1e-9))
        return torch.from_numpy(told).reshape(X.shape[:-2])
