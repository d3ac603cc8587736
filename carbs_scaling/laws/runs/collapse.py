"""Runs that have a loss and yet broke: they fell back to what a model knows that has hardly learnt anything.

Past the edge of stability a run of a language model need not end in NaN: often it settles at 7 nats or so,
the entropy of single tokens, and reports that as its final loss. No valley holds both such losses and those
near its bottom, so a few of them bend every law that takes them for what a high learning rate costs.
"""

import numpy as np

HALF_AGAIN = 1.5  # of the better run's loss; the widest swept valleys that we know reach 1.3
ALIKE = 0.005  # nepers by which N or D may be larger and count as the same
# Below this share of the better run's rate a high loss is what too low a rate brings, and the law has that.
TOO_LOW = 0.5
ABSURD = 5.0  # times the better run's loss: more than before any training
HALF = 0.5  # of what all parameters and tokens of the table bring: less may be a wall, where losses span much
CLEARLY_ABOVE = 1.2  # times the better run's rate: then the rate is what broke the run


def collapsed(logs: np.ndarray, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which runs collapsed, and which of those because of their learning rate; each shape (n,).

    A run collapsed if it ended half again above a run of no more parameters and no more tokens, and by more
    than half of what all parameters and tokens of the table bring, at a learning rate that was not far lower.

    Args:
        logs: ln N, ln D, ln learning rate of each run, shape (n, 3) or wider; a constant where unknown.
        loss: final losses, finite, shape (n,).
    """
    n, d, rate = logs[:, 0], logs[:, 1], logs[:, 2]
    no_larger = (n[None] <= n[:, None] + ALIKE) & (d[None] <= d[:, None] + ALIKE)
    better = np.where(no_larger, loss[None], np.inf).argmin(axis=1)
    least = loss[better]
    broke = (
        (least > 0)
        & (loss > HALF_AGAIN * least)
        & (loss - least > HALF * np.ptp(least))
        & ((rate >= rate[better] + np.log(TOO_LOW)) | (loss > ABSURD * least))
    )
    return broke, broke & (rate > rate[better] + np.log(CLEARLY_ABOVE))
