"""The scaling law: final loss over model size, tokens, learning rate and batch, with its derivatives.

    L = E + R [s (N/N0)^(-alpha/gamma) + (1 - s) (D/D0)^(-beta/gamma)]^gamma
          + k_e v(ln e - ln e*; r_e) + k_B v(ln B - ln B*; r_B)
    ln e* = a0 + a_N ln N + a_D ln D + a_B (ln B - ln B*)        ln B* = b0 + b_N ln N + b_D ln D
    ln k_. = ln k0_. - kappa_N ln N - kappa_D ln D

N: non-embedding parameters, D: training tokens, e: peak learning rate, B: tokens a step. gamma says how the
two parts of the reducible loss combine: 1 adds them (Hoffmann et al. 2022, arXiv 2203.15556, approach 3),
smaller lets the larger of the two rule. With E = 0 and gamma = beta it is equation 1.5 of Kaplan et al. 2020
(arXiv 2001.08361). v is the valley of `carbs_scaling.laws.form.valley`. The best rate is written relative to
the best batch, so that a_N and a_D are exponents at the optimum, as published laws give them, and a_B is the
exchange of rate and batch (1/2 by the square-root rule of Adam, arXiv 2205.10287).

All logs are relative to a centre (ln N0, ln D0, ln e0, ln B0), where the parameters are least correlated.
Runs without one of the roles have a feature of 0 there, and the prior pins the parameters that it moves
(`carbs_scaling.laws.prior.prior`), so that nothing here needs to know which roles there are.
"""

from collections.abc import Mapping
from math import exp
from typing import cast

import numpy as np

from carbs_scaling.laws.form.valley import Array, Values, valley, valley_depth

ROLES = ("params", "tokens", "learning_rate", "batch_tokens")

# name: what it is. In this order the parameters make the vector `theta`.
PARAMETERS = {
    "ln_E": "log of the irreducible loss",
    "ln_R": "log of the reducible loss at the centre",
    "logit_share": "log odds of the parameters' share s of it (before gamma)",
    "ln_alpha": "log exponent of the loss in N",
    "ln_beta": "log exponent of the loss in D",
    "ln_gamma": "log of how the two combine",
    "a0": "best learning rate at the centre",
    "a_N": "exponent of the best learning rate in N",
    "a_D": "exponent of the best learning rate in D",
    "a_B": "exponent of the best learning rate in the batch, off the best batch",
    "ln_k_e": "log curvature of the valley in the learning rate",
    "r_e": "its skew: above 0, too high hurts more than too low",
    "b0": "best batch at the centre",
    "b_N": "exponent of the best batch in N",
    "b_D": "exponent of the best batch in D",
    "ln_k_B": "log curvature of the valley in the batch",
    "r_B": "its skew",
    "kappa_N": "how the valleys flatten with N",
    "kappa_D": "how the valleys flatten with D",
}
NAMES = tuple(PARAMETERS)
FLOOR = NAMES[:6]  # what the loss at the best learning rate and batch depends on
INDEX = {name: i for i, name in enumerate(NAMES)}
# What may differ from one group of runs to another, and the parameters that it moves; loss is added to E
# itself.
SHIFTS: dict[str, tuple[str, ...]] = {
    "loss": (),
    "floor": ("ln_R",),
    "rate": ("a0",),
    "batch": ("b0",),
    "steepness": ("ln_k_e", "ln_k_B"),
}
_REACH = 50.0  # exponents are clipped there: far beyond any run, and finite


def _exp(value: Values) -> Array:
    # A fit asks for it some ten thousand times: half the time of np.clip on small arrays, a tenth on numbers.
    if isinstance(value, float):
        return cast(Array, np.float64(exp(min(max(value, -_REACH), _REACH))))
    return np.exp(np.minimum(np.maximum(value, -_REACH), _REACH))


