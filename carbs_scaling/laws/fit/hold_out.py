"""How a law that is fitted without the largest sizes predicts them."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from carbs_scaling.laws.recipe import Recommendation
from carbs_scaling.laws.runs.table import MIN_RUNS, MIN_VARIATION, RunTable, cells_of
from carbs_scaling.laws.scaling_law import ScalingLaw
from carbs_scaling.laws.support import HeldOut

NEARLY_ONE_SIZE = 0.2  # difference in ln N
# A miss over a shorter way than this, in ln N, is of a size that is off; as a drift it would be blown up.
LEAST_WAY = 0.5
MOST_CELLS = 100  # that are judged: of scattered runs each is one, and takes milliseconds


def hold_out(table: RunTable, fit: Callable[[RunTable], ScalingLaw]) -> HeldOut | None:
    """Fits without the largest sizes - a quarter of them, at least one - and predicts them."""
    # Shapes of nearly one size are one size: held out alone they would tell of their shapes.
    distinct: list[float] = []
    for size in np.unique(np.log(table.params)).tolist():
        if not distinct or size > distinct[-1] + NEARLY_ONE_SIZE:
            distinct.append(size)
    sizes = np.array(distinct)[np.searchsorted(distinct, np.log(table.params), side="right") - 1]
    if len(distinct) < 3:
        return None
    cut = distinct[-max(1, len(distinct) // 4)]
    large = sizes >= cut
    if large.sum() < 2 or (~large).sum() < MIN_RUNS:
        return None
    small, held = table.take(~large), table.take(large)
    rate, batch = table.has_role[2] and not table.one_rate, table.has_role[3] and not table.one_batch
    there = (True, not table.one_token_count, rate, batch)
    varied = np.flatnonzero(there)
    if any(np.ptp(small.logs[:, role]) < MIN_VARIATION for role in varied):
        return None
    law = fit(small)
    held = replace(held, loss=held.loss - law.excess_of_others(held))
    predicted = law.run_loss(held.params, held.tokens, held.learning_rate, held.batch_tokens)
    error = predicted - held.loss
    inside, better, regrets, misses = [], [], [], []
    cells = cells_of(held)
    for cell in cells[:: 1 + len(cells) // MOST_CELLS]:
        best = cell[np.argmin(held.loss[cell])]
        half = cell[held.loss[cell] <= np.median(held.loss[cell])]
        better += half.tolist()
        recipe = law.recommend(held.params[best], held.tokens[best])
        low, high = recipe.interval("loss")
        inside.append(low <= held.loss[best] <= high)
        expected = (recipe.draws[:, 2] - recipe.loss).std()
        beyond = max(np.log(held.params[best] / law.support.high[0]), LEAST_WAY)
        misses.append((np.median(error[half]), expected, beyond))
        regret = _regret(held.take(cell), recipe)
        if regret is not None:
            regrets.append(regret)
    return HeldOut(
        sizes=tuple(np.unique(held.params).tolist()),
        runs=len(held),
        loss_error=float(np.median(np.abs(error))),
        bias=float(np.median(error[better])),
        coverage=float(np.mean(inside)),
        regret=float(np.mean(regrets)) if regrets else None,
        drift=_drift(*np.array(misses).T),
    )


def _drift(miss: np.ndarray, expected: np.ndarray, beyond: np.ndarray) -> float:
    """Part of the cells' misses (c,) that the law did not expect, for each factor of e of N beyond its runs.

    Least squares of what was not expected, squared, on the squared way: a cell hardly beyond the runs says
    nothing of what lies far beyond. Nor does one whose only run went wrong: misses count up to three robust
    deviations.
    """
    limit = 3 * 1.4826 * np.median(np.abs(miss))
    unexpected, way = np.clip(miss, -limit, limit) ** 2 - expected**2, beyond**2
    return float(np.sqrt(max((unexpected @ way) / (way @ way), 0.0)))


def _regret(cell: RunTable, recipe: Recommendation) -> float | None:
    points = cell.logs[:, 2:]
    if len(cell) < 8 or any(len(np.unique(np.round(points[:, i], 3))) < 3 for i in range(2)):
        return None
    return swept_loss(points, cell.loss)(recipe) - float(cell.loss.min())


def swept_loss(points: np.ndarray, loss: np.ndarray) -> Callable[[Recommendation], float]:
    """Losses of recommendations by a swept cell: linear in ln rate and ln batch, clamped to the sweep.

    Args:
        points: ln learning rate and ln batch of its runs, shape (n, 2).
        loss: theirs, shape (n,).
    """
    from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator

    low, high = points.min(axis=0), points.max(axis=0)
    if high[1] - low[1] < MIN_VARIATION:  # at one batch
        rates, label = np.unique(points[:, 0], return_inverse=True)
        means = np.bincount(label, loss) / np.bincount(label)
        return lambda recipe: float(np.interp(np.log(recipe.learning_rate), rates, means))
    linear = LinearNDInterpolator(points, loss, rescale=True)
    nearest = NearestNDInterpolator(points, loss, rescale=True)

    def loss_of(recipe: Recommendation) -> float:
        at = np.clip(np.log([recipe.learning_rate, recipe.batch_tokens]), low, high)
        value = float(linear(*at))
        return value if np.isfinite(value) else float(nearest(*at))

    return loss_of
