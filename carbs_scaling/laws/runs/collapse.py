"""Runs that collapsed: they have a finite loss, but one of a model that has hardly learnt anything.

Past the edge of stability a language model's loss need not become NaN. Often it settles near 7 nats, the
entropy of single tokens. A few such outliers spoil the fit of a valley, so they count as diverged.
"""

import numpy as np

AT_ONCE = 1000  # runs that are compared with all others at once: all of ten thousand would take .8 GB
HALF_AGAIN = 1.5  # times the better run's loss; the widest valleys of published sweeps reach 1.3
ALIKE = 0.005  # difference in ln N or ln D below which sizes count as equal
# Below this share of the better run's rate, a high loss is the effect of too low a rate, not a collapse.
TOO_LOW = 0.5
ABSURD = 5.0  # times the better run's loss: more than before any training
# Share of the range of best losses in the table; a smaller excess may be a steep valley.
HALF = 0.5
CLEARLY_ABOVE = 1.2  # times the better run's rate: above it, the rate is the cause


def collapsed(logs: np.ndarray, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mark the runs that collapsed, and those of them whose learning rate is the cause; each shape (n,).

    A run collapsed if its loss is 1.5 times that of a run of no more parameters and no more tokens, the
    excess is more than half the range of best losses in the table, and its learning rate is not far lower.

    Args:
        logs: ln N, ln D, ln learning rate of each run, shape (n, 3) or wider; a constant where unknown.
        loss: final losses, finite, shape (n,).
    """
    n, d, rate = logs[:, 0], logs[:, 1], logs[:, 2]
    better = np.concatenate(
        [
            np.where((n <= n[part] + ALIKE) & (d <= d[part] + ALIKE), loss, np.inf).argmin(axis=1)
            for part in np.array_split(np.arange(len(loss))[:, None], 1 + len(loss) // AT_ONCE)
        ]
    )
    least = loss[better]
    broke = (
        (least > 0)
        & (loss > HALF_AGAIN * least)
        & (loss - least > HALF * np.ptp(least))
        & ((rate >= rate[better] + np.log(TOO_LOW)) | (loss > ABSURD * least))
    )
    return broke, broke & (rate > rate[better] + np.log(CLEARLY_ABOVE))
