"""Laws drawn from their posterior: what is not known about the law, without pretending that it is linear.

The normal (Laplace) approximation at the most probable law is the proposal of a preconditioned Crank-Nicolson
chain (Cotter et al. 2013, arXiv 1202.0709), whose acceptance corrects it for the law's curvature. That
matters: a valley can only add loss, and a linearised one predicts, far from its floor, losses below the
floor.
"""

from collections.abc import Callable
from typing import Any as LawFit

import numpy as np

_STEPS = 80
# Shares of fresh noise in a proposal, taken in turn: small ones are accepted, large ones get far.
_FRESH = (0.2, 0.5, 0.9)


def sample_laws(
    fit: LawFit,
    log_density: Callable[[np.ndarray], np.ndarray],
    count: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Parameters of `count` laws, shape (count, 19).

    Args:
        fit: the most probable law and its Laplace covariance; parameters of no variance stay as they are.
        log_density: unnormalised log posterior of laws (m, 19), shape (m,).
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

    # Start where the approximation holds, so that no chain is stuck in a tail from its first step on.
    z = 0.7 * rng.normal(size=(count, free.size))
    at = log_density(laws(z)) + 0.5 * np.square(z).sum(axis=1)
    for step in range(_STEPS):
        fresh = _FRESH[step % len(_FRESH)]
        proposal = np.sqrt(1 - fresh**2) * z + fresh * rng.normal(size=z.shape)
        there = log_density(laws(proposal)) + 0.5 * np.square(proposal).sum(axis=1)
        accept = np.log(rng.random(count)) < there - at
        z, at = np.where(accept[:, None], proposal, z), np.where(accept, there, at)
    return laws(z)
