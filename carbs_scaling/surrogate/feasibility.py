"""The probability that a run trains to its end: not diverged, not out of memory.

A Gaussian process on the labels +1 (ended) and -1 (broke), squashed by a probit. Where nothing is known,
runs are taken to end: a search that fears what it has not tried never finds where the edge is. One
coordinate is special: how far the learning rate lies above the law's best, since divergence is a cliff on
that side (so it is counted in nepers, from the law, and carries over to sizes where nothing has broken yet).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.special import ndtr

from carbs_scaling.laws.loss import best_rate_feature
from carbs_scaling.ledger.history import History
from carbs_scaling.space.projection import Candidates, LegalSpace

# Prior label where nothing is known: ends with probability 0.93 after the squashing below.
_PRIOR = 1.5
# Lengthscales: of a unit-cube column, and nepers of learning rate above the best.
_CUBE_LENGTHSCALE = 0.4
_RATE_LENGTHSCALE = 0.7
_VARIANCE = 2.0
# Divergence is partly luck: labels next to one another may differ.
_NOISE = 0.3
_MAX_RUNS = 600


@dataclass(frozen=True)
class Feasibility:
    """Probability of ending from the ends of earlier runs.

    Args:
        inputs: scaled coordinates of earlier runs, shape (n, d + 1).
        weights: of the kernel's columns, shape (n,).
        factor: Cholesky factor of their covariance, as of `scipy.linalg.cho_factor`.
    """

    inputs: np.ndarray
    weights: np.ndarray
    factor: tuple

    @staticmethod
    def fit(cube: np.ndarray, rate_offset: np.ndarray, ended: np.ndarray) -> "Feasibility | None":
        """The model, or None while no run has broken.

        Args:
            cube: unit-cube coordinates, shape (n, d).
            rate_offset: ln(learning rate / the law's best), shape (n,).
            ended: whether each run did, shape (n,).
        """
        broken = np.flatnonzero(~ended)
        if not len(broken):
            return None
        fine = np.flatnonzero(ended)[: max(_MAX_RUNS - len(broken), 0)]
        chosen = np.concatenate([broken[-_MAX_RUNS:], fine])
        inputs = _scaled(cube[chosen], rate_offset[chosen])
        covariance = _kernel(inputs, inputs) + _NOISE * np.eye(len(inputs))
        factor = cho_factor(covariance, lower=True)
        # A run that ended as expected is no surprise; one that broke is, by the whole way down to -1.
        surprise = np.where(ended[chosen], 0.0, -1.0 - _PRIOR)
        return Feasibility(inputs, cho_solve(factor, surprise), factor)

    def probability(self, cube: np.ndarray, rate_offset: np.ndarray) -> np.ndarray:
        """Of ending, shape (m,), at unit-cube coordinates (m, d) and learning-rate offsets (m,)."""
        inputs = _scaled(cube, rate_offset)
        cross = _kernel(inputs, self.inputs)
        mean = _PRIOR + cross @ self.weights
        variance = _VARIANCE - np.einsum("ij,ji->i", cross, cho_solve(self.factor, cross.T))
        return ndtr(mean / np.sqrt(0.5 + np.maximum(variance, 0.0) / 4))


def _scaled(cube: np.ndarray, rate_offset: np.ndarray) -> np.ndarray:
    return np.column_stack([cube / _CUBE_LENGTHSCALE, np.maximum(rate_offset, -1.0) / _RATE_LENGTHSCALE])


def _kernel(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Half the variance by all coordinates, half by the learning rate alone, which holds for all sizes."""
    near = ((left[:, None, :] - right[None]) ** 2).sum(axis=-1)
    rate = (left[:, None, -1] - right[None, :, -1]) ** 2
    return _VARIANCE / 2 * (np.exp(-0.5 * near) + np.exp(-0.5 * rate))


def chance_to_end(
    space: LegalSpace, history: History, theta: np.ndarray
) -> Callable[[Candidates], np.ndarray] | None:
    """The probability that each of some candidates trains to its end; None while no run has broken.

    Args:
        space: of the caller.
        history: of the other trials.
        theta: the loss law, shape (19,).
    """
    if not history.failed:
        return None

    def rate_offset(runs: Candidates) -> np.ndarray:
        return runs.features[:, 2] - best_rate_feature(theta, runs.features)

    tried = space.describe(history.failed + history.points)
    model = Feasibility.fit(tried.cube, rate_offset(tried), np.arange(len(tried)) >= len(history.failed))
    return lambda runs: model.probability(runs.cube, rate_offset(runs))
