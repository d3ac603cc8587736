"""The loss curve that a law predicts for a run: the law along D, shaped by the curves of its runs.

At a share p of its tokens a run is above the law's loss at p D: its learning rate has not decayed yet. How
far depends on schedule and warmup, which the runs of a study share, so it is read off their curves:

    s(p) = [L(p) / L_end] / [law(N, p D) / law(N, D)]

is taken of each good run; L(p) is its training loss and L_end its held-out loss at the end. The prediction is
law(N, p D) times the geometric mean of s. Its interval is that of the law at (N, p D), in logs, widened by
how far ln s differs between runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from carbs_scaling.laws.scaling_law import ScalingLaw

PARTS = 20  # of a run, each with one mean loss: single steps are noisy
# The first part is left out: the loss falls there from that of a uniform guess, in another way at every size.
SHARES = tuple((part + 0.5) / PARTS for part in range(1, PARTS))
# A run further above the law than this had a bad rate or batch, and so another curve.
MOST_EXCESS = 0.05
LEAST_RUNS = 4  # fewer say nothing of how curves differ


@dataclass(frozen=True)
class SeenCurve:
    """The training losses of a completed run.

    Args:
        params: N.
        tokens: D of the whole run.
        end_loss: held-out loss at the end, in the unit of the law.
        share: of the run that was over in the middle of each point, shape (m,), increasing.
        loss: mean training loss of each point, shape (m,), in any unit.
    """

    params: float
    tokens: float
    end_loss: float
    share: np.ndarray
    loss: np.ndarray


@dataclass(frozen=True)
class PredictedCurve:
    """Predicted training losses along a run, each a mean over a twentieth of it.

    Args:
        share: of the run, in (0, 1), increasing.
        loss: in the unit of the curves that it was made from.
        low, high: bounds of the interval.
        runs: number of runs whose curves gave the shape.

    Raises:
        ValueError: lengths that differ, no point, shares that do not increase, or low > high.
    """

    share: tuple[float, ...]
    loss: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    runs: int

    def __post_init__(self) -> None:
        columns = np.array([self.share, self.loss, self.low, self.high], dtype=float)  # ValueError if ragged
        if not (columns.size and np.isfinite(columns).all() and self.runs > 0):
            raise ValueError("the predicted curve needs finite numbers")
        if not (np.diff(columns[0], prepend=0.0, append=1.0) > 0).all() or (columns[2] > columns[3]).any():
            raise ValueError("the predicted curve needs increasing shares in (0, 1), and low below high")

    def at(self, share: float) -> tuple[float, float, float] | None:
        """(loss, low, high) at a share of the run; None before the first, the last beyond the last."""
        if share < self.share[0]:
            return None
        loss, low, high = (float(np.interp(share, self.share, y)) for y in (self.loss, self.low, self.high))
        return loss, low, high


def predict_curve(
    law: ScalingLaw, curves: Sequence[SeenCurve], params: float, tokens: float, level: float = 0.9
) -> PredictedCurve | None:
    """Predict the training losses of a run at the law's best rate and batch.

    Args:
        law: of the runs.
        curves: of the runs, all with the schedule of the run that is predicted.
        params: N.
        tokens: D.
        level: probability of the interval at each point.

    Returns:
        None where fewer than `LEAST_RUNS` runs came near the law and have a loss in each part.

    Raises:
        LawError: N or D is not a positive number, or the level is outside (0, 1).
    """
    from scipy.special import stdtrit  # takes half a second, and `status` has no use for it

    shapes = [shape for curve in curves if (shape := _shape(law, curve)) is not None]
    if len(shapes) < LEAST_RUNS:
        return None
    middle, spread = np.mean(shapes, axis=0), np.std(shapes, axis=0, ddof=1)
    # Of one more run like these, by Student's t: few runs say little of how curves differ.
    count = len(shapes)
    quantile = stdtrit(count - 1, (1 + level) / 2) * np.sqrt(1 + 1 / count)
    points = []
    for share, shape, sd in zip(SHARES, middle, spread, strict=True):
        advised = law.recommend(params, share * tokens)
        low, high = np.log(np.maximum(advised.interval("loss", level), 1e-9)) - np.log(advised.loss)
        loss = advised.loss * np.exp(shape)
        points.append(
            (loss, loss * np.exp(-np.hypot(low, quantile * sd)), loss * np.exp(np.hypot(high, quantile * sd)))
        )
    columns = zip(*points, strict=True)
    losses, lows, highs = (tuple(float(f"{value:.6g}") for value in column) for column in columns)
    return PredictedCurve(SHARES, losses, lows, highs, count)


def _shape(law: ScalingLaw, curve: SeenCurve) -> np.ndarray | None:
    """Values of ln s at `SHARES`; None for a run far above the law, or with a part that has no loss."""
    at_end = float(law.loss(curve.params, curve.tokens))
    if not 0 < curve.end_loss <= (1 + MOST_EXCESS) * at_end or not (curve.loss > 0).all():
        return None
    parts = np.minimum((curve.share * PARTS).astype(int), PARTS - 1)
    count = np.bincount(parts, minlength=PARTS)[1:]
    if not count.all():
        return None
    loss = np.bincount(parts, curve.loss, PARTS)[1:] / count
    share = np.bincount(parts, curve.share, PARTS)[1:] / count
    along = law.loss(curve.params, share * curve.tokens)
    return np.asarray(np.log(loss / curve.end_loss) - np.log(along / at_end))
