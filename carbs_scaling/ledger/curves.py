"""Loss curves of trials: JSON lines, appended to while a trial trains and read while it does."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from carbs_scaling.laws.convergence.loss_curves import RunCurve
from carbs_scaling.ledger.record import TrialRecord

# Several lines of a curve, each some 120 bytes, so that a partial one at the end leaves a whole one before.
TAIL_BYTES = 4096


def _point(line: bytes) -> dict | None:
    """One line as a point; None for the fragment that a killed or a still busy writer leaves."""
    try:
        point = json.loads(line)
    except ValueError:
        return None
    return point if isinstance(point, dict) else None


def read_curve(path: str | Path) -> list[dict]:
    """All whole points of a curve file, in order; none if there is no such file yet."""
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        return []
    points = [_point(line) for line in content.splitlines()]
    return [point for point in points if point is not None]


def last_point(path: str | Path) -> dict | None:
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
    """The curves in `folder` of the completed trials, as `laws.convergence_fit` takes them."""
    completed = [record for record in records if record.completed]
    curves = [_run_curve(record, read_curve(curve_path(folder, record.number))) for record in completed]
    return [curve for curve in curves if curve is not None]


def curve_path(folder: str | Path, number: int) -> Path:
    """Where the curve of a trial is, in the folder of a study's curves."""
    return Path(folder) / f"{number:05d}.jsonl"


def _run_curve(record: TrialRecord, points: list[dict]) -> RunCurve | None:
    points = [point for point in points if "train_loss" in point]
    if not points:
        return None
    # A point is the mean loss of the steps since the one before, each scored before its update.
    steps = np.array([0, *(point["step"] for point in points)], dtype=float)
    recipe = record.recipe

    def column(name: str) -> np.ndarray:
        return np.array([point.get(name, np.nan) for point in points], dtype=float)

    return RunCurve(
        params=float(recipe.params),
        batch_tokens=float(recipe.batch_tokens),
        learning_rate=recipe.learning_rate,
        flops_per_token=record.flops / record.outcome.tokens,
        tokens=(steps[:-1] + steps[1:] - 1) / 2 * recipe.batch_tokens,
        loss=column("train_loss"),
        rate=column("learning_rate"),
        gradient_square=column("gradient_square"),
        gradient_variance=column("gradient_variance"),
    )


def held_out_gap(records: Sequence[TrialRecord], folder: str | Path) -> float | None:
    """Median of held-out less last training loss over completed trials, nats a token; None without curves."""
    gaps = []
    for record in records:
        points = read_curve(curve_path(folder, record.number)) if record.completed else []
        training = [point["train_loss"] for point in points if "train_loss" in point]
        if training:
            # Of several points: a single one is as noisy as its few batches.
            last = training[-max(1, len(training) // 20) :]
            gaps.append(record.outcome.loss - sum(last) / len(last))
    return float(np.median(gaps)) if gaps else None
