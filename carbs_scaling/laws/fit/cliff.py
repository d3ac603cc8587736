"""Outliers beyond a cliff: the loss jumps by some 10% above a learning rate and stays there.

A cliff is no valley. A law that must fit both the cliff and the flat beyond it puts the best rate two to
three times too low, with a narrow interval. Such runs are recognised by a first law, and left out.
"""

import numpy as np

from carbs_scaling.laws.runs.table import RunTable, cells_of
from carbs_scaling.laws.scaling_law import ScalingLaw

# Noise of a run, as a share of its height above the floor, from which there is no valley. Tables of sweeps
# and searches have .1 to .5, synthetic cliffs of a tenth of the loss and more .5 to 1.
SHAPELESS = 0.55
# A second sign: in swept cells the best runs have rates so far above the law's, in ln(lr). Step Law's table
# has .3, since its valleys are skewed.
TOO_LOW = 0.5
# A cell counts as swept from so many rates at one batch (within this difference in ln B).
SWEPT_RATES, SAME_BATCH = 4, 0.1
SWEPT_CELLS = 4  # needed for the second sign
# A third sign: without the suspects the noise of the other runs falls to this share (synthetic cliffs in
# random tables .1 to .7; elsewhere .9 and more). It takes another fit, so only tables of so few runs.
QUIETER, FEW_ENOUGH = 0.75, 500
FAR_UP = 0.05  # height above the floor from which a run is a suspect, as a share of the floor
ABOVE = 0.1  # and its rate above the law's best at that batch, in ln(lr)
MOST = 0.5  # largest share of the runs that may be left out


def walls_unlike(law: ScalingLaw, table: RunTable) -> bool:
    """Whether the runs of a law have no valley's shape, by the noise of their heights or by swept cells."""
    return law.height_sd > SHAPELESS or _best_runs_off(law, table) > TOO_LOW


def far_above(law: ScalingLaw, table: RunTable) -> np.ndarray:
    """Mark the runs that a law of the table puts far up the side of high learning rates; shape (n,)."""
    floor = law.loss(table.params, table.tokens)
    height = table.loss - law.excess_of_others(table) - floor
    return np.asarray((_off_rate(law, table) > ABOVE) & (height > FAR_UP * floor))


def _off_rate(law: ScalingLaw, table: RunTable) -> np.ndarray:
    """ln of each run's rate over the law's best rate at its batch, shape (n,)."""
    places = law.places(table)
    return places[:, 3] - law.parameter("a_B") * places[:, 4]


def _best_runs_off(law: ScalingLaw, table: RunTable) -> float:
    """Median of `_off_rate` over the best runs of swept cells; 0 where too few cells are swept."""
    off, found = _off_rate(law, table), []
    for cell in cells_of(table):
        if len(cell) < SWEPT_RATES:
            continue
        best = cell[np.argmin(table.loss[cell])]
        near = cell[np.abs(table.logs[cell, 3] - table.logs[best, 3]) < SAME_BATCH]
        if len(np.unique(np.round(table.logs[near, 2], 2))) >= SWEPT_RATES:
            found.append(off[best])
    return float(np.median(found)) if len(found) >= SWEPT_CELLS else 0.0
