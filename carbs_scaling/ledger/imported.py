"""Finished runs from elsewhere: a search learns from them, reports show them, and no budget pays for them."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna import Study
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState, create_trial

from carbs_scaling.errors import ConfigError, StudyError
from carbs_scaling.formula import Formula
from carbs_scaling.laws.runs.files import HALVES, mapping, plain, read_table
from carbs_scaling.laws.runs.reading import is_marked
from carbs_scaling.ledger.record import IMPORTED_FROM
from carbs_scaling.ledger.trials import IMPORTED, OUTCOME, RECORD
from carbs_scaling.space.encoding import Point
from carbs_scaling.space.projection import point_key
from carbs_scaling.trial import Completed, Diverged, TrialOutcome


@dataclass(frozen=True)
class FinishedRun:
    """A run that was paid for elsewhere.

    Args:
        point: values of the searched dimensions; they may lie outside their ranges.
        loss: None for a run that diverged.
        flops: of the whole run, as the study counts them.
        source: where it is from, such as a file's name.
        roles, details: as `TrialRecord` has them.
    """

    point: Point
    loss: float | None
    flops: float
    source: str
    roles: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reader:
    """Turns rows of a table into finished runs of a study.

    Args:
        space: the searched dimensions.
        flops, roles, details: of a point.
        project: the nearest legal point; it tells which dimensions matter where.
        loss_of: the loss that a value of the study's metric stands for.
    """

    space: Mapping[str, BaseDistribution]
    flops: Callable[[Point], float]
    roles: Callable[[Point], Mapping[str, float | None] | None] = lambda point: {}
    details: Callable[[Point], dict[str, Any]] = lambda point: {}
    project: Callable[[Point], Point] | None = None
    loss_of: Callable[[float], float] = float

    def runs(
        self,
        rows: Sequence[Mapping[str, Any]],
        source: str,
        columns: Mapping[str, Any] | None = None,
    ) -> tuple[list[FinishedRun], list[str]]:
        """The runs of a table, and why each of the other rows is none.

        Args:
            rows: one each; `loss`, and a value for each dimension that matters there.
            source: where they are from.
            columns: see `ImportConfig`.

        Raises:
            ConfigError: `columns` names what is no dimension.
        """
        columns = dict(columns or {})
        known = (*self.space, "loss", "diverged")
        unknown = [name for name in columns if name not in known]
        if unknown:
            raise ConfigError(f"columns.{unknown[0]} is not one of {', '.join(known)}")
        found, refused = [], []
        for number, row in enumerate(rows, start=1):
            values = _looked_up(row)
            try:
                found.append(self._run(values, columns, source))
            except (ConfigError, ValueError) as error:
                refused.append(f"row {number}: {error}")
        return found, refused

    def _run(self, values: Mapping[str, Any], columns: Mapping[str, Any], source: str) -> FinishedRun:
        """One run.

        Raises:
            ValueError, ConfigError: why the row is none.
        """
        point = self._point({name: _value(values, name, columns) for name in self.space})
        loss = _number(_value(values, "loss", columns))
        diverged = is_marked(_value(values, "diverged", columns))
        if loss is None and not diverged:
            raise ValueError("it has no loss, and no mark in a column diverged")
        flops = float(self.flops(point))
        roles = {name: float(v) for name, v in (self.roles(point) or {}).items() if v and v > 0}
        return FinishedRun(
            point,
            None if loss is None or diverged else self.loss_of(loss),
            flops,
            source,
            roles,
            self.details(point),
        )

    def _point(self, given: Mapping[str, Any]) -> Point:
        point = {name: _as_value(name, self.space[name], value) for name, value in given.items()}
        absent = [name for name, value in point.items() if value is None]
        if absent:
            # A dimension that the projection sets itself does not matter there.
            ends = [{**point, **{name: _end(self.space[name], last) for name in absent}} for last in (0, -1)]
            low, high = (self.project(end) if self.project else end for end in ends)
            needed = [name for name in absent if low[name] != high[name]]
            if needed:
                raise ValueError(
                    f"it has no {needed[0]}: say where it stands by columns.{needed[0]}=NAME, or a formula"
                )
            point |= {name: low[name] for name in absent}
        return point


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a CSV, TSV, JSON, JSONL or Parquet file; NaN and empty cells are None.

    Raises:
        LawArgumentError: it cannot be read.
    """
    frame = read_table(Path(path))
    rows: list[dict[str, Any]] = frame.to_dict("records")
    return [{str(k): None if isinstance(v, float) and v != v else v for k, v in row.items()} for row in rows]


