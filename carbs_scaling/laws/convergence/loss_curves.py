"""Loss curves of runs: their usable part, smoothed; its crossing of a level; the noise scale there."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from carbs_scaling.laws.runs.table import LawError

RATE_SHARE = 0.5  # of the peak rate; the part of a curve at lower rates is not used
SMOOTHING = 0.15  # standard deviation in ln(tokens) of the weights of a local line
MIN_POINTS = 5  # least number of points in the usable part of a curve
MIN_REACHED = 8  # least number of runs that reach a level
MIN_SIZES = 2  # least number of sizes that reach a level
FIRM_SIZES = 3  # with fewer, an exponent of N is a line through two points: a warning says so
LEVELS = 4  # number of levels chosen where none are given
MIN_INFORMED = 2 / 3  # least share of the runs that start above the highest chosen level
MIN_SHARE = 1 / 4  # least share of the runs that reach the lowest chosen level


@dataclass(frozen=True)
class RunCurve:
    """The loss curve of one run.

    Args:
        params: non-embedding parameters N.
        batch_tokens: tokens a step B.
        learning_rate: peak.
        flops_per_token: training FLOPs a token, in the study's convention.
        tokens: seen before the loss of each point, shape (k,), increasing.
        loss: training losses in nats a token, shape (k,).
        rate: learning rates, shape (k,).
        gradient_square: |G|^2 where it was measured, else NaN; shape (k,), or None.
        gradient_variance: tr(Sigma) a token, likewise.
    """

    params: float
    batch_tokens: float
    learning_rate: float
    flops_per_token: float
    tokens: np.ndarray
    loss: np.ndarray
    rate: np.ndarray
    gradient_square: np.ndarray | None = None
    gradient_variance: np.ndarray | None = None

    def usable(self, rate_share: float = RATE_SHARE) -> np.ndarray:
        """Mark the points at `rate_share` of the peak or more, after the first tokens; bool, shape (k,)."""
        usable = (self.tokens > 0) & np.isfinite(self.loss) & (self.rate >= rate_share * self.learning_rate)
        return np.asarray(usable)


@dataclass(frozen=True)
class Steady:
    """The usable part of a curve, smoothed: ln tokens and losses, shape (m,)."""

    ln_tokens: np.ndarray
    loss: np.ndarray


def steady_part(curve: RunCurve, rate_share: float = RATE_SHARE) -> Steady | None:
    """Smooth the usable part of a curve; None where it has too few points."""
    usable = curve.usable(rate_share)
    if usable.sum() < MIN_POINTS:
        return None
    ln_tokens = np.log(curve.tokens[usable])
    return Steady(ln_tokens, smooth(ln_tokens, curve.loss[usable]))


def smooth(x: np.ndarray, y: np.ndarray, width: float = SMOOTHING) -> np.ndarray:
    """Fit a local line with normal weights at every point: both (k,) -> (k,). Exact for a line."""
    offset = x[None, :] - x[:, None]
    weight = np.exp(-0.5 * (offset / width) ** 2)
    total, first, second = weight.sum(1), (weight * offset).sum(1), (weight * offset**2).sum(1)
    mean, slope = weight @ y, (weight * offset) @ y
    determinant = total * second - first**2
    alone = determinant <= 1e-9 * total**2 * width**2  # no neighbour within reach: the point itself
    line = (second * mean - first * slope) / np.where(alone, 1, determinant)
    return np.asarray(np.where(alone, mean / total, line))


@dataclass(frozen=True)
class Crossing:
    """The point where a curve reaches a level.

    Args:
        ln_tokens: ln of the tokens; where the crossing is not observed, of the end or the start of the
            usable part, as a bound.
        reached: whether the crossing is observed.
        early: whether the curve is below the level from the start.
    """

    ln_tokens: float
    reached: bool
    early: bool = False


def crossing(curve: Steady, level: float) -> Crossing:
    """Find the first point at or below `level`."""
    below = np.flatnonzero(curve.loss <= level)
    if not len(below):
        return Crossing(float(curve.ln_tokens[-1]), False)
    i = below[0]
    if i == 0:
        return Crossing(float(curve.ln_tokens[0]), False, early=True)
    share = (curve.loss[i - 1] - level) / (curve.loss[i - 1] - curve.loss[i])
    gap = curve.ln_tokens[i] - curve.ln_tokens[i - 1]
    return Crossing(float(curve.ln_tokens[i - 1] + share * gap), True)


@dataclass(frozen=True)
class Observations:
    """Every run at every level; arrays of shape (n,).

    Args:
        run: index of the run.
        level: index of the level.
        ln_tokens: ln of the tokens to the level; a bound where the crossing is not observed.
        reached: whether the crossing is observed.
        early: whether the bound is an upper one.
        params, batch_tokens, learning_rate: of the run.
    """

    run: np.ndarray
    level: np.ndarray
    ln_tokens: np.ndarray
    reached: np.ndarray
    early: np.ndarray
    params: np.ndarray
    batch_tokens: np.ndarray
    learning_rate: np.ndarray

    def __len__(self) -> int:
        return len(self.run)


def observe(curves: Sequence[RunCurve], parts: Sequence[Steady], levels: Sequence[float]) -> Observations:
    """Find the crossings of all runs and levels; `parts` are the steady parts of `curves`, in their order."""
    rows = []
    for run, (curve, part) in enumerate(zip(curves, parts, strict=True)):
        recipe = (curve.params, curve.batch_tokens, curve.learning_rate)
        for index, level in enumerate(levels):
            found = crossing(part, level)
            rows.append((run, index, found.ln_tokens, found.reached, found.early, *recipe))
    return Observations(*(np.array(column) for column in zip(*rows, strict=True)))


def choose_levels(params: np.ndarray, parts: Sequence[Steady], count: int = LEVELS) -> list[float]:
    """Choose falling losses, even in their logs, that enough runs and sizes reach and most start above.

    Raises:
        LawError: there is no such loss.
    """
    params = np.asarray(params)
    starts = np.array([part.loss[0] for part in parts])
    ends = np.array([part.loss.min() for part in parts])
    grid = [
        level
        for level in np.geomspace(starts.max(), ends.min(), 400)
        if (starts > level).mean() >= MIN_INFORMED and (ends <= level).mean() >= MIN_SHARE
    ]
    for sizes in (FIRM_SIZES, MIN_SIZES):
        fine = [level for level in grid if enough(params[(starts > level) & (ends <= level)], sizes)]
        if fine:
            break
    else:
        raise LawError(
            f"no loss is reached by {MIN_REACHED} runs of {MIN_SIZES} sizes within the usable parts of their "
            f"curves ({len(parts)} runs, {len(np.unique(params))} sizes): run more or longer trials"
        )
    # The upper half belongs to the first steps, where all sizes learn the same token frequencies.
    highest = np.sqrt(fine[0] * fine[-1])
    return np.geomspace(highest, fine[-1], count).tolist() if fine[0] > fine[-1] else [float(fine[0])]


def enough(params: np.ndarray, sizes: int = MIN_SIZES) -> bool:
    """Whether runs of these N, shape (n,), suffice in number and in sizes to fit a level."""
    return len(params) >= MIN_REACHED and len(np.unique(params)) >= sizes


def noise_scale_near(
    curves: Sequence[RunCurve], parts: Sequence[Steady], level: float, within: float = 0.05
) -> float | None:
    """Pool the gradient-noise scale, in tokens, over measurements at a smoothed loss near `level`.

    The average is the ratio of summed variances to summed squares, over losses within 5% of the level. None
    where there is no measurement, or where noise makes the sum of squares negative.
    """
    square = variance = 0.0
    for curve, part in zip(curves, parts, strict=True):
        if curve.gradient_square is None or curve.gradient_variance is None:
            continue
        measured = np.isfinite(curve.gradient_square) & (curve.tokens > 0)
        loss = np.interp(np.log(curve.tokens[measured]), part.ln_tokens, part.loss, left=np.nan, right=np.nan)
        near = np.abs(np.log(loss / level)) < within
        square += curve.gradient_square[measured][near].sum()
        variance += curve.gradient_variance[measured][near].sum()
    return float(variance / square) if square > 0 and variance > 0 else None
