"""The Pareto front of a study as rows, and rows as CSV, JSON or Parquet."""

import io
import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from carbs_scaling.errors import CarbsScalingError
from carbs_scaling.files import write_atomically
from carbs_scaling.frontier import pareto_front
from carbs_scaling.laws.front_law import PowerLaw, fit_power_law
from carbs_scaling.ledger.record import TrialRecord

# Present in every row, in this order; FLOPs in the other conventions and the provenance follow.
COLUMNS = (
    "trial", "flops", "loss_nats_per_token", "bits_per_byte", "params", "tokens", "width", "depth",
    "learning_rate", "batch_tokens", "batch_size", "steps", "weight_decay", "beta2", "warmup_fraction",
    "architecture", "head_size", "vocabulary_size", "sequence_length", "seed",
    "seconds", "device", "peak_memory_bytes", "runs",
)  # fmt: skip


def completed_records(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The records that ended with a finite loss."""
    return [record for record in records if record.completed and math.isfinite(record.loss)]


def merged_repeats(records: Sequence[TrialRecord]) -> list[tuple[TrialRecord, int]]:
    """Completed records, those that differ by their seed alone as one with their mean loss, and their number.

    The luckiest of several runs says less of a recipe than their mean. The first of them stands for all.
    """
    same: dict[tuple, list[TrialRecord]] = {}
    for record in completed_records(records):
        same.setdefault(recipe_key(record), []).append(record)
    return [(_averaged(runs), len(runs)) for runs in same.values()]


def recipe_key(record: TrialRecord) -> tuple:
    """Equal for trials that differ by their seed alone."""
    return replace(record.recipe, seed=0), record.flops


def _averaged(runs: Sequence[TrialRecord]) -> TrialRecord:
    if len(runs) == 1:
        return runs[0]
    outcomes = [run.outcome for run in runs]
    return replace(
        runs[0],
        loss=fmean(run.loss for run in runs),
        outcome=replace(
            outcomes[0],
            loss=fmean(outcome.loss for outcome in outcomes),
            bits_per_byte=(
                None
                if any(outcome.bits_per_byte is None for outcome in outcomes)
                else fmean(outcome.bits_per_byte for outcome in outcomes)
            ),
        ),
    )


def front_records(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The records that no other beats in both loss and training FLOPs, the cheapest first; repeats merged."""
    return [record for record, _ in _front(records)]


def _front(records: Sequence[TrialRecord]) -> list[tuple[TrialRecord, int]]:
    merged = merged_repeats(records)
    if not merged:
        return []
    indices = pareto_front([record.flops for record, _ in merged], [record.loss for record, _ in merged])
    return [merged[int(index)] for index in indices]


def front_law(records: Sequence[TrialRecord]) -> PowerLaw | None:
    """The power law through the front, in the study's metric; None where its points are too few."""
    front = front_records(records)
    return fit_power_law([record.flops for record in front], [record.loss for record in front])


def front_rows(records: Sequence[TrialRecord]) -> list[dict[str, Any]]:
    """The front, the cheapest run first: a flat dict of plain values a run, all with the same keys."""
    rows = [{**_row(record), "runs": runs} for record, runs in _front(records)]
    keys = list(dict.fromkeys((*COLUMNS, *(key for row in rows for key in row))))
    return [{key: row.get(key) for key in keys} for row in rows]


def _row(record: TrialRecord) -> dict[str, Any]:
    recipe, shape, outcome = record.recipe, record.recipe.shape, record.outcome
    row = {
        "trial": record.number,
        "flops": record.flops,
        "loss_nats_per_token": outcome.loss,
        "bits_per_byte": outcome.bits_per_byte,
        "params": recipe.params,
        "tokens": outcome.tokens,
        "batch_tokens": recipe.batch_tokens,
        "steps": outcome.steps,
        "seconds": outcome.seconds,
        "device": outcome.device,
        "peak_memory_bytes": outcome.peak_memory_bytes,
    }
    for name in ("learning_rate", "batch_size", "weight_decay", "beta2", "warmup_fraction", "seed"):
        row[name] = getattr(recipe, name)
    for name in ("architecture", "width", "depth", "head_size", "vocabulary_size", "sequence_length"):
        row[name] = getattr(shape, name)
    for convention, flops in record.flops_by_convention.items():
        row[f"flops_{convention}"] = flops
    # What the record itself says comes first: a key of the provenance never replaces it.
    return {**_flatten(record.provenance), **row}


def _flatten(mapping: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level, `{"versions": {"torch": ...}}` as `versions_torch`; lists as JSON."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}_"))
        elif isinstance(value, (list, tuple)):
            flat[f"{prefix}{key}"] = json.dumps(value)
        elif isinstance(value, float) and not math.isfinite(value):
            flat[f"{prefix}{key}"] = None  # JSON has no NaN
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def write_front(rows: Sequence[dict[str, Any]], format: str, output: str | Path | None) -> None:
    """Write the front as `csv`, `json` or `parquet` to the file `output`, or to standard output if None.

    Raises:
        CarbsScalingError: the file cannot be written, or Parquet was asked for on standard output.
    """
    if format == "parquet" and output is None:
        raise CarbsScalingError("format=parquet goes to a file, not to the terminal: add output=FILE")
    content = _encode(rows, format)
    if output is not None:
        write_atomically(output, content)
        return
    try:
        sys.stdout.write(content.decode())
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as `head`, has what it wants; without this Python complains again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        raise CarbsScalingError(f"cannot write to standard output: {error.strerror or error}") from error


def _encode(rows: Sequence[dict[str, Any]], format: str) -> bytes:
    if format == "json":
        return (json.dumps(list(rows), indent=2, allow_nan=False) + "\n").encode()
    import pandas as pd

    # As objects: pandas would turn a column of integers with a gap into floats.
    frame = pd.DataFrame(list(rows), columns=list(rows[0]) if rows else list(COLUMNS), dtype=object)
    if format == "csv":
        return frame.to_csv(index=False, lineterminator="\n").encode()
    if format == "parquet":
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        return buffer.getvalue()
    raise ValueError(f"format {format!r} is not csv, json or parquet")
