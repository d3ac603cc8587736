"""Huber's loss, and the descent by which the laws for extrapolation are fitted."""

from collections.abc import Callable

import numpy as np

HUBER = 2.0  # standard deviations beyond which a run counts linearly
LARGEST_STEP = 1.5  # in deviations of the prior
DAMPINGS = 8


def huber(residual: np.ndarray, variance: np.ndarray) -> tuple[float, np.ndarray]:
    """Huber's loss of residuals, summed, and the weights of the least squares that have its slope.

    Args:
        residual: shape (n,).
        variance: shape (n,).
    """
    r = np.abs(residual) / np.sqrt(variance)
    loss = float(np.where(r <= HUBER, r**2 / 2, HUBER * (r - HUBER / 2)).sum())
    return loss, np.minimum(1.0, HUBER / np.maximum(r, 1e-12)) / variance


def levenberg_marquardt(
    cost: Callable[[np.ndarray], float],
    slopes: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    z: np.ndarray,
    scale: np.ndarray,
    steps: int = 25,
    least_gain: float = 1e-3,
) -> np.ndarray:
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
