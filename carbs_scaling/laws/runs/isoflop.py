"""IsoFLOP tables: a few budgets, many sizes each. What lies far from a budget's best size is left out.

Far from the best size runs are of few tokens or of tiny models, and lie off any law that holds near it. With
all of Hoffmann et al.'s points a law has N* ~ C^.65, with those within a factor of 4 C^.52, and its authors'
parabolas C^.50.
"""

import numpy as np

NEAR = 4.0  # factor in N from the best size of a budget
ONE_BUDGET = 0.1  # gap in ln(6 N D) that parts budgets
WIDEST = 0.4  # range in ln(6 N D) of a budget: points read off a figure scatter
SIZES, BUDGETS, SHARE = (
    5,
    3,
    0.8,
)  # least sizes of a budget, budgets of a table, and share of its runs in them
LEAST_LEFT = 4  # of a budget: fewer points have no parabola
TURNS = 10


def far_from_the_best(params: np.ndarray, tokens: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Mark runs of an IsoFLOP table over a factor of 4 in N from their budget's best size, shape (n,).

    All arguments have the shape (n,). Nothing is marked in another table, nor in a budget that would be left
    with fewer than four runs.
    """
    n, cost = np.log(params), np.log(6 * params * tokens)
    order = np.argsort(cost)
    budgets = np.split(order, np.flatnonzero(np.diff(cost[order]) > ONE_BUDGET) + 1)
    whole = [b for b in budgets if len(np.unique(np.round(n[b], 2))) >= SIZES and np.ptp(cost[b]) <= WIDEST]
    far = np.zeros(len(n), dtype=bool)
    if len(whole) < BUDGETS or sum(map(len, whole)) < SHARE * len(n):
        return far
    for budget in whole:
        off = np.abs(n[budget] - _best_size(n[budget], loss[budget])) > np.log(NEAR)
        if (~off).sum() >= LEAST_LEFT:
            far[budget[off]] = True
    return far


def _best_size(n: np.ndarray, loss: np.ndarray) -> float:
    """ln N at the foot of a parabola through the losses near it; the best run's where they have none."""
    best = float(n[loss.argmin()])
    for _ in range(TURNS):
        near = np.abs(n - best) <= np.log(NEAR)
        if near.sum() < LEAST_LEFT:
            break
        square, slope, _ = np.polyfit(n[near] - best, loss[near], 2)
        if square <= 0:
            break
        moved = float(np.clip(best - slope / (2 * square), n.min(), n.max()))
        if abs(moved - best) < 0.01:
            break
        best = moved
    return best
