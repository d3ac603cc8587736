"""Rows that stand in a table twice, told from repeats of a run.

Repeats of a run differ in their losses, but a loss of three decimals hides it. So a row that equals another
in every column counts as the same run only where something else says so: its loss has many digits, the table
numbers or names its runs, or whole blocks of rows come again, as when exports are joined.
"""

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

# Digits of a loss that repeats do not share by chance: of two that differ by .002, one pair in a hundred
# agrees in five digits and one in a thousand in six.
TELLING_DIGITS = 6
BLOCK = 8  # rows in a row that equal as many others, of at least half as many kinds
NAMING = re.compile(r"(^|[^a-z])(run|id|name|trial|seed|index|number|created|time)([^a-z]|$)")
NAMED = 0.9  # share of values that are there once, above which a column names runs
MOST_PAIRS = 20  # later copies of a row that are looked at


def seen_before(frame: "pd.DataFrame") -> np.ndarray:
    """Mark rows that are the same run as an earlier row, shape (n,)."""
    again = np.asarray(frame.astype(str).duplicated().to_numpy())
    if not again.any():
        return again
    if _names_runs(frame[~again]):
        return again
    telling = np.array([_digits(value) >= TELLING_DIGITS for value in frame["loss"]])
    return again & (telling | _in_blocks(frame))


def _names_runs(distinct: "pd.DataFrame") -> bool:
    """Whether a column of texts, or one that is called so, has another value in nearly every row."""
    return any(
        (distinct[name].dtype.kind not in "iufb" or NAMING.search(str(name).lower()))
        and distinct[name].astype(str).nunique() >= max(NAMED * len(distinct), 2)
        for name in distinct.columns
    )


def _digits(value: object) -> int:
    mantissa = re.split("[eE]", repr(float(value)))[0]  # type: ignore[arg-type]
    return len(mantissa.replace(".", "").lstrip("-0"))


def _in_blocks(frame: "pd.DataFrame") -> np.ndarray:
    """Mark rows of blocks that are there twice in the same order, shape (n,): the later ones."""
    labels = np.unique(
        frame.astype(object).fillna("").astype(str).agg("\x1f".join, axis=1), return_inverse=True
    )[1].reshape(-1)
    marked = np.zeros(len(labels), dtype=bool)
    lags: dict[int, int] = {}
    for label in range(labels.max() + 1):
        places = np.flatnonzero(labels == label)[: MOST_PAIRS + 1]
        for lag in (places[None] - places[:, None])[np.triu_indices(len(places), 1)]:
            lags[int(lag)] = lags.get(int(lag), 0) + 1
    for lag in (lag for lag, count in lags.items() if count >= BLOCK):
        same = np.flatnonzero(labels[lag:] == labels[:-lag])
        for block in np.split(same, np.flatnonzero(np.diff(same) > 1) + 1):
            if len(block) >= BLOCK and len(np.unique(labels[block])) >= BLOCK / 2:
                marked[block + lag] = True
    return marked
