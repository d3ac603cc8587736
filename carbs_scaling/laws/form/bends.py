"""Second-order terms of best rate, best batch and floor: how they depart from power laws of N and D.

Runs are far fewer than they seem where a bend is concerned: a best learning rate that is off at one of four
sizes looks like a curve through them. Fitted as if runs were independent, and followed along its tangent,
such a curve ruins the recipe for a larger model. So a bend is kept as far as cells and sizes agree on it.
"""

from collections.abc import Callable

import numpy as np

from carbs_scaling.laws.form.valley import Array, Values

BENDS = ("rate", "batch")  # fitted with the valley; the floor bends by gamma already
ALL_BENDS = (*BENDS, "floor")  # rows of a law's `bend`
FIRST_BEND = 0.05  # change of an exponent over a factor of e of N or D
_KEPT_BEND = 0.3  # the same: prior standard deviation of what is kept
_FOLLOWED = 1.0  # in logs
# By which an exponent of rate or batch changes over a factor of e beyond the runs, this way or that.
WANDERING = 0.15
# The share by which the slope of the loss does: few runs tell the slope, but not how much of the loss is
# irreducible, so that with E = 0 and small exponents the same runs must give the same interval. Of .03 to .3
# the likeliest on Llama 3's, Marin's and Chinchilla's runs (benchmarks/laws_loss_intervals.py).
LOSS_WANDERING = 0.1
# The same of tiny models on text: benchmarks/extrapolate_text_seeds.py found losses .2 off at nine times N.
TINY_PARAMS, TINY_LOSS_WANDERING = 1e5, 0.33

_STEP = 1e-3  # in logs: by which a slope is read off

Reach = tuple[tuple[float, float], tuple[float, float]]


def bend_basis(n: Values, d: Values, reach: Reach) -> Array:
    """Second-order terms by which a location departs from a power law.

    Beyond `reach` they go on along their tangents, which level off within a factor of e: that a curve goes
    on is the less certain the further it is from the runs that showed it.

    Args:
        n: centred ln N, shape (...).
        d: centred ln D, broadcastable to it.
        reach: ((lowest, highest) n, (lowest, highest) d) of the runs.

    Returns:
        Shape (..., 3).
    """
    (n_low, n_high), (d_low, d_high) = reach
    near_n, near_d = np.clip(n, n_low, n_high), np.clip(d, d_low, d_high)
    far_n, far_d = near_n + _levelled(n - near_n), near_d + _levelled(d - near_d)
    terms = (
        near_n * far_n - near_n**2 / 2,
        near_n * far_d + near_d * far_n - near_n * near_d,
        near_d * far_d - near_d**2 / 2,
    )
    return np.stack(np.broadcast_arrays(*terms), axis=-1)


def wander_beyond(way: float, wandering: float = WANDERING) -> float:
    """Standard deviation of the log of a power law for what its exponents do at a distance from the runs.

    A random walk of the exponent, `wandering` over a factor of e, summed over the way.
    """
    return wandering * float(np.sqrt(way**3 / 3))


def loss_wandering(largest_params: float) -> float:
    """`wandering` of the loss, as a share of its slope, beyond runs of which the largest model has this N."""
    return TINY_LOSS_WANDERING if largest_params < TINY_PARAMS else LOSS_WANDERING


def steepness(loss: Callable[[float, float], Array], params: float, tokens: float) -> float:
    """Length of the gradient of a loss by ln N and ln D, at N and D."""
    up = np.exp(_STEP)
    by_n = loss(params * up, tokens) - loss(params / up, tokens)
    by_d = loss(params, tokens * up) - loss(params, tokens / up)
    return float(np.hypot(by_n, by_d)) / (2 * _STEP)


def _levelled(beyond: Array) -> Array:
    return np.sign(beyond) * -_FOLLOWED * np.expm1(-np.abs(beyond) / _FOLLOWED)


def reach_of(features: Array) -> Reach:
    """The `reach` of `bend_basis` for runs (n, 4)."""
    low, high = features.min(axis=0), features.max(axis=0)
    return (float(low[0]), float(high[0])), (float(low[1]), float(high[1]))


def kept_bends(z: Array, covariance: Array, first: int) -> tuple[Array, Array]:
    """Parameters and their covariance once the bends are drawn to zero, and what goes with them.

    The fit sees runs as independent; `covariance` knows how far runs of a cell and of a size go together.
    This is Bayes' rule for a normal prior of `_KEPT_BEND` on each bend under that covariance.

    Args:
        z: parameters, the bends from `first` on, shape (p,).
        covariance: of z, shape (p, p).
        first: index of the first bend.
    """
    at = slice(first, None)
    total = covariance[at, at] + _KEPT_BEND**2 * np.eye(len(z) - first)
    gain = np.linalg.solve(total, covariance[at]).T
    return z - gain @ z[at], covariance - gain @ covariance[at]
