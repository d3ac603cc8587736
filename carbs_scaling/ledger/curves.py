"""Loss curves of trials: JSON lines, appended to while a trial runs and read while it does.

A point has `progress`, the share of the run that is done, and `seconds`; `train_loss` is shown where it is
there. What else it has is the task's.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from carbs_scaling.laws.convergence.loss_curves import RunCurve
from carbs_scaling.laws.recommend.predicted_curve import SeenCurve
from carbs_scaling.laws.schedules.curves import curve_of
from carbs_scaling.laws.schedules.fit import LossCurve
from carbs_scaling.ledger.record import TrialRecord

# Several lines of a curve, each some 120 bytes, so that a partial one at the end leaves a whole one before.
TAIL_BYTES = 4096
LEAST_POINTS = 10  # of a curve that says anything of its schedule


def _point(line: bytes) -> dict[str, Any] | None:
    """One line as a point; None for the fragment that a killed or a still busy writer leaves."""
    try:
        point = json.loads(line)
    except ValueError:
        return None
    return point if isinstance(point, dict) else None


def read_curve(path: str | Path) -> list[dict[str, Any]]:
    """All whole points of a curve file, in order; none if there is no such file yet."""
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        return []
    points = [_point(line) for line in content.splitlines()]
    return [point for point in points if point is not None]


def last_point(path: str | Path) -> dict[str, Any] | None:
    """The last whole point of a curve file, read from its tail alone; None if there is none yet."""
    try:
        with Path(path).open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            tail = file.read()
    except FileNotFoundError:
        return None
    for line in reversed(tail.splitlines()):
        point = _point(line)
        if point is not None:
            return point
    return None


def run_curves(records: Sequence[TrialRecord], folder: str | Path) -> list[RunCurve]:
    """The curves in `folder` of the completed trials, as `laws.convergence.fit` takes them."""
    completed = [record for record in records if record.completed]
    curves = [_run_curve(record, read_curve(curve_path(folder, record.number))) for record in completed]
    return [curve for curve in curves if curve is not None]


def seen_curves(records: Sequence[TrialRecord], folder: str | Path) -> list[SeenCurve]:
    """The curves in `folder` of the completed trials, as `predict_curve` takes them."""
    curves = []
    for record in records:
        points = read_curve(curve_path(folder, record.number)) if record.completed else []
        points = [point for point in points if {"train_loss", "progress"} <= set(point)]
        if points and {"params", "tokens"} <= set(record.values):
            ends = np.array([0.0, *(point["progress"] for point in points)])
            curves.append(
                SeenCurve(
                    params=float(record.values["params"]),
                    tokens=float(record.values["tokens"]),
                    end_loss=record.loss,
                    share=(ends[:-1] + ends[1:]) / 2,
                    loss=np.array([point["train_loss"] for point in points]),
                )
            )
    return curves


def curves_by_model(records: Sequence[TrialRecord], folder: str | Path) -> dict[str, dict[str, LossCurve]]:
    """Training curves of the completed trials for schedule laws, by model (N and batch) and trial."""
    models: dict[str, dict[str, LossCurve]] = {}
    for record in records:
        points = read_curve(curve_path(folder, record.number)) if record.completed else []
        points = [point for point in points if {"train_loss", "learning_rate", "step"} <= set(point)]
        if len(points) < LEAST_POINTS or not {"params", "batch_tokens"} <= set(record.values):
            continue
        steps, rates, loss = (
            np.array([point[name] for point in points], dtype=float)
            for name in ("step", "learning_rate", "train_loss")
        )
        model = f"{record.values['params']:.4g} at {record.values['batch_tokens']:.4g}"
        try:
            models.setdefault(model, {})[str(record.number)] = curve_of(steps, rates, loss)
        except ValueError:
            continue  # warmup took nearly all of the run, or its loss is none
    return {model: curves for model, curves in models.items() if curves}


def curve_path(folder: str | Path, number: int) -> Path:
    """Where the curve of a trial is, in the folder of a study's curves."""
    return Path(folder) / f"{number:05d}.jsonl"


def _run_curve(record: TrialRecord, points: list[dict[str, Any]]) -> RunCurve | None:
    points = [point for point in points if "train_loss" in point]
    needed = {"params", "tokens", "batch_tokens", "learning_rate"}
    if not points or not needed <= set(record.values) or any("step" not in point for point in points):
        return None
    # A point is the mean loss of the steps since the one before, each scored before its update.
    steps = np.array([0, *(point["step"] for point in points)], dtype=float)
    batch_tokens = float(record.values["batch_tokens"])

    def column(name: str) -> np.ndarray:
        return np.array([point.get(name, np.nan) for point in points], dtype=float)

    return RunCurve(
        params=float(record.values["params"]),
        batch_tokens=batch_tokens,
        learning_rate=float(record.values["learning_rate"]),
        flops_per_token=record.flops / record.values["tokens"],
        tokens=(steps[:-1] + steps[1:] - 1) / 2 * batch_tokens,
        loss=column("train_loss"),
        rate=column("learning_rate"),
        gradient_square=column("gradient_square"),
        gradient_variance=column("gradient_variance"),
    )


def held_out_gap(records: Sequence[TrialRecord], folder: str | Path) -> float | None:
    """Median of held-out less last training loss over completed trials, as curves have them; None without."""
    gaps = []
    for record in records:
        points = read_curve(curve_path(folder, record.number)) if record.completed else []
        training = [point["train_loss"] for point in points if "train_loss" in point]
        held_out = [point["validation_loss"] for point in points if "validation_loss" in point]
        if training and held_out:
            # Of several points: a single one is as noisy as its few batches.
            last = training[-max(1, len(training) // 20) :]
            gaps.append(held_out[-1] - sum(last) / len(last))
    return float(np.median(gaps)) if gaps else None