class _Named:
    """Parameters by name, each of shape (...), from theta (..., 19): ten times as fast as a dict of them."""

    def __init__(self, theta: Values) -> None:
        self._theta = np.asarray(theta, dtype=float)

    def __getitem__(self, name: str) -> Array:
        column: Array = self._theta[..., INDEX[name]]
        return column


def reducible(theta: Values, n: Values, d: Values, shift: Values = 0.0) -> Array:
    """Reducible loss at the best learning rate and batch.

    Args:
        theta: values of `NAMES`, shape (..., 19).
        n: centred ln N, broadcastable to (...).
        d: centred ln D, broadcastable to (...).
        shift: added to its log.
    """
    p = _Named(theta)
    gamma = _exp(p["ln_gamma"])
    share = 1 / (1 + _exp(-p["logit_share"]))
    by_params = share * _exp(-_exp(p["ln_alpha"]) / gamma * n)
    by_tokens = (1 - share) * _exp(-_exp(p["ln_beta"]) / gamma * d)
    return _exp(p["ln_R"] + shift) * (by_params + by_tokens) ** gamma


def floor(theta: Values, n: Values, d: Values, shift: Values = 0.0) -> Array:
    """Loss at the best learning rate and batch; shapes as in `reducible`."""
    return _exp(_Named(theta)["ln_E"]) + reducible(theta, n, d, shift)


def best_batch(theta: Values, n: Values, d: Values) -> Array:
    """ln B* less its centre; shapes as in `reducible`."""
    p = _Named(theta)
    return p["b0"] + p["b_N"] * n + p["b_D"] * d


def best_rate(theta: Values, n: Values, d: Values, b: Values | None = None) -> Array:
    """ln e* less its centre, at the centred ln batch `b` or at the best batch; shapes as in `reducible`."""
    p = _Named(theta)
    best = p["a0"] + p["a_N"] * n + p["a_D"] * d
    return best if b is None else best + p["a_B"] * (b - best_batch(theta, n, d))


def curvatures(theta: Values, n: Values, d: Values) -> tuple[Array, Array]:
    """k_e and k_B: loss per squared unit of ln rate, and of ln batch, off the best; shapes as in `floor`."""
    p = _Named(theta)
    flatter = -p["kappa_N"] * n - p["kappa_D"] * d
    return _exp(p["ln_k_e"] + flatter), _exp(p["ln_k_B"] + flatter)


def value(theta: Values, features: Array, shifts: Mapping[str, Values] | None = None) -> Array:
    """Losses of runs at centred logs of N, D, learning rate and batch.

    Args:
        theta: shape `batch_shape x 19`.
        features: shape (n, 4).
        shifts: for names of `SHIFTS`, what is added to its parameters for each run, shape (n,).

    Returns:
        Shape `batch_shape x n`.
    """
    base, above = floor_and_height(theta, features, shifts)
    return base + above


def floor_and_height(
    theta: Values, features: Array, shifts: Mapping[str, Values] | None = None
) -> tuple[Array, Array]:
    """The floor under runs and their heights above it, which add to `value`; shapes as there."""
    theta = np.asarray(theta, dtype=float)
    theta = theta[..., None, :] if theta.ndim > 1 else theta
    shifts = shifts or {}
    p = _Named(theta)
    flatter, off_rate, off_batch = _off_the_floor(p, features, shifts)
    rate = _exp(p["ln_k_e"] + flatter) * valley_depth(off_rate, p["r_e"])
    batch = _exp(p["ln_k_B"] + flatter) * valley_depth(off_batch, p["r_B"])
    n, d = features.T[:2]
    base = floor(theta, n, d, shifts.get("floor", 0.0)) + shifts.get("loss", 0.0)
    return base, rate + batch


