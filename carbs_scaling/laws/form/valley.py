"""The shape of the valley in learning rate and batch: what a run loses off its best setting.

v is the LINEX loss (Varian 1975): u^2 near its floor, exponential on one side and linear on the other, since
too high a learning rate hurts more than too low a one and too large a batch leaves too few steps.
"""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Values = Array | float

# Beyond this distance from the floor (in logs) the valley is taken at this distance: keeps exp() finite.
_REACH = 9.0
# Below this skew the closed form cancels, and its series is taken.
_SMALL_SKEW = 1e-3


def valley_depth(offset: Values, skew: Values) -> Array:
    """v alone, without derivatives: a proposal evaluates it some hundred thousand times.

    Args:
        offset: u = ln(setting / best setting), any shape.
        skew: r, broadcastable to it.
    """
    u = np.minimum(np.maximum(offset, -_REACH), _REACH)
    if isinstance(skew, float):  # of one law: half the time
        if abs(skew) < _SMALL_SKEW:
            return np.asarray(u * u * (1 + skew * u / 3))
        x = np.minimum(np.maximum(skew * u, -60.0), 8.0)
        return np.asarray(2 * (np.expm1(x) - x) / (skew * skew))
    small = np.abs(skew) < _SMALL_SKEW
    r = np.where(small, 1.0, skew)
    x = np.minimum(np.maximum(r * u, -60.0), 8.0)
    depth: Array = 2 * (np.expm1(x) - x) / (r * r)
    return np.where(small, u * u * (1 + skew * u / 3), depth) if small.any() else depth


def valley(offset: Array, skew: float) -> tuple[Array, Array, Array]:
    """v = 2 (exp(r u) - r u - 1) / r^2 with its derivatives by u and by r.

    Args:
        offset: u, any shape.
        skew: r.
    """
    u = np.minimum(np.maximum(offset, -_REACH), _REACH)
    inside = np.abs(offset) < _REACH
    if abs(skew) < _SMALL_SKEW:
        square = u * u
        shape = square * (1 + skew * u / 3)
        return shape, np.where(inside, 2 * u + skew * square, 0.0), square * u * (1 / 3 + skew * u / 6)
    x = np.minimum(np.maximum(skew * u, -60.0), 8.0)
    grown = np.expm1(x)
    shape = 2 / skew**2 * (grown - x)
    by_offset = 2 / skew * grown
    return shape, np.where(inside, by_offset, 0.0), u * by_offset / skew - 2 / skew * shape
