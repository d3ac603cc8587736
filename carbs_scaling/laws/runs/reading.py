"""Reads tables of training runs: a DataFrame, a file or a study's records.

A table that cannot give a law is refused in one line, which names the fault and what to do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np

from carbs_scaling.laws.runs.collapse import collapsed
from carbs_scaling.laws.runs.columns import hints, with_roles
from carbs_scaling.laws.runs.files import read_table
from carbs_scaling.laws.runs.isoflop import far_from_the_best
from carbs_scaling.laws.runs.repeated import effective_tokens
from carbs_scaling.laws.runs.repeats import seen_before
from carbs_scaling.laws.runs.rules import rules_of
from carbs_scaling.laws.runs.table import (
    MAY_BE_0,
    MIN_PARAMS,
    MIN_RUNS,
    MIN_TOKENS,
    MIN_VARIATION,
    REQUIRED,
    SEARCHED,
    LawArgumentError,
    LawError,
    RunTable,
)

if TYPE_CHECKING:
    import pandas as pd

Table = TypeVar("Table")

ALSO_CALLED = {"momentum": "beta1"}  # its name in tables of Adam's runs, and in the space
MAY_LACK = ("learning_rate", "batch_tokens")  # what the points of a study may not have
# Marks of a run that diverged, and of one that did not; anything else is refused.
MARKED = ("true", "1", "1.0", "yes", "y", "t", "x", "diverged")
NOT_MARKED = ("false", "0", "0.0", "no", "n", "f", "", "nan", "none", "<na>", "-")
REPEATED = 1.01  # tokens over those of the text, above which a run saw it again
LOSS_ALONE = "; for a law of the loss alone in N and D, leave out rate and batch, under any name"
# Bounds that reveal a wrong unit: logs of rates, sequences a batch, perplexities.
MAX_RATE, MAX_STEPS, MAX_LOSS = 100.0, 5e6, 50.0


def read_runs(
    runs: Any, optimizer: str | None = None, columns: Mapping[str, Any] | None = None
) -> dict[str, RunTable]:
    """Read and check runs; returns one table an optimizer, under "" where none is named.

    Args:
        runs: a DataFrame, a mapping of columns, a path to CSV, TSV, JSON, JSONL or Parquet, a `Study`,
            `TrialRecord`s of a study, or a `RunTable`. Columns may have other names (`laws.runs.columns`).
        optimizer: read only the runs of this one.
        columns: where a column stands, by its name here: a column, a formula of columns, or a number.

    Raises:
        LawError: unreadable, columns missing or duplicated, wrong units, no variation, or no runs of that
            optimizer.
    """
    if isinstance(runs, RunTable):
        return _only({runs.optimizer: runs}, optimizer)
    frame, source = _as_frame(runs)
    given = frame
    own = _is_of_a_study(runs)
    read_as: tuple[str, ...] = ()
    if not own:
        frame, read_as = with_roles(frame, source, columns)
    has_role = (True, True, "learning_rate" in frame.columns, "batch_tokens" in frame.columns)
    if own or _of_the_loss_alone(frame):
        frame = _filled(frame)
    _check_columns(frame, source, given)
    names = _optimizers(frame)
    by_name = _only({name: frame[names == name] for name in sorted(set(names))}, optimizer)
    identity = getattr(runs, "identity", {})
    how = {k: v for k, v in identity.get("rates", {}).items() if k != "optimizer"}
    return {
        name: replace(_checked(part, name, source, has_role), read_as=read_as, **how)
        for name, part in by_name.items()
    }


def _is_of_a_study(runs: Any) -> bool:
    """Whether the columns are the program's own."""
    return isinstance(runs, StudyRuns) or hasattr(runs, "records") or _are_records(runs)


def _are_records(runs: Any) -> bool:
    return (
        isinstance(runs, Sequence)
        and not isinstance(runs, str)
        and all(hasattr(run, "roles") for run in runs)
    )


@dataclass(frozen=True)
class StudyRuns:
    """Completed and diverged runs of a study, whose points may have no learning rate or no batch.

    Args:
        rows: of `study_row`.
        source: name of the study, for reports.
        optimizer: its name; empty where the study has none.
    """

    rows: Sequence[Mapping[str, Any]]
    source: str
    optimizer: str = ""


