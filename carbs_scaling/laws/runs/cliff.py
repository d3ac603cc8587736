"""Runs beyond a cliff: too high a learning rate costs them a tenth or so at once, and no more further out.

That is no valley, and a fit that must have one puts it where both the cliff and the flat beyond it are walls:
two to three times too low, and sure of it. Such runs are told by where a first law puts them, and left out.
"""

import numpy as np

from carbs_scaling.laws.runs.table import RunTable, cells_of
from carbs_scaling.laws.scaling_law import ScalingLaw

# Noise of a run as a share of its height from which walls have no valley's shape. The sweeps and searches
# that we know have .1 to .5, drawn cliffs of a tenth of the loss and more .5 to 1.
SHAPELESS = 0.55
# The same is told by swept cells whose best runs have rates so far above the law's, in nepers (Step Law's
# table has .3, for its valleys are lopsided).
TOO_LOW, SWEPT_RATES, SWEPT_CELLS, SAME_BATCH = 0.5, 4, 4, 0.1
# Or by what is left without them: the noise of the others falls to so small a share (drawn cliffs in random
# tables .1 to .7; elsewhere .9 and more). That takes a fit, so not of large tables, whose cells are swept.
QUIETER, FEW_ENOUGH = 0.75, 500
FAR_UP = 0.05  # of the loss, above the law's floor
ABOVE = 0.1  # nepers above the law's best rate at that batch
MOST = 0.5  # share of the runs that may be left out


def walls_unlike(law: ScalingLaw, table: RunTable) -> bool:
    """Whether the walls are none that a valley has, by the noise of their heights or by swept cells.

    Args:
        law: fitted to `table`.
        table: its runs.
    """
    return law.height_sd > SHAPELESS or _best_runs_off(law, table) > TOO_LOW


def far_above(law: ScalingLaw, table: RunTable) -> np.ndarray:
    """Which runs of a table lie far up the side of high learning rates, by a law of it; shape (n,)."""
    floor = law.loss(table.params, table.tokens)
    height = table.loss - law.excess_of_others(table) - floor
    return (_off_rate(law, table) > ABOVE) & (height > FAR_UP * floor)


def _off_rate(law: ScalingLaw, table: RunTable) -> np.ndarray:
    """How far the runs' rates are above the law's best for their batch, in nepers, shape (n,)."""
    places = law.places(table)
    return places[:, 3] - law.parameter("a_B") * places[:, 4]


def _best_runs_off(law: ScalingLaw, table: RunTable) -> float:
    """How far above the law's rate the best runs of swept cells have theirs, in nepers; median over cells."""
    off, found = _off_rate(law, table), []
    for cell in cells_of(table):
        best = cell[np.argmin(table.loss[cell])]
        near = cell[np.abs(table.logs[cell, 3] - table.logs[best, 3]) < SAME_BATCH]
        if len(np.unique(np.round(table.logs[near, 2], 2))) >= SWEPT_RATES:
            found.append(off[best])
    return float(np.median(found)) if len(found) >= SWEPT_CELLS else 0.0
