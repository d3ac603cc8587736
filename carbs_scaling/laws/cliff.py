"""Runs beyond a cliff: too high a learning rate costs them a tenth or so at once, and no more further out.

That is no valley, and a fit that must have one puts it where both the cliff and the flat beyond it are walls:
two to three times too low, and sure of it. Such runs are told by where a first law puts them, and left out.
"""

import numpy as np

from carbs_scaling.laws.runs import RunTable
from carbs_scaling.laws.scaling_law import ScalingLaw

# Noise of a run as a share of its height from which walls have no valley's shape. The sweeps and searches
# that we know have .1 to .5, drawn cliffs of a tenth of the loss and more .5 to 1.
SHAPELESS = 0.55
FAR_UP = 0.05  # of the loss, above the law's floor
ABOVE = 0.1  # nepers above the law's best rate at that batch
MOST = 0.5  # share of the runs that may be left out


def beyond_a_cliff(law: ScalingLaw, table: RunTable) -> np.ndarray:
    """Which runs lie far up the side of high learning rates, if that side is no wall; shape (n,).

    Args:
        law: fitted to `table`.
        table: its runs.
    """
    places = law.places(table)
    too_high = places[:, 3] - law.parameter("a_B") * places[:, 4] > ABOVE
    floor = law.loss(table.params, table.tokens)
    far = too_high & (table.loss - law.excess_of_others(table) - floor > FAR_UP * floor)
    return far if law.height_sd > SHAPELESS and far.mean() < MOST else np.zeros(len(table), dtype=bool)