def study_row(
    number: int, values: Mapping[str, Any], loss: float | None, epochs: float | None = None
) -> dict[str, Any]:
    """One run of a study as a row of a table.

    Args:
        number: of the trial: two trials are two runs, also where all else is equal.
        values: the point's values and roles.
        loss: None for a run that diverged.
        epochs: how often it saw its text; None where that is not known.
    """
    columns = (*REQUIRED[:4], "depth", "width", *SEARCHED, *ALSO_CALLED.values())
    kept = {name: values[name] for name in columns if values.get(name) is not None}
    repeats = {} if epochs is None else {"epochs": epochs}
    return {**kept, **repeats, "loss": loss, "diverged": loss is None, "trial": number}


def _of_the_loss_alone(frame: "pd.DataFrame") -> bool:
    """Whether a table has no rate and no batch, nor a column that may be one under another name."""
    return not any(part in str(name).lower() for name in frame.columns for part in ("lr", "rate", "batch"))


def _filled(frame: "pd.DataFrame") -> "pd.DataFrame":
    """A table of runs with the columns that its points lack: one rate, and one batch far below all tokens."""
    absent = {name: 1.0 for name in MAY_LACK if name not in frame.columns}
    if "batch_tokens" in absent and "tokens" in frame.columns:
        absent["batch_tokens"] = max(float(frame["tokens"].min()) / 1000, 1.0)
    return frame.assign(**absent)


def _check_columns(frame: "pd.DataFrame", source: str, given: "pd.DataFrame") -> None:
    """Refuse a table that lacks a column or has no rows, `given` being it before its columns were read."""
    missing = [name for name in REQUIRED if name not in frame.columns]
    if missing:
        said = [f"columns.{missing[0]}=NAME says where it stands", *hints(given, missing)]
        raise LawArgumentError(
            f"{source} has no column {', '.join(missing)}: needed are {', '.join(REQUIRED)} (params: "
            "non-embedding parameters; tokens and batch_tokens in tokens), it has "
            f"{', '.join(map(str, given.columns)) or 'none'}; {'; '.join(said)}"
            + (LOSS_ALONE if set(missing) <= {"learning_rate", "batch_tokens"} else "")
        )
    if not len(frame):
        raise LawError(f"{source} has no rows: a law needs at least {MIN_RUNS} runs")


def _only(tables: dict[str, Table], optimizer: str | None) -> dict[str, Table]:
    if optimizer is None:
        return tables
    if optimizer not in tables:
        named = ", ".join(filter(None, tables)) or "no names"
        raise LawArgumentError(f"there are no runs of {optimizer!r}: there are {named}")
    return {optimizer: tables[optimizer]}


def _optimizers(frame: "pd.DataFrame") -> np.ndarray:
    if "optimizer" not in frame.columns:
        return np.full(len(frame), "")
    column = frame["optimizer"]
    return np.where(column.isna(), "", column.astype(str))


def _as_frame(runs: Any) -> tuple["pd.DataFrame", str]:
    import pandas as pd

    if isinstance(runs, pd.DataFrame):
        levels = [name for name in runs.index.names if name is not None and name not in runs.columns]
        return runs.reset_index(levels) if levels else runs, "the table"
    if isinstance(runs, str | Path):
        return read_table(Path(runs)), str(runs)
    if hasattr(runs, "records"):
        optimizer = runs.identity.get("optimizer", {}).get("name", "")
        return records_frame(runs.records()).assign(optimizer=optimizer), f"study {runs.name}"
    if isinstance(runs, StudyRuns):
        return _study_frame(runs.rows).assign(optimizer=runs.optimizer), f"study {runs.source}"
    if isinstance(runs, dict):
        try:
            return pd.DataFrame(runs), "the table"
        except ValueError as error:
            raise LawError(f"the columns make no table: {error}") from error
    if _are_records(runs):
        return records_frame(runs), "the study"
    raise LawError(
        f"{type(runs).__name__} is not a table of runs: give a DataFrame or a CSV, TSV, JSON, JSONL or "
        "Parquet file"
    )


