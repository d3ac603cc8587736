"""Loss curves of runs: the part that is read, smoothed; when it reaches a level; the noise scale there."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from carbs_scaling.laws.runs.table import LawError

RATE_SHARE = 0.5  # of the peak: below it, a curve is no longer read
SMOOTHING = 0.15  # nepers of tokens: standard deviation of the weights of a local line
MIN_POINTS = 5  # of the usable part of a curve
MIN_REACHED = 8  # runs that reach a level
MIN_SIZES = 2  # sizes that reach a level, ...
FIRM_SIZES = 3  # ... and so many, or an exponent of N is a line through two points
LEVELS = 4  # chosen where none are given
MIN_INFORMED = 2 / 3  # of the runs must start above the highest level that is chosen, ...
MIN_SHARE = 1 / 4  # ... and so many reach the lowest


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
        """Which points are read, bool (k,): those at `rate_share` of the peak or more, after some tokens."""
        return (self.tokens > 0) & np.isfinite(self.loss) & (self.rate >= rate_share * self.learning_rate)


@dataclass(frozen=True)
class Steady:
    """The usable part of a curve, smoothed: ln tokens and losses, shape (m,)."""

    ln_tokens: np.ndarray
    loss: np.ndarray


def steady_part(curve: RunCurve, rate_share: float = RATE_SHARE) -> Steady | None:
    """The part at a high rate, smoothed; None where it has too few points."""
    usable = curve.usable(rate_share)
    if usable.sum() < MIN_POINTS:
        return None
    ln_tokens = np.log(curve.tokens[usable])
    return Steady(ln_tokens, smooth(ln_tokens, curve.loss[usable]))


def smooth(x: np.ndarray, y: np.ndarray, width: float = SMOOTHING) -> np.ndarray:
    """Local lines with normal weights at every point: both (k,) -> (k,). Exact for a line, ends included."""
    offset = x[None, :] - x[:, None]
    weight = np.exp(-0.5 * (offset / width) ** 2)
    total, first, second = weight.sum(1), (weight * offset).sum(1), (weight * offset**2).sum(1)
    mean, slope = weight @ y, (weight * offset) @ y
    determinant = total * second - first**2
    alone = determinant <= 1e-9 * total**2 * width**2  # no neighbour within reach: the point itself
    return np.where(alone, mean / total, (second * mean - first * slope) / np.where(alone, 1, determinant))


@dataclass(frozen=True)
class Crossing:
    """When a curve reaches a level.

    Args:
        ln_tokens: then; where it is not seen, those of the end or the beginning of the usable part.
        reached: whether it is seen to reach it.
        early: whether it is below the level from the beginning.
    """

    ln_tokens: float
    reached: bool
    early: bool = False


def crossing(curve: Steady, level: float) -> Crossing:
    """The first time at or below `level`."""
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
        ln_tokens: to the level; where it is not seen, a bound on them.
        reached: whether it is seen to be reached.
        early: whether the bound is from above.
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
    """Crossings of all runs (with their steady parts, in the same order) and levels."""
    rows = []
    for run, (curve, part) in enumerate(zip(curves, parts, strict=True)):
        recipe = (curve.params, curve.batch_tokens, curve.learning_rate)
        for index, level in enumerate(levels):
            found = crossing(part, level)
            rows.append((run, index, found.ln_tokens, found.reached, found.early, *recipe))
    return Observations(*(np.array(column) for column in zip(*rows, strict=True)))


def choose_levels(params: np.ndarray, parts: Sequence[Steady], count: int = LEVELS) -> list[float]:
    """Losses, falling, even in their logs, that enough runs and sizes reach and that most start above.

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
    # The upper half is the first few steps, where all models learn the same frequencies of tokens.
    highest = np.sqrt(fine[0] * fine[-1])
    return np.geomspace(highest, fine[-1], count).tolist() if fine[0] > fine[-1] else [float(fine[0])]


def enough(params: np.ndarray, sizes: int = MIN_SIZES) -> bool:
    """Whether runs of these N, shape (n,), are enough runs, of enough sizes, to fit a level."""
    return len(params) >= MIN_REACHED and len(np.unique(params)) >= sizes


def noise_scale_near(
    curves: Sequence[RunCurve], parts: Sequence[Steady], level: float, within: float = 0.05
) -> float | None:
    """The gradient-noise scale of all measurements at a smoothed loss within 5% of `level`, in tokens.

    Runs are averaged as the ratio of summed variances to summed squares; None where nothing was measured
    there, or where noise left the sum of squares negative.
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