def _off_the_floor(p: _Named, features: Array, shifts: Mapping[str, Values]) -> tuple[Array, Array, Array]:
    """What is added to the logs of both curvatures, and the offsets from the best rate and the best batch."""
    n, d, e, b = features.T
    flatter = shifts.get("steepness", 0.0) - p["kappa_N"] * n - p["kappa_D"] * d
    off_batch = b - (p["b0"] + shifts.get("batch", 0.0) + p["b_N"] * n + p["b_D"] * d)
    off_rate = e - (p["a0"] + shifts.get("rate", 0.0) + p["a_N"] * n + p["a_D"] * d + p["a_B"] * off_batch)
    return flatter, off_rate, off_batch


def value_and_slopes(
    theta: Array, features: Array, shifts: Mapping[str, Values] | None = None
) -> tuple[Array, Array, Array]:
    """Losses, how much of each is valley, and derivatives by `NAMES`.

    Args:
        theta: shape (19,).
        features: centred logs of N, D, learning rate, batch; shape (n, 4).
        shifts: for names of `SHIFTS`, what is added to its parameters for each run, shape (n,).

    Returns:
        Losses (n,), valleys (n,), slopes (n, 19).
    """
    p = _Named(theta)
    shifts = shifts or {}
    n, d = features.T[:2]
    slopes = np.zeros((len(features), len(NAMES)))

    gamma, alpha, beta = _exp(p["ln_gamma"]), _exp(p["ln_alpha"]), _exp(p["ln_beta"])
    share = 1 / (1 + _exp(-p["logit_share"]))
    irreducible, scale = _exp(p["ln_E"]), _exp(p["ln_R"] + shifts.get("floor", 0.0))
    by_params, by_tokens = share * _exp(-alpha / gamma * n), (1 - share) * _exp(-beta / gamma * d)
    total = by_params + by_tokens
    above_floor = scale * total**gamma
    outer = scale * gamma * total ** (gamma - 1)
    slopes[:, INDEX["ln_E"]] = irreducible
    slopes[:, INDEX["ln_R"]] = above_floor
    slopes[:, INDEX["logit_share"]] = outer * (by_params * (1 - share) - by_tokens * share)
    slopes[:, INDEX["ln_alpha"]] = -outer * by_params * alpha / gamma * n
    slopes[:, INDEX["ln_beta"]] = -outer * by_tokens * beta / gamma * d
    slopes[:, INDEX["ln_gamma"]] = (
        above_floor * gamma * np.log(total) + outer * (by_params * alpha * n + by_tokens * beta * d) / gamma
    )

    flatter, off_rate, off_batch = _off_the_floor(p, features, shifts)
    steep_rate, steep_batch = _exp(p["ln_k_e"] + flatter), _exp(p["ln_k_B"] + flatter)
    rate_shape, rate_by_offset, rate_by_skew = valley(off_rate, float(p["r_e"]))
    batch_shape, batch_by_offset, batch_by_skew = valley(off_batch, float(p["r_B"]))
    rate_valley, batch_valley = steep_rate * rate_shape, steep_batch * batch_shape
    above = rate_valley + batch_valley
    by_rate_offset = steep_rate * rate_by_offset
    # A step off the best batch also moves the best rate.
    by_batch_offset = steep_batch * batch_by_offset - p["a_B"] * by_rate_offset
    for name, moves in (("a0", 1.0), ("a_N", n), ("a_D", d), ("a_B", off_batch)):
        slopes[:, INDEX[name]] = -by_rate_offset * moves
    for name, moves in (("b0", 1.0), ("b_N", n), ("b_D", d)):
        slopes[:, INDEX[name]] = -by_batch_offset * moves
    slopes[:, INDEX["ln_k_e"]], slopes[:, INDEX["ln_k_B"]] = rate_valley, batch_valley
    slopes[:, INDEX["r_e"]], slopes[:, INDEX["r_B"]] = steep_rate * rate_by_skew, steep_batch * batch_by_skew
    slopes[:, INDEX["kappa_N"]], slopes[:, INDEX["kappa_D"]] = -n * above, -d * above
    return irreducible + above_floor + above + shifts.get("loss", 0.0), above, slopes
