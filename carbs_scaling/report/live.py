"""The display of a running search: a live screen in a terminal, one line a trial anywhere else."""

import time
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from carbs_scaling.ledger.record import TrialRecord, ended
from carbs_scaling.numbers import clock_text, rough_duration, scientific
from carbs_scaling.report import terminal
from carbs_scaling.report.columns import ROLES, Column, point_columns
from carbs_scaling.report.progress import CURVE_POINTS, RunningTrial, SearchProgress
from carbs_scaling.trial import Completed, Status

REFRESH_SECONDS = 0.25  # at least, between two frames
SLOWEST_REFRESH_SECONDS = 1.0
FRAME_SHARE = 0.01  # of one core's time: a coordinator shares its cores with the training
PLAIN_HEARTBEAT_SECONDS = 60.0  # a line on running trials after so long without another
OUTCOME_NAMES = {
    Status.COMPLETED: "completed",
    Status.DIVERGED: "diverged",
    Status.OUT_OF_MEMORY: "out of memory",
    Status.STOPPED: "stopped",
    Status.MACHINE: "failed",
}
OUTCOME_STYLES = {Status.DIVERGED: "red", Status.OUT_OF_MEMORY: "magenta", Status.MACHINE: "yellow"}
FRAME_ROWS = 11  # three of head, four of headings, counts, three blank lines
BAR_CELLS = CURVE_POINTS
HEIGHTS = "▁▂▃▄▅▆▇█"  # of a loss curve, from its lowest loss to its highest
OTHER_CELLS = 41  # of a row beside the columns of a point: the first, the bar and the loss, with their blanks
POINT_CELLS = 40  # at most, for the columns of a point, with a blank each
COLUMN_CELLS = 6  # of a role
UNITS = {"params": "params", "tokens": "tokens", "learning_rate": "peak", "batch_tokens": "tokens"}
LONGEST_FRONT = 16  # rows; more are better read in the table at the end


