"""The Pareto front of a study as rows, and rows as CSV, JSON or Parquet."""

import io
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from optuna.distributions import FloatDistribution, IntDistribution

from carbs_scaling.errors import CarbsScalingError
from carbs_scaling.files import write_atomically
from carbs_scaling.frontier import pareto_front
from carbs_scaling.laws.front_law import PowerLaw, fit_power_law
from carbs_scaling.laws.recommend.reach import Range, edge_lines
from carbs_scaling.ledger.identity import flatten
from carbs_scaling.ledger.record import TrialRecord, ended
from carbs_scaling.ledger.study import Study
from carbs_scaling.trial import Completed

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")

# In every row, in this order; metrics, roles, the point, its details and the provenance follow.
COLUMNS = (
    "trial", "flops", "loss", "runs", "seed", "seconds", "energy_joules", "co2_grams", "energy_source",
    "device", "precision", "recomputation", "peak_memory_bytes",
)  # fmt: skip


def completed_records(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The records that ended with a loss."""
    return [record for record in records if record.completed]


def merged_repeats(records: Sequence[TrialRecord]) -> list[tuple[TrialRecord, int]]:
    """Completed records, those that differ by their seed alone as one with their mean loss, and their number.

    The luckiest of several runs says less of a point than their mean. The first of them stands for all.
    """
    same: dict[Any, list[TrialRecord]] = {}
    for record in completed_records(records):
        same.setdefault(record.point_key, []).append(record)
    return [(_averaged(runs), len(runs)) for runs in same.values()]


def _averaged(runs: Sequence[TrialRecord]) -> TrialRecord:
    outcome = runs[0].outcome
    if len(runs) == 1 or not isinstance(outcome, Completed):
        return runs[0]
    measured = [ended(run).metrics for run in runs]
    metrics = {
        name: fmean(values[name] for values in measured)
        for name in measured[0]
        if all(name in values for values in measured)
    }
    return replace(runs[0], outcome=replace(outcome, loss=fmean(run.loss for run in runs), metrics=metrics))


def front_records(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The records that no other beats in both loss and training FLOPs, the cheapest first; repeats merged."""
    return [record for record, _ in merged_front(records)]


def merged_front(records: Sequence[TrialRecord]) -> list[tuple[TrialRecord, int]]:
    """The front with the number of runs that each of its records stands for."""
    merged = merged_repeats(records)
    if not merged:
        return []
    indices = pareto_front([record.flops for record, _ in merged], [record.loss for record, _ in merged])
    return [merged[int(index)] for index in indices]


def front_law(records: Sequence[TrialRecord]) -> PowerLaw | None:
    """The power law through the front, in the study's metric; None where its points are too few."""
    front = front_records(records)
    return fit_power_law([record.flops for record in front], [record.loss for record in front])


def front_edges(study: Study) -> list[str]:
    """The edges of its space that a front presses on, a line each, with the override that opens each."""
    written = study.identity.get("space", {})
    ranges = {}
    for name, d in study.space.items():
        if isinstance(d, IntDistribution | FloatDistribution):
            given = written.get(name)
            multiple = given.get("multiple_of") or 1 if isinstance(given, Mapping) else 1
            whole = isinstance(d, IntDistribution)
            ranges[name] = Range(d.low, d.high, d.log, whole, multiple, isinstance(given, list))
    return edge_lines([record.point for record in front_records(study.records())], ranges)


def front_rows(records: Sequence[TrialRecord]) -> list[dict[str, Any]]:
    """The front, the cheapest run first: a flat dict of plain values a run, all with the same keys."""
    rows = [{**_row(record), "runs": runs} for record, runs in merged_front(records)]
    keys = list(dict.fromkeys((*COLUMNS, *(key for row in rows for key in row))))
    return [{key: row.get(key) for key in keys} for row in rows]


def _row(record: TrialRecord) -> dict[str, Any]:
    outcome = ended(record)
    row = {
        "trial": record.number,
        "flops": record.flops,
        "loss": record.loss,
        "seed": record.seed,
        "seconds": outcome.seconds,
        "energy_joules": None if outcome.energy is None else outcome.energy.joules,
        "co2_grams": None if outcome.energy is None else outcome.energy.co2_grams,
        "energy_source": None if outcome.energy is None else outcome.energy.source,
        "device": outcome.device,
        "precision": outcome.precision or None,
        "recomputation": outcome.recomputation or None,
        "peak_memory_bytes": outcome.peak_memory_bytes,
        **outcome.metrics,
        **record.roles,
        **record.point,
    }
    # What the record itself measured comes first: a detail or a word of the provenance never replaces it.
    values = {**row, **{k: v for k, v in (record.details | record.provenance).items() if k not in row}}
    return {name: _plain(value) for name, value in flatten(values, "_").items()}


def _plain(value: Any) -> Any:
    """Lists as JSON; JSON has no NaN."""
    if isinstance(value, list | tuple):
        return json.dumps(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


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


def as_cell(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula, with an apostrophe before it, as OWASP advises."""
    if not isinstance(value, str):
        return value
    flat = value.replace("\r", " ")  # pandas does not quote it, and readers take it for the end of a row
    return f"'{flat}" if value.startswith(FORMULA_STARTS) else flat


def _encode(rows: Sequence[dict[str, Any]], format: str) -> bytes:
    if format == "json":
        return (json.dumps(list(rows), indent=2, allow_nan=False) + "\n").encode()
    import pandas as pd

    # As objects: pandas would turn a column of integers with a gap into floats.
    frame = pd.DataFrame(list(rows), columns=list(rows[0]) if rows else list(COLUMNS), dtype=object)
    if format == "csv":
        cells = [[as_cell(value) for value in row] for row in frame.to_numpy(dtype=object)]
        frame = pd.DataFrame(cells, columns=[as_cell(name) for name in frame], dtype=object)
        return str(frame.to_csv(index=False, lineterminator="\n")).encode()
    if format == "parquet":
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        return buffer.getvalue()
    raise ValueError(f"format {format!r} is not csv, json or parquet")
