"""Second-order terms of the floor: how the reducible loss departs from its law in N and D.

    ln(reducible loss) += f . bend_basis(ln N, ln D)

inside the runs' range, and along the tangent beyond it, as best rate and batch do. The floor is fitted again
with these terms after the valley, which is held: what the best loss is need not move the best recipe.
"""

from dataclasses import replace

import numpy as np

from carbs_scaling.laws.bends import bend_basis, reach_of
from carbs_scaling.laws.groups import groupings
from carbs_scaling.laws.mixed import HUBER, SurfaceFit
from carbs_scaling.laws.surface import FLOOR, INDEX, value_and_slopes

BEND_SD = 0.004  # prior of f: change of a loss exponent over a neper; .003 to .05 predict large sizes alike
TERMS = 3


def bend_floor(
    fit: SurfaceFit, features: np.ndarray, loss: np.ndarray, prior_mean: np.ndarray, prior_sd: np.ndarray
) -> SurfaceFit:
    """The fit with its floor fitted again: `bend` has a third row, f, and `covariance` its three columns.

    Args:
        fit: of `fit_surface`.
        features: centred logs of N, D, learning rate, batch; shape (n, 4).
        loss: shape (n,).
        prior_mean: of theta, shape (19,).
        prior_sd: of theta, shape (19,).
    """
    from scipy.optimize import least_squares

    basis = bend_basis(features[:, 0], features[:, 1], reach_of(features))
    held = {kind: basis @ row for kind, row in zip(("rate", "batch"), fit.bend, strict=True)}
    at = [INDEX[name] for name in FLOOR]
    noise_sd = np.hypot(fit.seed_sd, fit.height_sd * value_and_slopes(fit.theta, features, held)[1])
    mean = np.concatenate([prior_mean[at], np.zeros(TERMS)])
    sd = np.concatenate([np.maximum(prior_sd[at], 1e-9), np.full(TERMS, BEND_SD)])

    def evaluate(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        theta = fit.theta.copy()
        theta[at] = z[: len(at)]
        value, _, slopes = value_and_slopes(theta, features, {**held, "floor": basis @ z[len(at) :]})
        design = np.concatenate([slopes[:, at], slopes[:, [INDEX["ln_R"]]] * basis], axis=1)
        return value, design / noise_sd[:, None]

    def misfit(z: np.ndarray) -> np.ndarray:
        return np.concatenate([(evaluate(z)[0] - loss) / noise_sd, (z - mean) / sd])

    def slopes(z: np.ndarray) -> np.ndarray:
        return np.concatenate([evaluate(z)[1], np.diag(1 / sd)])

    start = np.concatenate([fit.theta[at], np.zeros(TERMS)])
    found = least_squares(misfit, start, slopes, loss="huber", f_scale=HUBER).x
    value, design = evaluate(found)
    weight = np.minimum(1.0, HUBER / np.maximum(np.abs(value - loss) / noise_sd, 1e-12))
    inverse = np.linalg.inv(design.T @ (weight[:, None] * design) + np.diag(1 / sd**2))
    covariance = inverse + inverse @ _shared(fit, features, design * (weight / noise_sd)[:, None]) @ inverse
    theta = fit.theta.copy()
    theta[at] = found[: len(at)]
    return replace(
        fit,
        theta=theta,
        bend=np.concatenate([fit.bend, found[None, len(at) :]]),
        covariance=_joined(fit.covariance, covariance, at),
    )


def _shared(fit: SurfaceFit, features: np.ndarray, pull: np.ndarray) -> np.ndarray:
    """What cells and sizes whose loss is off as a whole add, as in `fit_surface`: J'W U T U'W J."""
    total = np.zeros((pull.shape[1], pull.shape[1]))
    for group in groupings(features):
        if group.kind == "loss":
            together = pull.T @ group.basis
            total += fit.spread[group.level, "loss"] ** 2 * together @ together.T
    return total


def _joined(valley: np.ndarray, floor: np.ndarray, at: list[int]) -> np.ndarray:
    """The covariance of theta and all bends: floor and valley each have their own, and none between them."""
    size = len(valley)
    joined = np.zeros((size + TERMS, size + TERMS))
    joined[:size, :size] = valley
    joined[at, :] = joined[:, at] = 0.0
    places = [*at, *range(size, size + TERMS)]
    joined[np.ix_(places, places)] = floor
    return joined
