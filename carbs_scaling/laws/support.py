"""What a law rests on, and how it does on sizes that it has not seen."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from carbs_scaling.laws.runs.table import MIN_VARIATION


@dataclass(frozen=True)
class Support:
    """The runs that a law rests on.

    Args:
        source: where they come from.
        runs: how many.
        diverged: how many more have no loss; those marked as diverged bound the learning rate.
        low: least N, D, learning rate, batch tokens.
        high: greatest of the same.
        largest_run_flops: 6 N D of the dearest run.
        total_flops: 6 N D summed.
        shape: ln(width / depth) of each size's best run against ln N, as (intercept, slope, residual sd);
            None where the table has no depth and width.
        by_rule: which of learning_rate and batch_tokens follow from the rest (`laws.runs.rules`).
        hull: corners (ln N, ln D) of the convex hull of the runs.
        aspects: least and greatest width / depth; None where the table has no depth and width.
        lowest_loss: of a run, the level of the prior; None in a law without runs.
        read_as: as `RunTable.read_as`.
    """

    source: str
    runs: int
    diverged: int
    low: tuple[float, float, float, float]
    high: tuple[float, float, float, float]
    largest_run_flops: float
    total_flops: float
    shape: tuple[float, float, float] | None = None
    by_rule: tuple[str, ...] = ()
    hull: tuple[tuple[float, float], ...] = ()
    aspects: tuple[float, float] | None = None
    lowest_loss: float | None = None
    read_as: tuple[str, ...] = ()

    @property
    def one_batch(self) -> bool:
        """Whether all runs had the same batch, as `RunTable.one_batch`."""
        return bool(np.log(self.high[3] / self.low[3]) < MIN_VARIATION)

    @property
    def one_size(self) -> bool:
        """Whether all runs had the same parameters, as `RunTable.one_size`."""
        return bool(np.log(self.high[0] / self.low[0]) < MIN_VARIATION)

    @property
    def one_token_count(self) -> bool:
        """Whether all runs had the same tokens, as `RunTable.one_token_count`."""
        return bool(np.log(self.high[1] / self.low[1]) < MIN_VARIATION)


def convex_hull(points: np.ndarray) -> tuple[tuple[float, float], ...]:
    """Corners of the convex hull of points (n, 2); of a line its ends."""
    from scipy.spatial import ConvexHull, QhullError

    distinct = np.unique(points, axis=0)
    try:
        corners = distinct[ConvexHull(distinct).vertices] if len(distinct) > 2 else distinct
    except QhullError:  # a line
        corners = distinct[[0, -1]]
    return tuple((float(x), float(y)) for x, y in corners)


def hull_factor(hull: Sequence[tuple[float, float]], params: float, tokens: float) -> float:
    """Least factor f such that some point of the hull is within f of both N and D; 1 inside.

    Args:
        hull: points (ln N, ln D); none give 1.
        params: N.
        tokens: D.
    """
    if not hull:
        return 1.0
    points, target = np.array(hull), np.log([params, tokens])
    from scipy.optimize import linprog

    # Least s with |target - sum_i w_i point_i| <= s in both coordinates, w_i >= 0 and sum_i w_i = 1.
    above = np.column_stack([points.T, -np.ones(2)])
    below = np.column_stack([-points.T, -np.ones(2)])
    found = linprog(
        np.append(np.zeros(len(points)), 1.0),
        A_ub=np.concatenate([above, below]),
        b_ub=np.concatenate([target, -target]),
        A_eq=np.append(np.ones(len(points)), 0.0)[None],
        b_eq=[1.0],
    )
    return float(np.exp(max(found.x[-1], 0.0)))


def way_beyond(hull: Sequence[tuple[float, float]], point: np.ndarray) -> float:
    """Distance of a point (ln N, ln D) from the hull of `convex_hull`; 0 inside."""
    corners = np.array(hull)
    side = np.roll(corners, -1, axis=0) - corners
    off = point - corners
    if len(corners) > 2 and np.all(side[:, 0] * off[:, 1] - side[:, 1] * off[:, 0] >= -1e-9):
        return 0.0  # left of every side: corners go round counterclockwise
    share = np.clip(np.sum(off * side, axis=1) / np.maximum(np.sum(side**2, axis=1), 1e-12), 0, 1)
    return float(np.linalg.norm(off - share[:, None] * side, axis=1).min())


@dataclass(frozen=True)
class HeldOut:
    """How a law fitted without the largest sizes predicts them.

    Args:
        sizes: the held-out N.
        runs: how many held-out runs.
        loss_error: median absolute error of their losses, at their own learning rate and batch.
        bias: median error over runs of the better half of each cell, predicted less real.
        coverage: share of the best runs of each cell inside its 90% interval of the best loss.
        regret: mean loss that the recommended learning rate and batch cost over the best run, as far as the
            runs of each cell tell; None where no cell was swept.
        drift: what the biases show beyond the law's own uncertainty, in loss a unit of ln N (root mean
            square).
    """

    sizes: tuple[float, ...]
    runs: int
    loss_error: float
    bias: float
    coverage: float
    regret: float | None
    drift: float = 0.0