def add_runs(study: Study, runs: Iterable[FinishedRun], space: Mapping[str, BaseDistribution]) -> int:
    """Adds finished runs to a study as trials of their own; returns how many.

    One that is there already, with its point and its loss, is not added again.
    """

    def key(point: Point, loss: float | None) -> tuple[Any, ...]:
        return (*point_key(point), None if loss is None else f"{loss:.9g}")

    known = set()
    for trial in study.get_trials(deepcopy=False):
        if IMPORTED in trial.user_attrs:
            known.add(key(trial.params, trial.values[0] if trial.values else None))
    added = 0
    for run in runs:
        if key(run.point, run.loss) in known:
            continue
        known.add(key(run.point, run.loss))
        outcome: TrialOutcome = Diverged(progress=1.0) if run.loss is None else Completed(loss=run.loss)
        record = {
            "roles": run.roles,
            "details": run.details,
            "flops": run.flops,
            "seed": 0,
            "provenance": {IMPORTED_FROM: run.source},
        }
        study.add_trial(
            create_trial(
                state=TrialState.FAIL if run.loss is None else TrialState.COMPLETE,
                values=None if run.loss is None else [run.loss, run.flops],
                params=run.point,
                distributions={name: _holding(d, run.point[name]) for name, d in space.items()},
                user_attrs={
                    IMPORTED: run.source,
                    "outcome": str(outcome.status),
                    "flops": run.flops,
                    RECORD: record,
                    OUTCOME: outcome.to_dict(),
                },
            )
        )
        added += 1
    return added


def require_some(runs: Sequence[FinishedRun], refused: Sequence[str], source: str) -> None:
    """Refuse a source without a single run that fits.

    Raises:
        StudyError: the reason of its first row.
    """
    if not runs:
        reason = refused[0] if refused else "it has no rows"
        raise StudyError(f"no run of {source} can be used ({reason})")


def _looked_up(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with what stands in its config and summary, under the names there too."""
    values: dict[str, Any] = {}
    for name, value in row.items():
        values[name] = value
        head, _, rest = name.replace("/", ".").partition(".")
        if head in HALVES and rest:
            values.setdefault(rest, value)
    for half in HALVES:
        for name, value in mapping(row.get(half)).items():
            values.setdefault(str(name), plain(value))
    return values


def _value(values: Mapping[str, Any], name: str, columns: Mapping[str, Any]) -> Any:
    """The value of a dimension: of its column, or by a formula of columns; None where there is none."""
    given = columns.get(name, name)
    if not isinstance(given, str) or given in values:
        return values.get(given) if isinstance(given, str) else given
    if name not in columns:
        return None
    plain = {k: v for k, v in values.items() if isinstance(v, bool | int | float | str)}
    return Formula(given, f"columns.{name}").require_names(frozenset(plain))(plain)


def _as_value(name: str, distribution: BaseDistribution, value: Any) -> Any:
    """A value in the dimension's own type; None stays None.

    Raises:
        ValueError: it cannot be one.
    """
    if value is None or value != value:
        return None
    if isinstance(distribution, CategoricalDistribution):
        for same in (lambda c: type(c) is type(value) and c == value, lambda c: str(c) == str(value)):
            for choice in distribution.choices:
                if same(choice):
                    return choice
        raise ValueError(f"{name} is {value!r}, which is none of {', '.join(map(str, distribution.choices))}")
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    number = _number(value)
    if number is None or (distribution.log and number <= 0):
        raise ValueError(f"{name} is {value!r}, which is no {'positive ' * distribution.log}number")
    if isinstance(distribution, IntDistribution):
        if number != int(number):
            raise ValueError(f"{name} is {value!r}, which is no whole number")
        return int(number)
    return number


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (OverflowError, TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _end(distribution: BaseDistribution, last: int) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[last]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return distribution.high if last else distribution.low


def _holding(distribution: BaseDistribution, value: Any) -> BaseDistribution:
    """The distribution, or a wider one that holds the value: Optuna stores no other."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution._contains(distribution.to_internal_repr(value)):
        return distribution
    low, high = min(distribution.low, value), max(distribution.high, value)
    if isinstance(distribution, IntDistribution):
        return IntDistribution(int(low), int(high), log=distribution.log)
    return FloatDistribution(low, high, log=distribution.log)
