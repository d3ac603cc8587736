"""Laws drawn from their posterior: what is not known about the law, without pretending that it is linear.

The normal (Laplace) approximation at the most probable law is the proposal of a preconditioned Crank-Nicolson
chain (Cotter et al. 2013, arXiv 1202.0709), whose acceptance corrects it for the law's curvature. That matters: a
valley can only add loss, and a linearised one predicts, far from its floor, losses below the floor.
"""

from collections.abc import Callable

import numpy as np

from carbs_scaling.laws.loss import LawFit

_STEPS = 30
# Share of fresh noise in a proposal; half and half mixes in a few steps at a good acceptance.
_FRESH = 0.5


def sample_laws(
    fit: LawFit,
    log_density: Callable[[np.ndarray], np.ndarray],
    count: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Parameters of `count` laws, shape (count, 18).

    Args:
        fit: the most probable law and its Laplace covariance; parameters of no variance stay as they are.
        log_density: unnormalised log posterior of laws (m, 18), shape (m,).
        count: number of parallel chains; the end of each is one draw.
        rng: of the draws.
    """
    free = np.flatnonzero(np.diag(fit.covariance) > 0)
    values, vectors = np.linalg.eigh(fit.covariance[np.ix_(free, free)])
    root = vectors * np.sqrt(np.maximum(values, 0.0))

    def laws(z: np.ndarray) -> np.ndarray:
        thetas = np.tile(fit.theta, (count, 1))
        thetas[:, free] += z @ root.T
        return thetas

    # Start where the approximation surely holds, so that no chain is stuck in a tail from its first step on.
    z = 0.3 * rng.normal(size=(count, free.size))
    at = log_density(laws(z)) + 0.5 * np.square(z).sum(axis=1)
    for _ in range(_STEPS):
        proposal = np.sqrt(1 - _FRESH**2) * z + _FRESH * rng.normal(size=z.shape)
        there = log_density(laws(proposal)) + 0.5 * np.square(proposal).sum(axis=1)
        accept = np.log(rng.random(count)) < there - at
        z, at = np.where(accept[:, None], proposal, z), np.where(accept, there, at)
    return laws(z)
