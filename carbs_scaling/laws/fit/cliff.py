"""Outliers beyond a cliff: the loss jumps by some 10% above a learning rate and stays there.

A cliff is no valley. A law that must fit both the cliff and the flat beyond it puts the best rate two to
three times too low, with a narrow interval. Such runs are recognised by a first law, and left out.
"""

import numpy as np

from carbs_scaling.laws.runs.table import RunTable, cells_of
from carbs_scaling.laws.scaling_law import ScalingLaw

# Larger tables are fitted again only with a sign of a cliff. One is noise, as a share of a run's height above
# the floor, from which there is no valley. Tables of sweeps and searches have .1 to .5, synthetic cliffs of a
# tenth of the loss and more .4 to 1.
FEW_ENOUGH, SHAPELESS = 500, 0.55
# The other: in swept cells the best runs have rates so far above the law's, in ln(lr). Step Law's table has
# .3, since its valleys are skewed.
TOO_LOW = 0.5
# A cell counts as swept from so many rates at one batch (within this difference in ln B).
SWEPT_RATES, SAME_BATCH = 4, 0.1
SWEPT_CELLS = 4  # needed for the second sign
# Without the suspects the noise of the other runs falls to this share, and the suspects lie so many standard
# deviations above the law of the others, in the median. benchmarks/laws_many_tables.py --cliffs: tables with
# a cliff of a tenth of the loss have .2 to .6 and 16 to 33; others that get as quiet (a slip among 25 runs,
# tiny models whose runs end at two levels) lie at most 6 above.
QUIETER, FAR_OFF = 0.7, 12.0
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


def is_cliff(law: ScalingLaw, without: ScalingLaw, kept: RunTable, suspects: RunTable) -> bool:
    """Whether suspects lie beyond a cliff, by `signs`."""
    quieter, above = signs(law, without, kept, suspects)
    return quieter < QUIETER and above > FAR_OFF


def signs(law: ScalingLaw, without: ScalingLaw, kept: RunTable, suspects: RunTable) -> tuple[float, float]:
    """Noise of the kept runs without the suspects over that with them; deviations by which these lie above.

    Args:
        law: of all runs.
        without: the law of the kept runs alone.
        kept: the runs that are no suspects.
        suspects: the others.
    """
    quieter = np.median(_noise(without, kept)) / np.median(_noise(law, kept))
    above = np.sort(_residual(without, suspects) / _noise(without, suspects))
    return float(quieter), float(above[(len(above) - 1) // 2])  # of two the lower: one may be a slip


def _residual(law: ScalingLaw, table: RunTable) -> np.ndarray:
    """Losses less the law's, shape (n,)."""
    places = table.params, table.tokens, table.learning_rate, table.batch_tokens
    return np.asarray(table.loss - law.excess_of_others(table) - law.run_loss(*places))


def _noise(law: ScalingLaw, table: RunTable) -> np.ndarray:
    """Standard deviations of runs around a law, shape (n,)."""
    places = table.params, table.tokens, table.learning_rate, table.batch_tokens
    height = law.run_loss(*places) - law.loss(table.params, table.tokens)
    return np.asarray(np.hypot(law.seed_sd, law.height_sd * height))


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
