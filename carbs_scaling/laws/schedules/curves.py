"""Loss curves from logs of a run: learning rates between the logged steps, warmup told from the rest."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from carbs_scaling.laws.runs.files import read_table, without_half
from carbs_scaling.laws.runs.table import LawArgumentError
from carbs_scaling.laws.schedules.fit import LossCurve
from carbs_scaling.laws.schedules.law import Schedule

if TYPE_CHECKING:
    import pandas as pd

NAMES = {
    "step": ("step", "steps", "_step", "global_step", "iteration", "trainer/global_step"),
    "learning_rate": ("lr", "learning_rate", "train/learning_rate", "train/lr"),
    "loss": ("loss", "train_loss", "train/loss", "val_loss", "eval_loss", "eval/loss"),
}
AT_PEAK = 0.999  # share of the largest rate from which warmup is over
# Share of the peak that stands for a rate of 0, whose logarithm no law has.
LEAST_RATE = 1e-4
SIZE = re.compile(r"\d+(?:\.\d+)?[kKmMbB]")


def curve_of(steps: np.ndarray, rates: np.ndarray, loss: np.ndarray) -> LossCurve:
    """The curve of a run from its log; what was logged before the peak is warmup.

    Args:
        steps: at which it was logged, increasing, shape (m,).
        rates: learning rate of those steps, shape (m,).
        loss: shape (m,); NaN where it was not measured.

    Raises:
        ValueError: fewer than three losses after the warmup, or numbers that are none.
    """
    steps = np.asarray(steps, dtype=float)
    start = int(np.argmax(rates >= AT_PEAK * np.nanmax(rates)))
    before = np.append(0.0, steps[: start + 1]), np.append(0.0, rates[: start + 1])
    warmup_area = float(np.trapezoid(before[1], before[0]))
    every = np.arange(int(steps[start]), int(steps[-1]) + 1)
    there = np.isfinite(rates)
    every_rate = np.interp(every, steps[there], np.maximum(rates[there], LEAST_RATE * np.nanmax(rates)))
    measured = np.isfinite(loss) & (np.arange(len(steps)) >= start)
    if measured.sum() < 3:
        raise ValueError("it has fewer than three losses after its warmup")
    at = (steps[measured] - steps[start]).astype(int) + 1
    return LossCurve(Schedule(every_rate, warmup_area), at, loss[measured])


def read_curves(paths: list[Path]) -> dict[str, dict[str, LossCurve]]:
    """Curves of files with the columns step, lr and loss, by model and file.

    A model is a size at the beginning of the file's name, such as `100M_cosine.csv`; files without one are of
    one model.

    Raises:
        LawArgumentError: a file that is none, or holds no curve.
    """
    models: dict[str, dict[str, LossCurve]] = {}
    for path in paths:
        frame = read_table(path, ("step", "lr", "loss"))
        columns = {role: _column(frame, names, path) for role, names in NAMES.items()}
        frame = frame[list(columns.values())].apply(_numbers).sort_values(columns["step"])
        frame = frame.dropna(subset=[columns["step"], columns["learning_rate"]])
        try:
            curve = curve_of(*(frame[column].to_numpy() for column in columns.values()))
        except ValueError as error:
            raise LawArgumentError(f"{path}: {error}") from error
        name = path.name.split(".")[0]
        size, _, rest = name.partition("_")
        model, run = (size, rest) if rest and SIZE.fullmatch(size) else ("the model", name)
        models.setdefault(model, {})[run] = curve
    return models


def _numbers(column: "pd.Series[float]") -> "pd.Series[float]":
    import pandas as pd

    return pd.to_numeric(column, errors="coerce")


def _column(frame: "pd.DataFrame", names: tuple[str, ...], path: Path) -> str:
    for name in names:
        if found := [column for column in frame.columns if name in (column, without_half(column))]:
            return str(found[0])
    raise LawArgumentError(
        f"{path} has no column {names[0]}: a loss curve needs step, lr and loss, it has "
        f"{', '.join(map(str, frame.columns))}"
    )
