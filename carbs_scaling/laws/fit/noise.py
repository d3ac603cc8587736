"""How far a run lies from the law: seed noise, and a share of its height above the floor.

The shape of a valley is known only roughly far from its floor, so a run's noise grows with its height. That
is why runs far off the optimum do not bend the law.
"""

from dataclasses import dataclass

import numpy as np

from carbs_scaling.laws.fit.least_squares import HUBER, IndependentErrors
from carbs_scaling.laws.form.valley import Array

# Mean of min(z^2, HUBER^2) for a normal z: what clipping leaves of a variance of 1.
_CLIPPED_SQUARE = 0.9205
_LEAST_SEED_NOISE = 2e-4  # share of the loss
# Published runs repeat to .1 to .5% of their loss. Worth so many runs: a dozen runs fit a law of as many
# parameters all too well, and would seem to have no noise. Where there is more it says nothing.
SEED_NOISE, SEED_NOISE_RUNS = 0.003, 8.0
_USUAL_HEIGHT = 0.2  # noise as a share of height; worth two runs, decides where no run lies off the floor
_MOST_STEPS = 20
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

    def towards(self, other: "Noise", share: float) -> "Noise":
        """The noise so much of the way to another, in logs."""
        return Noise(
            self.seed2 ** (1 - share) * other.seed2**share,
            self.height2 ** (1 - share) * other.height2**share,
        )


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
    most_sd = max(np.ptp(residual), 2 * least_sd)
    bounds = 2 * np.log([[least_sd, 1e-2], [most_sd, 1.0]])
    logs = np.log([start.seed2, start.height2])
    for _ in range(_ROUNDS):
        clip = HUBER**2 * (np.exp(logs[0]) + np.exp(logs[1]) * height**2)
        moment = np.minimum(residual**2, clip) * inflation / _CLIPPED_SQUARE
        before, logs = logs, _least_misfit(logs, moment, height**2, usual2, bounds)
        if np.abs(logs - before).max() < 1e-2:
            break
    return Noise(float(np.exp(logs[0])), float(np.exp(logs[1])))


def _least_misfit(logs: Array, moment: Array, height2: Array, usual2: float, bounds: Array) -> Array:
    """Logs of the two variances at which squared residuals are most probable, by Fisher scoring.

    Some 30 times as fast as a general minimiser, and a fit of few runs spent a third of its time there.

    Args:
        logs: where to begin, shape (2,).
        moment: squared residuals, shape (n,).
        height2: squared heights of the runs, shape (n,).
        usual2: variance of a run as published runs have it.
        bounds: lowest and highest logs, shape (2, 2).
    """

    def misfit(logs: Array) -> tuple[float, Array, Array, Array]:
        seed, rest = np.exp(logs[0]), np.exp(logs[1]) * height2
        variance = seed + rest
        off = logs[1] - 2 * np.log(_USUAL_HEIGHT)
        # More noise than usual is no surprise: tiny models repeat to a few percent.
        least = min(seed, usual2)
        prior = off**2 + SEED_NOISE_RUNS * (np.log(least) + usual2 / least)
        return float((np.log(variance) + moment / variance).sum() + prior), variance, rest, off

    logs = np.clip(logs, *bounds)
    cost, variance, rest, off = misfit(logs)
    for _ in range(_MOST_STEPS):
        seed = np.exp(logs[0])
        shares = np.stack([seed / variance, rest / variance])
        gradient = shares @ (1 - moment / variance)
        curvature = shares @ shares.T
        least = min(seed, usual2)
        gradient += [SEED_NOISE_RUNS * (1 - usual2 / least), 2 * off]
        curvature += np.diag([SEED_NOISE_RUNS * usual2 / least * (seed < usual2) + 1e-9, 2.0])
        held = ((logs <= bounds[0]) & (gradient > 0)) | ((logs >= bounds[1]) & (gradient < 0))
        curvature[np.ix_(held, ~held)] = curvature[np.ix_(~held, held)] = 0.0
        step = np.where(held, 0.0, -np.linalg.solve(curvature, gradient))
        step *= min(1.0, 2.0 / max(np.abs(step).max(), 1e-12))
        while True:
            there = np.clip(logs + step, *bounds)
            found = misfit(there)
            if found[0] <= cost or np.abs(step).max() < 1e-4:
                break
            step = step / 3
        if found[0] > cost:
            break
        moved, logs = np.abs(there - logs).max(), there
        cost, variance, rest, off = found
        if moved < 1e-3:
            break
    return logs