def records_frame(records: Sequence[Any]) -> "pd.DataFrame":
    """Completed and diverged `TrialRecord`s as a DataFrame of the columns above."""
    ended = [record for record in records if record.completed or record.status == "diverged"]
    return _study_frame(
        [
            # Not the details: what a task keeps to itself, such as a rate by a law, is no role.
            study_row(
                record.number,
                {**record.point, **record.roles},
                record.law_loss if record.completed else None,
                None if record.outcome is None else record.outcome.metrics.get("epochs"),
            )
            for record in ended
        ]
    )


def _study_frame(rows: Sequence[Mapping[str, Any]]) -> "pd.DataFrame":
    import pandas as pd

    if not rows:
        raise LawError("the study has no run that ended yet: search first")
    return pd.DataFrame(rows)


def _checked(
    frame: "pd.DataFrame", optimizer: str, source: str, has_role: tuple[bool, bool, bool, bool]
) -> RunTable:
    """Check the rows of one optimizer, and leave out runs that diverged, collapsed or are there twice."""
    what = f"{source} ({optimizer})" if optimizer else source
    columns = {name: _numbers(frame, name, what) for name in REQUIRED}
    unique = _unique_tokens(frame, columns["tokens"], what)
    repeats = columns["tokens"] > REPEATED * unique
    tokens, columns["tokens"] = columns["tokens"], effective_tokens(columns["tokens"], unique)
    marked = _marked(frame["diverged"], what) if "diverged" in frame.columns else np.zeros(len(frame), bool)
    ended = np.isfinite(columns["loss"]) & ~marked
    if not ended.any():
        raise LawError(f"{what}: all {len(frame)} runs diverged or have no loss, so there is nothing to fit")
    values = {name: column[ended] for name, column in columns.items()}
    _check_units({**values, "tokens": tokens[ended]}, what)
    broke, by_rate = collapsed(
        np.log(np.stack([values[name] for name in REQUIRED[:3]], axis=-1)), values["loss"]
    )
    completed = np.flatnonzero(ended)
    marked[completed[by_rate]] = True
    again = seen_before(frame)[ended] & ~broke
    ended[completed[broke | again]] = False
    values = {name: column[ended] for name, column in columns.items()}
    _check_runs(values, int(broke.sum()), what)
    table = RunTable(
        **values,
        **_others(frame, ended),
        optimizer=optimizer,
        diverged=int((~ended).sum() - again.sum()),
        source=source,
        diverged_logs=_logs_where(columns, marked),
        collapsed=int(broke.sum()),
        again=int(again.sum()),
        has_role=has_role,
        repeated=int(repeats[ended].sum()),
    )
    odd = rules_of(table).odd
    if odd is not None:
        table = replace(table.take(~odd), off_rule=int(odd.sum()))
    if has_role[2] and "learning_rate" not in rules_of(table).names:
        return table
    far = far_from_the_best(table.params, table.tokens, table.loss)
    return replace(table.take(~far), far=int(far.sum())) if far.any() else table


def _numbers(frame: "pd.DataFrame", name: str, what: str) -> np.ndarray:
    """A column as floats, shape (n,); NaN where it is empty."""
    import pandas as pd

    numbers = pd.to_numeric(frame[name], errors="coerce")
    spoiled = numbers.isna() & frame[name].notna()
    if spoiled.any():
        raise LawError(f"{what}: {name} holds {frame[name][spoiled].iloc[0]!r}, which is no number")
    return np.asarray(numbers.to_numpy(dtype=float))


def _unique_tokens(frame: "pd.DataFrame", tokens: np.ndarray, what: str) -> np.ndarray:
    """Tokens of the text of each run, shape (n,); NaN where the table does not say."""
    if "unique_tokens" in frame.columns:
        return _numbers(frame, "unique_tokens", what)
    if "epochs" in frame.columns:
        return np.asarray(tokens / np.maximum(_numbers(frame, "epochs", what), 1.0))
    return np.full(len(frame), np.nan)


def _others(frame: "pd.DataFrame", kept: np.ndarray) -> dict[str, Any]:
    """Optional columns of the kept rows; None for one whose values are not possible."""
    import pandas as pd

    others: dict[str, Any] = {}
    for name in ("depth", "width", *SEARCHED):
        called = name if name in frame.columns else ALSO_CALLED.get(name)
        if called in frame.columns:
            column = pd.to_numeric(frame[called], errors="coerce").to_numpy(dtype=float)[kept]
            others[name] = column if _possible(name, column) else None
    return others


