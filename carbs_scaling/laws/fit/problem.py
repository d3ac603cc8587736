"""The law's parameters given runs: what is minimised, and its posterior.

A run that diverged has no loss, but its learning rate was too high: the best one at its N, D and batch lies
below, up to a factor of e^`_BOUND_WIDTH`. It enters as a one-sided term of the likelihood, with a small
chance that it diverged for another reason.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from scipy.special import ndtr

from carbs_scaling.laws.fit.least_squares import Errors, levenberg_marquardt
from carbs_scaling.laws.form.bends import BENDS, bend_basis, reach_of
from carbs_scaling.laws.form.law import (
    INDEX,
    NAMES,
    SHIFTS,
    best_batch,
    best_rate,
    floor_and_height,
    value_and_slopes,
)
from carbs_scaling.laws.form.valley import Array
from carbs_scaling.laws.prior.prior import LawPrior

_BOUND_WIDTH = 0.1  # in logs: over this a diverged run's rate turns from above the best one to below it
_LEAST_LEVEL = 1e-150  # its square is still a number
_OTHER_CAUSE = 0.05  # chance that a run diverged for another reason than its rate


@dataclass(frozen=True)
class Grouping:
    """Runs that share shifts of the law, each normal around 0.

    Args:
        level: `cell`, `size` or `bend`.
        kind: a name of `law.SHIFTS`.
        basis: how much of each shift each run has, shape (n, m): 0 or 1 for cells and sizes.
        told: whether the runs tell the variance of the shifts; else the first guess of it stays.
    """

    level: str
    kind: str
    basis: Array
    told: bool = True

    @property
    def groups(self) -> int:
        """How many shifts there are, m."""
        return self.basis.shape[1]

    def design(self, slopes: Array) -> Array:
        """Slopes of the losses by the shifts, shape (n, m), from those by `law.NAMES`, shape (n, 19)."""
        moved = [INDEX[name] for name in SHIFTS[self.kind]]
        column = slopes[:, moved].sum(axis=1) if moved else np.ones(len(slopes))
        return column[:, None] * self.basis


@dataclass(frozen=True)
class LawProblem:
    """Runs, prior and shared shifts: a cost of z, which holds the free parameters and then all shifts.

    Args:
        features: centred logs of N, D, learning rate, batch; shape (n, 4).
        loss: shape (n,).
        prior: of the parameters; pinned ones are no part of z.
        groups: shifts that runs share.
        diverged: centred logs as in `features` of runs that diverged, shape (m, 4).
        held: shifts that stay as they are, by kind, shape (n,).
    """

    features: Array
    loss: Array
    prior: LawPrior
    groups: Sequence[Grouping] = ()
    diverged: Array = field(default_factory=lambda: np.empty((0, 4)))
    held: Mapping[str, Array] = field(default_factory=dict)

    def thinned(self, most: int) -> "LawProblem":
        """The same with `most` of the runs, drawn evenly; itself where it has no more."""
        if len(self.loss) <= most:
            return self
        kept = np.random.default_rng(0).choice(len(self.loss), most, replace=False)
        groups = [Grouping(group.level, group.kind, group.basis[kept]) for group in self.groups]
        held = {kind: shift[kept] for kind, shift in self.held.items()}
        return LawProblem(self.features[kept], self.loss[kept], self.prior, groups, self.diverged, held)

    def near(self, z: Array) -> tuple["LawProblem", float]:
        """The same under the normal prior that acts at z, and what that lacks of the negative log prior."""
        if not self.prior.tails:
            return self, 0.0
        prior, lacks = self.prior.at_hand(self.theta(z))
        return replace(self, prior=prior), lacks

    @cached_property
    def level(self) -> float:
        """A low loss of the runs, by which noise is judged; one run near 0 among others is none."""
        return max(float(self.loss.min()), 1e-3 * float(self.loss.max()), _LEAST_LEVEL)

    @cached_property
    def size(self) -> int:
        """Number of free parameters."""
        return len(self.prior.free)

    @cached_property
    def _slices(self) -> list[slice]:
        ends = np.cumsum([self.size, *(group.groups for group in self.groups)]).tolist()
        return [slice(start, stop) for start, stop in pairwise(ends)]

    def begin(self, theta: Array) -> Array:
        """z of a law (19,) without shifts."""
        return np.concatenate([theta[self.prior.free], np.zeros(sum(group.groups for group in self.groups))])

    def theta(self, z: Array) -> Array:
        """The law's parameters, shape (19,)."""
        theta = self.prior.mean.copy()
        theta[self.prior.free] = z[: self.size]
        return theta

    def shifts_of(self, z: Array) -> list[Array]:
        """The shifts of each grouping, shape (m,) each."""
        return [z[part] for part in self._slices]

    def by_parameters(self, z: Array) -> tuple[Array, Array, Array]:
        """Losses (n,), heights above the floor (n,), and slopes of the losses by `law.NAMES` (n, 19)."""
        return value_and_slopes(self.theta(z), self.features, self._shifts(z))

    def floor_and_height(self, z: Array) -> tuple[Array, Array]:
        """Floors under the runs and heights above them, (n,) each."""
        return floor_and_height(self.theta(z), self.features, self._shifts(z))

    def residual(self, z: Array) -> Array:
        """Losses less the law's, (n,)."""
        return self.loss - sum(self.floor_and_height(z))

    def _shifts(self, z: Array) -> dict[str, Array]:
        shifts: dict[str, Array] = dict(self.held)
        for group, own in zip(self.groups, self.shifts_of(z), strict=True):
            shifts[group.kind] = shifts.get(group.kind, 0.0) + group.basis @ own
        return shifts

    def evaluate(self, z: Array) -> tuple[Array, Array, Array]:
        """Losses (n,), heights above the floor (n,), and slopes of the losses by z (n, p)."""
        value, height, slopes = self.by_parameters(z)
        of_shifts = [group.design(slopes) for group in self.groups]
        return value, height, np.concatenate([slopes[:, self.prior.free], *of_shifts], axis=1)

    def precision(self, spread2: Sequence[float]) -> Array:
        """Inverse prior covariance of z, shape (p, p), for a variance of each grouping's shifts."""
        of_shifts = [
            np.full(group.groups, 1 / variance) for group, variance in zip(self.groups, spread2, strict=True)
        ]
        full = np.diag(np.concatenate([np.zeros(self.size), *of_shifts]))
        full[: self.size, : self.size] = self.prior.precision
        return full

    def penalty(self, z: Array, precision: Array) -> float:
        """Negative log prior of z, up to a constant."""
        centred = self._centred(z)
        return 0.5 * float(centred @ precision @ centred)

    def minimise(
        self,
        z: Array,
        errors: Errors,
        spread2: Sequence[float] = (),
        steps: int = 25,
        least_gain: float = 1e-3,
    ) -> Array:
        """The most probable z under errors that are held, from z on downhill."""
        precision = self.precision(spread2)

        def cost(z: Array) -> float:
            return errors.cost(self.residual(z)) + self.penalty(z, precision) + self.too_high(z)[0]

        def slopes(z: Array) -> tuple[Array, Array]:
            value, _, design = self.evaluate(z)
            downhill, curvature = errors.normal_equations(self.loss - value, design)
            _, bound_slope, bound_curvature = self.too_high(z)
            downhill = downhill - precision @ self._centred(z) - bound_slope
            return downhill, curvature + bound_curvature + precision

        scale = self.prior.scale[self.prior.free]
        return levenberg_marquardt(cost, slopes, z, scale, steps, least_gain)

    def covariance(self, z: Array, errors: Errors, spread2: Sequence[float] = ()) -> Array:
        """Laplace (Gauss-Newton) posterior covariance of z, shape (p, p)."""
        value, _, design = self.evaluate(z)
        _, curvature = errors.normal_equations(self.loss - value, design)
        return np.asarray(np.linalg.inv(curvature + self.too_high(z)[2] + self.precision(spread2)), float)

    def cost(self, z: Array, errors: Errors, spread2: Sequence[float] = ()) -> float:
        """Negative log posterior of z, up to a constant."""
        return errors.cost(self.residual(z)) + self.penalty(z, self.precision(spread2)) + self.too_high(z)[0]

    def _centred(self, z: Array) -> Array:
        centred = z.copy()
        centred[: self.size] -= self.prior.mean[self.prior.free]
        return centred

    @cached_property
    def _bounds(self) -> Array:
        """Of the diverged runs the one of least rate at each N, D and batch: it implies the others."""
        order = self.diverged[np.argsort(self.diverged[:, 2])]
        return order[np.unique(np.round(order[:, [0, 1, 3]], 2), axis=0, return_index=True)[1]]

    def too_high(self, z: Array) -> tuple[float, Array, Array]:
        """What the diverged runs add to the cost, its gradient (p,) and its curvature (p, p)."""
        if not len(self.diverged):
            return 0.0, np.zeros(len(z)), np.zeros((len(z), len(z)))
        theta = self.theta(z)
        n, d, e, b = self._bounds.T
        basis = bend_basis(n, d, reach_of(self.features))
        shift = {kind: np.zeros(len(n)) for kind in BENDS}
        by_z = np.zeros((len(n), len(z)))
        for group, own, part in zip(self.groups, self.shifts_of(z), self._slices, strict=True):
            if group.level == "bend":
                shift[group.kind] = basis @ own
                by_z[:, part] = basis if group.kind == "rate" else -theta[INDEX["a_B"]] * basis
        off_batch = b - (best_batch(theta, n, d) + shift["batch"])
        a_b = theta[INDEX["a_B"]]
        best = best_rate(theta, n, d) + shift["rate"] + a_b * off_batch
        by_theta = np.zeros((len(n), len(NAMES)))
        for name, slope in (("a0", 1.0), ("a_N", n), ("a_D", d), ("a_B", off_batch)):
            by_theta[:, INDEX[name]] = slope
        for name, slope in (("b0", 1.0), ("b_N", n), ("b_D", d)):
            by_theta[:, INDEX[name]] = -a_b * np.broadcast_to(slope, n.shape)
        by_z[:, : self.size] = by_theta[:, self.prior.free]
        below = (e - best) / _BOUND_WIDTH
        likely = _OTHER_CAUSE + (1 - _OTHER_CAUSE) * ndtr(below)
        density = (1 - _OTHER_CAUSE) * np.exp(-(below**2) / 2) / np.sqrt(2 * np.pi)
        slope = density / likely / _BOUND_WIDTH
        curvature = slope * (slope + np.maximum(below, 0.0) / _BOUND_WIDTH)
        return -float(np.log(likely).sum()), by_z.T @ slope, by_z.T @ (curvature[:, None] * by_z)