class SearchDisplay:
    """Shows a search while it runs. A context manager, used from one thread.

    Args:
        study_name: stands on top.
        budget_flops: what the study may spend.
        metric: unit of the loss.
        console: where to; standard output if None.
        plain: True for lines, False for the live screen, None to let the console decide.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        study_name: str,
        budget_flops: float,
        metric: str = "loss",
        console: Console | None = None,
        plain: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.study_name = study_name
        self.metric = metric
        self.console = console or terminal.console()
        # A dumb terminal cannot move its cursor, so a live screen would scroll by.
        can_redraw = self.console.is_terminal and not self.console.is_dumb_terminal
        self.plain = not can_redraw if plain is None else plain
        self.progress = SearchProgress(budget_flops, clock)
        self._live: Live | None = None
        self._draw_next_at = float("-inf")
        self._printed_at = clock()
        self._doing = ""

    def __enter__(self) -> "SearchDisplay":
        if not self.plain:
            self._live = Live(console=self.console, auto_refresh=False, vertical_overflow="crop")
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self.refresh(force=True)
            self._live.stop()
            self._live = None

    def start(self, records: Sequence[TrialRecord]) -> None:
        """Take over what a resumed study has already done."""
        self.progress.resume(records)
        if self.progress.imported:
            self.note(f"{self.progress.imported} imported runs are learnt from and not charged")
        if self.progress.spent_flops:
            ended = sum(self.progress.counts.values())
            trials = "1 trial" if ended == 1 else f"{ended} trials"
            self.note(f"resumed after {trials} and {scientific(self.progress.spent_flops)} FLOPs")
        self.refresh(force=True)

    def trial_started(self, record: TrialRecord, doing: str = "", worker: str | int = "") -> None:
        """A trial has been handed to a worker; `doing` says what it is for."""
        self.progress.begin(record, str(worker))
        self._doing = f"trial {record.number}: {doing}" if doing else ""
        self.refresh()

    def trial_progress(self, number: int, fraction: float, train_loss: float | None = None) -> None:
        """A running trial has done `fraction` of its steps, in [0, 1]."""
        self.progress.advance(number, fraction, train_loss)

    def trial_ended(self, record: TrialRecord) -> None:
        """A trial has ended, however it did."""
        on_front = self.progress.end(record)
        if self.plain:
            self._print(trial_line(record, on_front))
        self.refresh()

    def note(self, text: str) -> None:
        """A line that stays: above the live screen, or between the lines of the plain one."""
        if self.plain:
            self._print(text)
        else:
            self.console.print(Text(text, style="dim"))

    def refresh(self, force: bool = False) -> None:
        """Redraw if it is time to; cheap enough to be called from every turn of a loop."""
        self.progress.measure()
        now = self.progress.clock()
        if self.plain:
            if self.progress.running and now - self._printed_at >= PLAIN_HEARTBEAT_SECONDS:
                self._print(self._running_line())
        elif self._live is not None and (force or now >= self._draw_next_at):
            began = time.process_time()
            self._live.update(self.render(), refresh=True)
            pause = (time.process_time() - began) / FRAME_SHARE
            self._draw_next_at = now + min(max(pause, REFRESH_SECONDS), SLOWEST_REFRESH_SECONDS)

    # Plain lines -----------------------------------------------------------------------------------------

    def _print(self, text: str) -> None:
        progress = self.progress
        share = f"{100 * progress.spent_flops / progress.budget_flops:3.0f}%"
        spent = f"{scientific(progress.spent_flops)}/{scientific(progress.budget_flops)} FLOPs"
        # Past rich, which would fold a line at 80 columns where there is no terminal.
        stamp = f"[{share}  {spent}  {clock_text(progress.elapsed_seconds)}]"
        print(stamp, text, file=self.console.file, flush=True)
        self._printed_at = progress.clock()

    def _running_line(self) -> str:
        trials = []
        for number, trial in self.progress.running.items():
            loss = "" if trial.train_loss is None else f" train loss {trial.train_loss:.3f}"
            trials.append(f"trial {number} {100 * trial.fraction:.0f}%{loss}")
        return f"running: {', '.join(trials)}  ({self._time_left()})"

    def _time_left(self) -> str:
        left = self.progress.seconds_left
        return "estimating time left" if left is None else f"{rough_duration(left)} left"

    # Live screen -----------------------------------------------------------------------------------------

    def render(self) -> RenderableType:
        """The whole screen, no taller than the console."""
        doing = Text(self._doing, style="dim", no_wrap=True, overflow="crop")
        parts: list[RenderableType] = [self._head(), self._budget_bar(), doing]
        rows = max(4, self.console.height - FRAME_ROWS - 1)
        best = self._best_by_compute(min(LONGEST_FRONT, max(2, rows - min(len(self.progress.running), 4))))
        if self.progress.running:
            parts += [Text(), self._running_table(rows - len(best))]
        parts += [Text(), self._best_table(best), Text(), self._counts()]
        return Group(*parts)

    def _head(self) -> Table:
        head = Table.grid(expand=True)
        head.add_column(no_wrap=True, ratio=1)
        head.add_column(justify="right", no_wrap=True)
        elapsed = f"{clock_text(self.progress.elapsed_seconds)} elapsed"
        right = f"{elapsed}, {self._time_left()}" if self.progress.running else elapsed
        head.add_row(Text(self.study_name, style="bold"), Text(right))
        return head

    def _budget_bar(self) -> Table:
        progress = self.progress
        budget = progress.budget_flops
        text = f"{100 * progress.spent_flops / budget:.0f}%  {scientific(progress.spent_flops)}"
        text += f" of {scientific(budget)} FLOPs"
        if progress.running:
            text += f", {scientific(progress.committed_flops)} running"
        width = max(10, min(self.console.width, 120) - len(text) - 2)
        parts = (
            (progress.spent_flops, "green"),
            (progress.done_flops - progress.spent_flops, "cyan"),
            (progress.spent_flops + progress.committed_flops - progress.done_flops, "blue"),
        )
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_row(bar([(flops / budget, style) for flops, style in parts], width), Text(text))
        return grid

    def _running_table(self, rows: int) -> RenderableType:
        trials = list(self.progress.running.values())
        shown = trials if len(trials) <= rows else trials[: max(1, rows - 1)]
        columns = self._columns([trial.record for trial in trials])
        # A program of the user's own has a unit of its own.
        unit = "nats" if self.metric.startswith(("nats", "bits")) else ""
        table = _table("running", "trial", columns, "steps done,", "loss curve", "train loss", unit)
        for trial in shown:
            done = Text.assemble(curve(trial), f" {100 * trial.fraction:3.0f}%")
            loss = "" if trial.train_loss is None else f"{trial.train_loss:.3f}"
            table.add_row(str(trial.record.number), *(c.cell(trial.record) for c in columns), done, loss)
        if len(shown) == len(trials):
            return table
        return Group(table, Text(f"and {len(trials) - len(shown)} more", style="dim"))

    def _best_by_compute(self, rows: int) -> list[tuple[float, float, TrialRecord]]:
        """Half decades if they fit, else decades, else the dearest of them."""
        halves = self.progress.best_by_compute(2)
        return halves if len(halves) <= rows else self.progress.best_by_compute(1)[-rows:]

    def _best_table(self, best: Sequence[tuple[float, float, TrialRecord]]) -> RenderableType:
        if not best:
            return Text("no completed run yet", style="dim")
        columns = self._columns([record for _, _, record in best])
        table = _table("best of", "FLOPs", columns, "loss", "green: front", "loss", self.metric)
        worst = max(abs(record.loss) for _, _, record in best) or 1.0
        for lower, upper, record in best:
            on_front = self.progress.is_on_front(record)
            style = "green" if on_front else "dim"
            table.add_row(
                f"{scientific(lower, 1)}-{scientific(upper, 1)}", *(c.cell(record) for c in columns),
                bar([(max(record.loss, 0.0) / worst, style)], BAR_CELLS + 5, " "),
                Text(f"{record.loss:.3f}", style="bold green" if on_front else ""),
            )  # fmt: skip
        return table

    def _columns(self, records: Sequence[TrialRecord]) -> list[Column]:
        """As many columns of the points as find room beside bar and loss, which are never left out."""
        shown: list[Column] = []
        room = min(POINT_CELLS, self.console.width - OTHER_CELLS)
        for column in point_columns(records):
            room -= 1 + max(COLUMN_CELLS if column.name in ROLES else 5, len(column.heading))
            if room < 0:
                break
            shown.append(column)
        return shown

    def _counts(self) -> Text:
        text = Text()
        for status, name in OUTCOME_NAMES.items():
            count = self.progress.counts[status]
            if status is Status.STOPPED and not count:
                continue
            text.append(f"{count} {name}   ", style=OUTCOME_STYLES.get(status, "") if count else "dim")
        return text


def bar(parts: Sequence[tuple[float, str]], width: int, empty: str = "─") -> Text:
    """A bar of `width` cells from shares of it and their styles."""
    text = Text()
    filled, end = 0, 0.0
    for share, style in parts:
        end += max(0.0, share)
        cells = min(width, round(end * width)) - filled
        if cells > 0:
            text.append("━" * cells, style=style)
            filled += cells
    text.append(empty * (width - filled), style="bright_black")
    return text


def curve(trial: RunningTrial) -> Text:
    """A progress bar whose done part is the train loss so far, between its lowest and its highest.

    Cells before the first loss that is known are a plain bar; where none came in, the last one stands.
    """
    done = round(trial.fraction * CURVE_POINTS)
    lowest, highest = min(trial.curve.values(), default=0.0), max(trial.curve.values(), default=0.0)
    cells, height = "", "━"
    for cell in range(done):
        if cell in trial.curve:
            share = (trial.curve[cell] - lowest) / (highest - lowest) if highest > lowest else 0.0
            height = HEIGHTS[round(share * (len(HEIGHTS) - 1))]
        cells += height
    return Text.assemble((cells, "cyan"), ("─" * (CURVE_POINTS - done), "bright_black"))


def _table(
    first: str,
    first_unit: str,
    columns: Sequence[Column],
    bar_heading: str,
    bar_unit: str,
    last: str,
    last_unit: str,
) -> Table:
    """Both tables have the same columns, so that points line up on the screen; units stand below headings."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    table.add_column(f"{first}\n{first_unit}", justify="right", min_width=9, no_wrap=True)
    for column in columns:
        width = COLUMN_CELLS if column.name in ROLES else 5
        heading = f"{column.heading}\n{UNITS.get(column.name, '')}"
        table.add_column(heading, justify="right", min_width=width, no_wrap=True)
    table.add_column(f"{bar_heading}\n{bar_unit}", min_width=BAR_CELLS + 5, no_wrap=True)
    table.add_column(f"{last}\n{last_unit}", justify="right", min_width=10, no_wrap=True)
    return table


def trial_line(record: TrialRecord, on_front: bool) -> str:
    """An ended trial in one line: its point, and its loss or why it has none."""
    columns = point_columns([record])
    columns = [column for column in columns if column.name in ROLES] or columns
    point = "".join(f"  {column.heading} {column.cell(record)}" for column in columns)
    text, outcome = f"trial {record.number}{point}  ", ended(record)
    if isinstance(outcome, Completed):
        return f"{text}loss {outcome.loss:.3f}{'  (front)' if on_front else ''}"
    reason = f": {outcome.message}" if outcome.message else ""
    return f"{text}{OUTCOME_NAMES[outcome.status]}{reason}"