def is_marked(value: Any) -> bool:
    """Whether a cell of a column `diverged` marks its run."""
    return str(value).strip().lower() in MARKED


def _marked(column: "pd.Series[Any]", what: str) -> np.ndarray:
    """Mark runs whose `diverged` is true, shape (n,)."""
    text = np.array([str(value).strip().lower() for value in column], dtype=object)
    marked = np.isin(text, MARKED)
    if unknown := sorted(set(text[~marked & ~np.isin(text, NOT_MARKED)])):
        raise LawError(f"{what}: diverged holds {unknown[0]!r}: write true or false")
    return marked


def _possible(name: str, column: np.ndarray) -> bool:
    if name in ("beta2", "momentum"):
        return bool(np.all((column >= 0) & (column < 1)))
    least = 0.0 if name in MAY_BE_0 else np.nextafter(0.0, 1.0)
    return bool(np.all(np.isfinite(column) & (column >= least)))


def _logs_where(columns: dict[str, np.ndarray], marked: np.ndarray) -> np.ndarray:
    """Logs of the marked runs whose numbers are positive, shape (m, 4)."""
    points = np.stack([columns[name][marked] for name in REQUIRED[:4]], axis=-1)
    return np.asarray(np.log(points[np.all(np.isfinite(points) & (points > 0), axis=1)]))


def _check_units(values: dict[str, np.ndarray], what: str) -> None:
    """Refuse numbers that are not positive, or that can only be in another unit."""
    for name in REQUIRED:
        bad = ~(np.isfinite(values[name]) & (values[name] > 0))
        if bad.any():
            raise LawError(
                f"{what}: {name} is {values[name][bad][0]:g} in a run, but must be positive and finite"
            )

    def refuse(name: str, value: float, unit: str) -> NoReturn:
        raise LawError(f"{what}: {name} of {value:g} cannot be: the unit is {unit}")

    if values["params"].min() < MIN_PARAMS:
        refuse("params", values["params"].min(), "single non-embedding parameters, not millions")
    if values["tokens"].min() < MIN_TOKENS:
        refuse("tokens", values["tokens"].min(), "single tokens, not billions")
    if values["learning_rate"].max() > MAX_RATE:
        refuse("learning_rate", values["learning_rate"].max(), "the peak rate itself, not its logarithm")
    steps = values["tokens"] / values["batch_tokens"]
    if steps.min() < 1:
        refuse(
            "batch_tokens", values["batch_tokens"][steps.argmin()], "tokens a step, not more than all tokens"
        )
    if np.median(steps) > MAX_STEPS:
        refuse(
            "batch_tokens", np.median(values["batch_tokens"]), "tokens a step, not sequences (steps > 5e6)"
        )


def _check_runs(values: dict[str, np.ndarray], collapsed_runs: int, what: str) -> None:
    """Refuse runs that are too few, vary too little, or report perplexity."""
    if len(values["loss"]) and values["loss"].max() > MAX_LOSS:
        raise LawError(
            f"{what}: loss of {values['loss'].max():g} cannot be: the unit is nats or bits a token or byte, "
            "not perplexity (columns.loss='log(NAME)' turns that into nats)"
        )
    if len(values["loss"]) < MIN_RUNS:
        also = f" and {collapsed_runs} that collapsed" if collapsed_runs else ""
        raise LawError(
            f"{what} has {len(values['loss'])} completed runs{also}: a law needs at least {MIN_RUNS}"
        )
    if all(np.ptp(np.log(values[name])) < MIN_VARIATION for name in ("params", "tokens")):
        raise LawError(
            f"{what} has one model size ({values['params'][0]:g}) and one number of tokens "
            f"({values['tokens'][0]:g}) in all runs, so no exponent is identified: add runs of another size "
            "or length"
        )
    if np.ptp(np.log(values["loss"])) < 1e-4:
        raise LawError(f"{what}: every run has the loss {values['loss'][0]:g}, so there is nothing to fit")
