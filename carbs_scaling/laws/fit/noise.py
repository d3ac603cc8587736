"""How far a run lies from the law: seed noise, and a share of its height above the floor.

The shape of a valley is known only roughly far from its floor, so a run's noise grows with its height. That
is why runs far off the optimum do not bend the law.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from carbs_scaling.laws.fit.least_squares import HUBER, IndependentErrors
from carbs_scaling.laws.form.valley import Array

# Mean of min(z^2, HUBER^2) for a normal z: what clipping leaves of a variance of 1.
_CLIPPED_SQUARE = 0.9205
_LEAST_SEED_NOISE = 2e-4  # share of the loss
# Published runs repeat to .1 to .5% of their loss. Worth so many runs: a dozen runs fit a law of as many
# parameters all too well, and would seem to have no noise. Where there is more it says nothing.
SEED_NOISE, SEED_NOISE_RUNS = 0.003, 8.0
_USUAL_HEIGHT = 0.2  # noise as a share of height; worth two runs, decides where no run lies off the floor
_ROUNDS = 6  # of clipping residuals by the noise, and the noise by the clipped residuals


@dataclass(frozen=True)
class Noise:
    """Variances of a run around the law.

    Args:
        seed2: of a run at the floor, in squared losses.
        height2: squared share of a run's height above the floor.
    """

    seed2: float
    height2: float

    def errors(self, height: Array) -> IndependentErrors:
        """Of runs at heights (n,) above the floor."""
        return IndependentErrors(self.seed2 + self.height2 * height**2)

    def halfway(self, other: "Noise") -> "Noise":
        """Geometric means of both."""
        return Noise(float(np.sqrt(self.seed2 * other.seed2)), float(np.sqrt(self.height2 * other.height2)))


def first_noise(level: float) -> Noise:
    """Where the estimate begins, for losses of about `level`."""
    return Noise((0.02 * level) ** 2, 0.3**2)


def estimate_noise(residual: Array, height: Array, start: Noise, used: float, level: float) -> Noise:
    """The most probable noise; residuals are clipped as Huber's loss has them.

    Args:
        residual: shape (n,).
        height: of the runs above the floor, shape (n,).
        start: a noise near it.
        used: number of parameters that the fit has effectively used: it has absorbed that much of the noise.
        level: a low loss.
    """
    inflation = len(residual) / max(len(residual) - used, 0.15 * len(residual))
    least_sd, usual2 = _LEAST_SEED_NOISE * level, (SEED_NOISE * level) ** 2
    bounds = [(2 * np.log(least_sd), 2 * np.log(max(np.ptp(residual), 2 * least_sd))), (np.log(1e-4), 0.0)]
    logs = np.log([start.seed2, start.height2])
    for _ in range(_ROUNDS):
        clip = HUBER**2 * (np.exp(logs[0]) + np.exp(logs[1]) * height**2)
        moment = np.minimum(residual**2, clip) * inflation / _CLIPPED_SQUARE

        def misfit(logs: Array, moment: Array = moment) -> tuple[float, Array]:
            seed, rest = np.exp(logs[0]), np.exp(logs[1]) * height**2
            variance = seed + rest
            by_variance = (1 - moment / variance) / variance
            gradient = np.array([(by_variance * seed).sum(), (by_variance * rest).sum()])
            off = logs[1] - 2 * np.log(_USUAL_HEIGHT)
            gradient[1] += 2 * off
            # More noise than usual is no surprise: tiny models repeat to a few percent.
            least = min(seed, usual2)
            gradient[0] += SEED_NOISE_RUNS * (1 - usual2 / least)
            prior = off**2 + SEED_NOISE_RUNS * (np.log(least) + usual2 / least)
            return float((np.log(variance) + moment / variance).sum() + prior), gradient

        before, logs = logs, minimize(misfit, logs, jac=True, bounds=bounds, method="L-BFGS-B").x
        if np.abs(logs - before).max() < 1e-2:
            break
    return Noise(float(np.exp(logs[0])), float(np.exp(logs[1])))
