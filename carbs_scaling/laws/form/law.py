"""The surface of final losses over model size, tokens, learning rate and batch, with its derivatives.

    L = E + [(A N^-alpha)^(1/gamma) + (C D^-beta)^(1/gamma)]^gamma
          + k_e v(ln e - ln e*; r_e) + k_B v(ln B - ln B*; r_B)
    ln e* = a0 + a_N ln N + a_D ln D + a_B (ln B - ln B*)        ln B* = b0 + b_N ln N + b_D ln D
    ln k_. = ln k0_. - kappa_N ln N - kappa_D ln D

gamma says how lack of parameters and lack of tokens combine: 1 adds them (Hoffmann et al. 2022, arXiv
2203.15556), smaller lets the larger of the two rule. With E = 0 and gamma = beta it is equation 1.5 of Kaplan
et al. 2020 (arXiv 2001.08361). v is the LINEX valley of `carbs_scaling.laws.loss`. The best rate is written
relative to the best batch, so that a_N and a_D are exponents at the optimum, as published laws give them, and
a_B is the exchange of rate and batch (1/2 by the square-root rule of Adam, arXiv 2205.10287).

All logs are relative to a centre (ln N0, ln D0, ln e0, ln B0), where the parameters are least correlated.
"""

import numpy as np

from carbs_scaling.laws.loss import valley

# name: what it is. In this order the parameters make the vector `theta`.
PARAMETERS = {
    "ln_E": "log of the irreducible loss",
    "ln_R": "log of the reducible loss at the centre",
    "logit_share": "log odds of the parameters' share of it (before gamma)",
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
SHIFTS = {
    "loss": (),
    "floor": ("ln_R",),
    "rate": ("a0",),
    "batch": ("b0",),
    "steepness": ("ln_k_e", "ln_k_B"),
}
_REACH = 50.0  # exponents are clipped there: far beyond any run, and finite


def _exp(value):
    return np.exp(np.clip(value, -_REACH, _REACH))


def floor(theta: np.ndarray, n, d, shift=0.0) -> np.ndarray:
    """Loss at the best learning rate and batch; theta (..., 19) against n, d broadcastable to (...).

    `shift` is added to the log of the reducible loss.
    """
    p = _named(theta)
    gamma = _exp(p["ln_gamma"])
    share = 1 / (1 + _exp(-p["logit_share"]))
    by_params = share * _exp(-_exp(p["ln_alpha"]) / gamma * n)
    by_tokens = (1 - share) * _exp(-_exp(p["ln_beta"]) / gamma * d)
    return _exp(p["ln_E"]) + _exp(p["ln_R"] + shift) * (by_params + by_tokens) ** gamma


def best_batch(theta: np.ndarray, n, d) -> np.ndarray:
    """ln B* less its centre; shapes as in `floor`."""
    p = _named(theta)
    return p["b0"] + p["b_N"] * n + p["b_D"] * d


def best_rate(theta: np.ndarray, n, d) -> np.ndarray:
    """ln e* at the best batch, less its centre; shapes as in `floor`."""
    p = _named(theta)
    return p["a0"] + p["a_N"] * n + p["a_D"] * d


def _named(theta: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(NAMES, np.moveaxis(np.asarray(theta, dtype=float), -1, 0), strict=True))


def value_and_slopes(
    theta: np.ndarray, features: np.ndarray, shifts: dict[str, np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Losses, how much of each is valley, and derivatives by `NAMES`.

    Args:
        theta: shape (19,).
        features: centred logs of N, D, learning rate, batch; shape (n, 4).
        shifts: for names of `SHIFTS`, what is added to its parameters for each run, shape (n,).

    Returns:
        Losses (n,), valleys (n,), slopes (n, 19).
    """
    p = _named(theta)
    shifts = shifts or {}
    n, d, e, b = features.T
    slopes = np.zeros((len(features), len(NAMES)))

    gamma, alpha, beta = _exp(p["ln_gamma"]), _exp(p["ln_alpha"]), _exp(p["ln_beta"])
    share = 1 / (1 + _exp(-p["logit_share"]))
    irreducible, scale = _exp(p["ln_E"]), _exp(p["ln_R"] + shifts.get("floor", 0.0))
    by_params, by_tokens = share * _exp(-alpha / gamma * n), (1 - share) * _exp(-beta / gamma * d)
    lack = by_params + by_tokens
    reducible = scale * lack**gamma
    outer = scale * gamma * lack ** (gamma - 1)
    slopes[:, INDEX["ln_E"]] = irreducible
    slopes[:, INDEX["ln_R"]] = reducible
    slopes[:, INDEX["logit_share"]] = outer * (by_params * (1 - share) - by_tokens * share)
    slopes[:, INDEX["ln_alpha"]] = -outer * by_params * alpha / gamma * n
    slopes[:, INDEX["ln_beta"]] = -outer * by_tokens * beta / gamma * d
    slopes[:, INDEX["ln_gamma"]] = (
        reducible * gamma * np.log(lack) + outer * (by_params * alpha * n + by_tokens * beta * d) / gamma
    )

    flatter = shifts.get("steepness", 0.0) - p["kappa_N"] * n - p["kappa_D"] * d
    off_batch = b - (p["b0"] + shifts.get("batch", 0.0) + p["b_N"] * n + p["b_D"] * d)
    off_rate = e - (p["a0"] + shifts.get("rate", 0.0) + p["a_N"] * n + p["a_D"] * d + p["a_B"] * off_batch)
    steep_rate, steep_batch = _exp(p["ln_k_e"] + flatter), _exp(p["ln_k_B"] + flatter)
    rate_shape, rate_by_offset, rate_by_skew = valley(off_rate, p["r_e"])
    batch_shape, batch_by_offset, batch_by_skew = valley(off_batch, p["r_B"])
    rate_valley, batch_valley = steep_rate * rate_shape, steep_batch * batch_shape
    height = rate_valley + batch_valley
    by_rate_offset = steep_rate * rate_by_offset
    # A step off the best batch also moves the best rate.
    by_batch_offset = steep_batch * batch_by_offset - p["a_B"] * by_rate_offset
    for name, moves in (("a0", 1.0), ("a_N", n), ("a_D", d), ("a_B", off_batch)):
        slopes[:, INDEX[name]] = -by_rate_offset * moves
    for name, moves in (("b0", 1.0), ("b_N", n), ("b_D", d)):
        slopes[:, INDEX[name]] = -by_batch_offset * moves
    slopes[:, INDEX["ln_k_e"]], slopes[:, INDEX["ln_k_B"]] = rate_valley, batch_valley
    slopes[:, INDEX["r_e"]], slopes[:, INDEX["r_B"]] = steep_rate * rate_by_skew, steep_batch * batch_by_skew
    slopes[:, INDEX["kappa_N"]], slopes[:, INDEX["kappa_D"]] = -n * height, -d * height
    value = irreducible + reducible + height + shifts.get("loss", 0.0)
    return value, height, slopes
