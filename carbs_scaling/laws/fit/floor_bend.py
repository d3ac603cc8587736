"""Second-order terms of the floor: how the reducible loss departs from its law in N and D.

    ln(reducible loss) += f . bend_basis(ln N, ln D)

as the best rate and batch do. The floor is fitted again with these terms after the valley, which is held:
what the best loss is need not move the best recipe.
"""

from dataclasses import replace

import numpy as np

from carbs_scaling.laws.fit.groups import groupings
from carbs_scaling.laws.fit.least_squares import huber, levenberg_marquardt
from carbs_scaling.laws.fit.mixed import SurfaceFit
from carbs_scaling.laws.form.bends import bend_basis, reach_of
from carbs_scaling.laws.form.law import FLOOR, INDEX, value_and_slopes
from carbs_scaling.laws.prior.prior import SurfacePrior

BEND_SD = 0.004  # prior of f: change of a loss exponent over a neper; .003 to .05 predict large sizes alike
TERMS = 3
STEPS, LEAST_GAIN = 100, 1e-4


def bend_floor(fit: SurfaceFit, features: np.ndarray, loss: np.ndarray, prior: SurfacePrior) -> SurfaceFit:
    """The fit with its floor fitted again: `bend` has a third row, f, and `covariance` its three columns.

    Args:
        fit: of `fit_surface`.
        features: centred logs of N, D, learning rate, batch; shape (n, 4).
        loss: shape (n,).
        prior: of theta.
    """
    basis = bend_basis(features[:, 0], features[:, 1], reach_of(features))
    held = {kind: basis @ row for kind, row in zip(("rate", "batch"), fit.bend, strict=True)}
    at = [INDEX[name] for name in FLOOR]
    noise_sd = np.hypot(fit.seed_sd, fit.height_sd * value_and_slopes(fit.theta, features, held)[1])
    shifts, shift_sd = _shifts(fit, features)
    size = len(at) + TERMS
    straight = np.zeros(TERMS + len(shift_sd))
    mean = np.concatenate([prior.mean[at], straight])
    sd = np.concatenate([prior.sd[at], np.full(TERMS, BEND_SD), shift_sd])
    precision = SurfacePrior(mean, sd, np.concatenate([prior.shared[at], straight])).precision

    def evaluate(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        theta = fit.theta.copy()
        theta[at] = z[: len(at)]
        moved = {**held, "floor": basis @ z[len(at) : size], "loss": shifts @ z[size:]}
        value, _, slopes = value_and_slopes(theta, features, moved)
        return value, np.concatenate([slopes[:, at], slopes[:, [INDEX["ln_R"]]] * basis, shifts], axis=1)

    def cost(z: np.ndarray) -> float:
        return huber(loss - evaluate(z)[0], noise_sd**2)[0] + 0.5 * float((z - mean) @ precision @ (z - mean))

    def downhill(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        value, design = evaluate(z)
        weight = huber(loss - value, noise_sd**2)[1]
        curvature = design.T @ (weight[:, None] * design) + precision
        return design.T @ (weight * (loss - value)) - precision @ (z - mean), curvature

    # Two starts: where the valley's fit left the floor, and the prior.
    found = min(
        (
            levenberg_marquardt(
                cost, downhill, np.concatenate([start, straight]), prior.scale[at], STEPS, LEAST_GAIN
            )
            for start in (fit.theta[at], prior.mean[at])
        ),
        key=cost,
    )
    covariance = np.linalg.inv(downhill(found)[1])[:size, :size]
    theta = fit.theta.copy()
    theta[at] = found[: len(at)]
    return replace(
        fit,
        theta=theta,
        bend=np.concatenate([fit.bend, found[None, len(at) : size]]),
        covariance=_joined(fit.covariance, covariance, at),
    )


def _shifts(fit: SurfaceFit, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By how much cells and sizes are off as a whole: which runs have which, (n, m), and deviations (m,)."""
    groups = [group for group in groupings(features) if group.kind == "loss"]
    basis = np.concatenate([np.zeros((len(features), 0)), *(group.basis for group in groups)], axis=1)
    sd = [np.full(group.groups, fit.spread[group.level, "loss"]) for group in groups]
    return basis, np.concatenate([np.zeros(0), *sd])


def _joined(valley: np.ndarray, floor: np.ndarray, at: list[int]) -> np.ndarray:
    """The covariance of theta and all bends: floor and valley each have their own, and none between them."""
    size = len(valley)
    joined = np.zeros((size + TERMS, size + TERMS))
    joined[:size, :size] = valley
    joined[at, :] = joined[:, at] = 0.0
    places = [*at, *range(size, size + TERMS)]
    joined[np.ix_(places, places)] = floor
    return joined
