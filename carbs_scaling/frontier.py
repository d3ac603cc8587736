"""The Pareto front of loss against training FLOPs, and the hypervolume under it.

Both are minimised. Costs enter as log10 FLOPs wherever areas are measured: a decade of compute is a decade.
"""

import numpy as np
from numpy.typing import ArrayLike


def pareto_front(flops: ArrayLike, loss: ArrayLike) -> np.ndarray:
    """Indices of the runs that no other run beats, cheapest first.

    A run is beaten by one that costs no more and is no worse, and is better in at least one of the two. Of
    runs equal in both the first stays. Runs whose loss or cost is not finite are never on the front.

    Args:
        flops: training FLOPs, shape (n,).
        loss: losses, shape (n,).

    Returns:
        Indices, shape (k,): FLOPs strictly rise and losses strictly fall along them.

    Raises:
        ValueError: there are not as many costs as losses.
    """
    flops = np.asarray(flops, dtype=float).reshape(-1)
    loss = np.asarray(loss, dtype=float).reshape(-1)
    if flops.shape != loss.shape:
        raise ValueError(f"{flops.size} costs for {loss.size} losses")
    finite = np.flatnonzero(np.isfinite(flops) & np.isfinite(loss))
    order = finite[np.lexsort((finite, loss[finite], flops[finite]))]
    best_before = np.minimum.accumulate(np.append(np.inf, loss[order]))[:-1]
    return order[loss[order] < best_before]


def hypervolume(flops: ArrayLike, loss: ArrayLike, reference: tuple[float, float]) -> float:
    """Area that the runs dominate, in decades of FLOPs times units of loss.

    Args:
        flops: training FLOPs, shape (n,).
        loss: losses, shape (n,).
        reference: (log10 FLOPs, loss) of the corner; runs beyond it in either coordinate add nothing.
    """
    front = pareto_front(flops, loss)
    log_cost = np.log10(np.asarray(flops, dtype=float).reshape(-1)[front])
    level = np.asarray(loss, dtype=float).reshape(-1)[front]
    inside = (log_cost < reference[0]) & (level < reference[1])
    log_cost, level = log_cost[inside], level[inside]
    widths = np.diff(np.append(log_cost, reference[0]))
    return float(np.sum(widths * (reference[1] - level)))
