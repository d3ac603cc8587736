"""TEMPORARY shim."""

import numpy as np


def loss_scale(loss):
    low = float(np.min(loss))
    quartiles = np.quantile(loss, [0.25, 0.75])
    spread = max(
        float(quartiles[1] - quartiles[0]) / 1.349, 0.5 * float(np.median(np.abs(loss - np.median(loss))))
    )
    level = max(abs(low), spread, 1e-9)
    return level, max(spread, 1e-2 * level)
