"""The front as a table in the terminal, with the columns that its width has room for."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from carbs_scaling.ledger.record import TrialRecord, ended
from carbs_scaling.numbers import scientific
from carbs_scaling.report.columns import LEGEND, ROLES, detail_columns, point_columns
from carbs_scaling.report.energy import joules_text
from carbs_scaling.report.front import front_records, merged_front

IMPORTED_MARK = "*"  # after the number of a finished run from elsewhere


class ShownColumn(NamedTuple):
    """A column of the table: heading, style, a text for each run, and whether it is never left out."""

    heading: str
    style: str
    cells: list[str]
    essential: bool = False

    @property
    def width(self) -> int:
        """Characters, with the two blanks before it."""
        return 2 + max(len(text) for text in (*self.heading.split("\n"), *self.cells))


def front_columns(records: Sequence[TrialRecord], metric: str, width: float = math.inf) -> list[ShownColumn]:
    """The columns that say something about a front and find room in `width` characters.

    Args:
        records: all of a study.
        metric: unit of the loss, the heading of its column.
        width: characters; the columns to the right of the dimensions are left out first.
    """
    front = merged_front(records)
    runs = [record for record, _ in front]
    columns = [
        ShownColumn("FLOPs", "cyan", [scientific(run.flops) for run in runs], True),
        ShownColumn(metric, "bold green", [f"{run.loss:.3f}" for run in runs], True),
        *_metric_columns(runs),
    ]
    for quantity in (*point_columns(runs), *detail_columns(runs)):
        cells = [quantity.cell(run) for run in runs]
        if quantity.name in ROLES or len(set(cells)) > 1:
            columns.append(ShownColumn(quantity.heading.replace("_", "\n"), "", cells))
    columns.append(ShownColumn("seconds", "dim", [f"{ended(run).seconds:.1f}" for run in runs]))
    energies = [ended(run).energy for run in runs]
    if any(energy is not None for energy in energies):
        columns.append(ShownColumn("joules", "dim", [joules_text(e) for e in energies], width > 66))
    if any(count > 1 for _, count in front):
        columns.append(ShownColumn("runs", "", [str(count) for _, count in front], True))
    columns.append(
        ShownColumn("trial", "dim", [f"{run.number}{IMPORTED_MARK * run.imported}" for run in runs], True)
    )
    room = width - sum(column.width for column in columns if column.essential)
    shown = []
    for column in columns:
        if not column.essential:
            if column.width > room:
                continue
            room -= column.width
        shown.append(column)
    return shown


def _metric_columns(runs: Sequence[TrialRecord]) -> list[ShownColumn]:
    """What was measured beside the loss, where all runs have it and it is not 1 for all."""
    measured = [ended(run).metrics for run in runs]
    losses = [run.loss for run in runs]
    names = [name for name in measured[0] if all(name in values for values in measured)]
    return [
        ShownColumn(name.replace("_", "\n"), "", [f"{values[name]:.4g}" for values in measured])
        for name in names
        if [values[name] for values in measured] not in (losses, [1.0] * len(losses))
    ]


class FrontTable:
    """The front as something that rich prints; made by `front_table`."""

    def __init__(self, records: Sequence[TrialRecord], title: Text, metric: str) -> None:
        self.records = [record for record in records if record.completed]
        self.title = title
        self.metric = metric

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Title and table, as wide as the console allows."""
        yield self.title
        if not self.records:
            yield Text("no completed run yet", style="yellow")
            return
        yield self._table(options.max_width)
        shown = {(column.name, column.heading) for column in point_columns(self.records)}
        legend = [text for name, text in LEGEND.items() if (name, ROLES[name][0]) in shown]
        if any(record.imported for record in front_records(self.records)):
            legend.append(f"{IMPORTED_MARK}: imported, not charged")
        if legend:
            yield Text(f"{'. '.join(legend)}.", style="dim")

    def _table(self, width: int) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1), header_style="bold")
        columns = front_columns(self.records, self.metric, width - 2)
        for column in columns:
            table.add_column(column.heading, justify="right", style=column.style, no_wrap=True)
        for cells in zip(*(column.cells for column in columns), strict=True):
            table.add_row(*cells)
        return table


def front_table(
    records: Sequence[TrialRecord],
    *,
    study_name: str,
    metric: str,
    spent_flops: float,
    budget_flops: float,
) -> FrontTable:
    """The front as a table for `rich.print`.

    Args:
        records: all of a study.
        study_name: whose front it is.
        metric: unit of the loss.
        spent_flops: what the trials that ended were charged.
        budget_flops: what may be spent.
    """
    ended_records = [record for record in records if not record.running]
    imported = sum(record.imported for record in ended_records)
    trials = f"{len(ended_records) - imported}{f' + {imported} imported' if imported else ''}"
    spent = f"{scientific(spent_flops)} FLOPs spent"
    if math.isfinite(budget_flops):
        share = f"({100 * spent_flops / budget_flops:.0f}%)"
        spent = f"{scientific(spent_flops)} of {scientific(budget_flops)} FLOPs spent {share}"
    title = Text(f"Pareto front of {study_name}", style="bold")
    title.append(f"\n{len(merged_front(records))} of {trials} trials, {spent}", style="not bold")
    return FrontTable(records, title, metric)
