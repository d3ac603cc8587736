"""Robust and correlated errors, and the descent by which the scaling law is fitted."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.linalg import solve_triangular

from carbs_scaling.laws.form.valley import Array

HUBER = 2.0  # standard deviations beyond which a run counts linearly
LARGEST_STEP = 1.5  # in deviations of the prior
DAMPINGS = 8


class Errors(Protocol):
    """How runs scatter around a law."""

    def cost(self, residual: Array) -> float:
        """Negative log likelihood of residuals (n,), up to a constant."""
        ...

    def normal_equations(self, residual: Array, design: Array) -> tuple[Array, Array]:
        """Minus the cost's gradient (p,) and its curvature (p, p), for slopes (n, p) of the law."""
        ...


@dataclass(frozen=True)
class IndependentErrors:
    """Independent runs under Huber's loss.

    Args:
        variance: of each run, shape (n,).
    """

    variance: Array

    def cost(self, residual: Array) -> float:
        """Huber's loss, summed."""
        return huber(residual, self.variance)[0]

    def normal_equations(self, residual: Array, design: Array) -> tuple[Array, Array]:
        """Of the least squares that have the same slope."""
        weight = huber(residual, self.variance)[1]
        return design.T @ (weight * residual), design.T @ (weight[:, None] * design)


@dataclass(frozen=True)
class CorrelatedErrors:
    """Jointly normal errors.

    Args:
        cholesky: lower factor of their covariance, shape (n, n).
    """

    cholesky: Array

    def cost(self, residual: Array) -> float:
        """Half the whitened squares."""
        return 0.5 * float(np.square(self._whitened(residual)).sum())

    def normal_equations(self, residual: Array, design: Array) -> tuple[Array, Array]:
        """Of generalised least squares."""
        white = self._whitened(design)
        return white.T @ self._whitened(residual), white.T @ white

    def _whitened(self, values: Array) -> Array:
        return np.asarray(solve_triangular(self.cholesky, values, lower=True, check_finite=False))


def huber(residual: Array, variance: Array) -> tuple[float, Array]:
    """Huber's loss of residuals, summed, and the weights of the least squares that have its slope.

    Args:
        residual: shape (n,).
        variance: shape (n,).
    """
    r = np.abs(residual) / np.sqrt(variance)
    loss = float(np.where(r <= HUBER, r**2 / 2, HUBER * (r - HUBER / 2)).sum())
    return loss, np.minimum(1.0, HUBER / np.maximum(r, 1e-12)) / variance


def levenberg_marquardt(
    cost: Callable[[Array], float],
    slopes: Callable[[Array], tuple[Array, Array]],
    z: Array,
    scale: Array,
    steps: int = 25,
    least_gain: float = 1e-3,
) -> Array:
    """Where a cost is least, from z on downhill, shape (p,).

    Args:
        cost: of z.
        slopes: of z: minus the gradient, shape (p,), and a positive definite curvature, shape (p, p).
        z: where to begin, shape (p,).
        scale: of the first parameters, shape (m,): none moves by more than `LARGEST_STEP` of it at once.
        steps: at most.
        least_gain: a step that brings less is the last.
    """
    best, damping = cost(z), 1e-3
    for _ in range(steps):
        downhill, curvature = slopes(z)
        for _ in range(DAMPINGS):
            step = np.linalg.solve(curvature + damping * np.diag(np.diag(curvature)), downhill)
            step *= min(1.0, LARGEST_STEP / max(np.abs(step[: len(scale)] / scale).max(), 1e-12))
            there = cost(z + step)
            if there < best:
                break
            damping *= 5
        else:
            break
        gained, best, z = best - there, there, z + step
        damping = max(damping / 5, 1e-9)
        if gained < least_gain:
            break
    return z
