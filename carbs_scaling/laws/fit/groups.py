"""Groups of runs that share what a law gets wrong: cells (N, D), model sizes, and bends of the power laws."""

from dataclasses import dataclass

import numpy as np

from carbs_scaling.laws.form.bends import BENDS, bend_basis, reach_of

MIN_CELL_RUNS = 4  # a cell with fewer says nothing of its own about a valley: its scatter is run noise
MIN_CELLS = 3
MIN_SIZES = 2
MAX_EFFECT_COLUMNS = 600
# Level and exponent in N go through the sizes, so that two of them scatter not at all: of the scatter of m
# sizes m - 2 are left to tell its variance. (Cells are many: what the law takes of theirs is left out.)
FITTED_THROUGH_SIZES = 2


@dataclass(frozen=True)
class Grouping:
    """Runs that share a shift.

    Args:
        level: `cell`, `size` or `bend`.
        kind: a name of `SHIFTS`.
        basis: how much of each shift each run has, shape (n, m): 0 or 1 for cells and sizes.
    """

    level: str
    kind: str
    basis: np.ndarray

    @property
    def groups(self) -> int:
        """How many shifts there are, m."""
        return self.basis.shape[1]

    @property
    def witnesses(self) -> int:
        """How many shifts are left to tell their variance, once the law has been fitted through them."""
        return max(self.groups - FITTED_THROUGH_SIZES, 0) if self.level == "size" else self.groups


def bends(features: np.ndarray) -> list[Grouping]:
    """The second-order terms of the best learning rate and the best batch."""
    basis = bend_basis(features[:, 0], features[:, 1], reach_of(features))
    return [Grouping("bend", kind, basis) for kind in BENDS]


def groupings(features: np.ndarray) -> list[Grouping]:
    """Cells and sizes that have enough runs to show a shift of their own."""
    sizes = np.unique(np.round(features[:, 0], 2), return_inverse=True)[1].reshape(-1)
    cells = np.unique(np.round(features[:, :2], 2), axis=0, return_inverse=True)[1].reshape(-1)
    if sizes.max() == cells.max():  # one cell a size: then they are sizes that scatter
        levels = [("size", sizes, MIN_SIZES, ("loss", "rate", "batch", "steepness"))]
    else:
        levels = [
            ("cell", cells, MIN_CELLS, ("loss", "rate", "batch", "steepness")),
            ("size", sizes, MIN_SIZES, ("loss", "rate", "batch")),
        ]
    found = []
    for level, label, least, kinds in levels:
        counts = np.bincount(label)
        enough = counts >= MIN_CELL_RUNS
        if enough.sum() < least or enough.sum() * len(kinds) > MAX_EFFECT_COLUMNS:
            continue
        basis = (label[:, None] == np.flatnonzero(enough)).astype(float)
        found += [Grouping(level, kind, basis) for kind in kinds]
    return found
