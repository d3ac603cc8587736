"""The front as a table in the terminal, with the columns that its width has room for."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from carbs_scaling.numbers import compact, exact_or_compact, scientific

Row = dict[str, Any]


class Column(NamedTuple):
    """A heading, the text of a row's cell, and the least terminal width at which the column is shown."""

    heading: str
    cell: Callable[[Row], str]
    from_width: int = 0
    style: str = ""
    only_if_it_varies: bool = False


def _loss_text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


NATS, BITS = "nats/token", "bits/byte"
COLUMNS = (
    Column("FLOPs", lambda row: scientific(row["flops"]), style="cyan"),
    Column(NATS, lambda row: _loss_text(row["loss_nats_per_token"])),
    Column(BITS, lambda row: _loss_text(row["bits_per_byte"])),
    Column("N", lambda row: compact(row["params"])),
    Column("D", lambda row: compact(row["tokens"])),
    Column("D/N", lambda row: f"{row['tokens'] / row['params']:.1f}", 100),
    Column("d x L", lambda row: f"{row['width']}x{row['depth']}"),
    Column("lr", lambda row: scientific(row["learning_rate"])),
    Column("batch", lambda row: exact_or_compact(row["batch_tokens"])),
    Column("steps", lambda row: exact_or_compact(row["steps"]), 100),
    Column("decay", lambda row: f"{row['weight_decay']:.2g}", 110, only_if_it_varies=True),
    Column("beta2", lambda row: f"{row['beta2']:.3g}", 120, only_if_it_varies=True),
    Column("warmup", lambda row: f"{row['warmup_fraction']:.2g}", 130, only_if_it_varies=True),
    Column("seconds", lambda row: f"{row['seconds']:.1f}", 90, "dim"),
    Column("runs", lambda row: str(row["runs"]), only_if_it_varies=True),
    Column("trial", lambda row: str(row["trial"]), style="dim"),
)
LEGEND = "N: non-embedding parameters. D, batch: tokens. d x L: width x depth. lr: peak."


def shown_columns(rows: Sequence[Row], width: float = math.inf) -> list[Column]:
    """The columns that say something about `rows` and find room in `width` characters."""

    def is_shown(column: Column) -> bool:
        return not column.only_if_it_varies or len({column.cell(row) for row in rows}) > 1

    return [column for column in COLUMNS if column.from_width <= width and is_shown(column)]


class FrontTable:
    """The front as something that rich prints; made by `front_table`."""

    def __init__(self, rows: Sequence[Row], title: Text, metric_label: str, law_lines: Sequence[str]) -> None:
        self.rows = rows
        self.title = title
        self.metric_label = metric_label
        self.law_lines = law_lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Title, table and fitted laws, as wide as the console allows."""
        yield self.title
        if not self.rows:
            yield Text("no completed run yet", style="yellow")
            return
        yield self._table(options.max_width)
        yield Text(LEGEND, style="dim")
        for line in self.law_lines:
            yield Text(line)

    def _table(self, width: int) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1), header_style="bold")
        columns = shown_columns(self.rows, width)
        for column in columns:
            style = "bold green" if column.heading == self.metric_label else column.style
            table.add_column(column.heading, justify="right", style=style, no_wrap=True)
        for row in self.rows:
            table.add_row(*(column.cell(row) for column in columns))
        return table


def front_table(
    rows: Sequence[Row],
    *,
    study_name: str,
    trials: int,
    spent_flops: float,
    budget_flops: float | None = None,
    metric_label: str = NATS,
    law_lines: Sequence[str] = (),
) -> FrontTable:
    """The front as a table for `rich.print`.

    Args:
        rows: from `carbs_scaling.report.front.front_rows`.
        study_name: whose front it is.
        trials: how many trials of the study have ended.
        spent_flops: what they were charged.
        budget_flops: what may be spent; None if it is not known.
        metric_label: `nats/token` or `bits/byte`: the column that the front is a front of stands out.
        law_lines: fitted laws, a line each, to stand beneath the table.
    """
    spent = f"{scientific(spent_flops)} FLOPs spent"
    if budget_flops:
        spent = f"{scientific(spent_flops)} of {scientific(budget_flops)} FLOPs spent"
        spent += f" ({100 * spent_flops / budget_flops:.0f}%)"
    title = Text(f"Pareto front of {study_name}", style="bold")
    title.append(f"\n{len(rows)} of {trials} trials, {spent}", style="not bold")
    return FrontTable(rows, title, metric_label, law_lines)
