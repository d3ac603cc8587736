"""Pictures of a law: best rate, batch and loss against N; valleys."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from carbs_scaling.laws.runs.table import RunTable, cells_of
from carbs_scaling.laws.scaling_law import ScalingLaw
from carbs_scaling.numbers import compact
from carbs_scaling.report.canvas import FAINT, GREY, INK, finish_axes, series_colours, write_figure

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEYOND = 10.0  # how far past the largest N the law is drawn
MOST_TOKENS = 3  # token counts drawn in one picture: bands of more blend
DRAWS = 800  # of the law at each N and D, for the bands
MIN_CELL = 8  # runs of a cell of which a valley is drawn
ON_LINE = 0.02  # of ln D: cells so near to a line are on it
MIN_SWEPT = 3  # runs of a cell whose best one is drawn beside the law


@dataclass(frozen=True)
class _Lines:
    """Along what a law is drawn: N, one line for each D; or D, where all runs have one N.

    Args:
        role: 0 for N, 1 for D.
        label: of the axis.
        levels: of the other, one for each line.
        names: of the lines.
        of_runs: in the legend.
        nearest: line of each run, shape (n,).
    """

    role: int
    label: str
    levels: np.ndarray
    names: tuple[str, ...]
    of_runs: str
    nearest: np.ndarray

    @classmethod
    def of(cls, law: ScalingLaw, table: RunTable, cells: list[np.ndarray]) -> "_Lines":
        """Lines for a law and its runs; D are those of the cells, or of all runs."""
        if law.support.one_size:
            size = law.support.low[0]
            nearest = np.zeros(len(table), dtype=int)
            return cls(1, "training tokens D", np.array([size]), (f"N = {compact(size)}",), "run", nearest)
        with_points = np.concatenate([np.zeros(0, dtype=int), *cells])
        tokens = table.tokens[with_points] if len(with_points) else table.tokens
        levels = _spread(np.unique(np.round(tokens, -3)), MOST_TOKENS)
        nearest = np.argmin(np.abs(np.log(table.tokens[:, None] / levels)), axis=1)
        names = tuple(f"D = {compact(d)}" for d in levels)
        return cls(0, "non-embedding parameters N", levels, names, "run, at the nearest D", nearest)

    def at(self, x: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
        """N and D along a line."""
        other = np.full_like(x, level)
        return (x, other) if self.role == 0 else (other, x)

    def best_runs(self, table: RunTable, cells: list[np.ndarray], level: float) -> np.ndarray:
        """Indices of the best run of each cell on a line."""
        off = np.log(table.tokens / level) if self.role == 0 else np.zeros(len(table))
        found = [cell[np.argmin(table.loss[cell])] for cell in cells if abs(off[cell[0]]) < ON_LINE]
        return np.array(found, dtype=int)


def draw_law_png(law: ScalingLaw, table: RunTable, path: str | Path, title: str) -> Path:
    """Best learning rate, best batch and loss against N at several D, with 90% bands; of one N against D.

    Beyond the largest run the law is drawn for one more decade, dashed and on a shaded ground.

    Args:
        law: fitted to `table`.
        table: its runs, faint; the best run of each well-swept cell is a larger point.
        path: the PNG file.
        title: of the picture.
    """
    kind = [
        "the runs'" if name in law.support.by_rule else "best" for name in ("learning_rate", "batch_tokens")
    ]
    panels: list[tuple[str, int, Callable[..., np.ndarray], Callable[[np.ndarray], np.ndarray], np.ndarray]]
    panels = [
        (f"{kind[0]} learning rate", 0, law.learning_rate, np.exp, table.learning_rate),
        (f"{kind[1]} batch (tokens a step)", 1, law.batch_tokens, np.exp, table.batch_tokens),
        ("loss with both", 2, law.loss, lambda x: x, table.loss),
    ]
    if law.support.one_batch:
        panels = [panels[0], ("loss with it", *panels[2][1:])]

    cells = _cells_with_a_best_run(law, table)
    lines = _Lines.of(law, table, cells)
    of_runs, largest = np.exp(table.logs[:, lines.role]), law.support.high[lines.role]
    x = np.geomspace(law.support.low[lines.role], largest * BEYOND, 40)
    inside = x <= largest

    def draw(figure: "Figure") -> None:
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        axes = figure.subplots(1, len(panels))
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", color=INK, fontsize=12.5)
        figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.12))
        colours = series_colours(len(lines.levels))
        along = [lines.at(x, level) for level in lines.levels]
        draws = [np.stack([law.draws(n, d, DRAWS) for n, d in zip(*ends, strict=True)]) for ends in along]
        best = [lines.best_runs(table, cells, level) for level in lines.levels]
        for panel, (label, column, curve, back, values) in zip(axes, panels, strict=True):
            for index, (name, colour) in enumerate(zip(lines.names, colours, strict=True)):
                low, high = back(np.quantile(draws[index][:, :, column], (0.05, 0.95), axis=1))
                panel.fill_between(x, low, high, color=colour, alpha=0.08, linewidth=0)
                for edge in (low, high):
                    panel.plot(x, edge, color=colour, linewidth=0.6, alpha=0.7)
                y = curve(*along[index])
                panel.plot(x[inside], y[inside], color=colour, linewidth=1.9, label=name)
                panel.plot(x[~inside], y[~inside], "--", color=colour, linewidth=1.5)
                runs = lines.nearest == index
                panel.plot(of_runs[runs], values[runs], "o", ms=3.5, mew=0, color=colour, alpha=0.5, zorder=1)
                panel.plot(
                    of_runs[best[index]],
                    values[best[index]],
                    "o",
                    ms=5.5,
                    mec="white",
                    mew=0.7,
                    color=colour,
                    zorder=4,
                )
            panel.axvspan(largest, x[-1], color=FAINT, alpha=0.45, zorder=0, linewidth=0)
            panel.set_xlim(x[0] / 1.15, x[-1])
            _clip_outliers(panel, values, log=column < 2)
            finish_axes(panel, lines.label, label, log_y=column < 2)
        _law_legend(figure, axes[0], any(map(len, best)), lines.of_runs)

    return write_figure(draw, path, (13.0 * len(panels) / 3, 4.9))


def _clip_outliers(panel: "Axes", values: np.ndarray, log: bool) -> None:
    """Leave single runs far above the law and all others outside of the axis of losses."""
    if not log:
        low, high = panel.get_ylim()
        most = float(np.quantile(values, 0.98))
        curves = [float(np.max(line.get_ydata())) for line in panel.lines if line.get_linestyle() != "None"]
        panel.set_ylim(low, min(high, max(most, *curves) + 0.05 * (most - low)))


def _law_legend(figure: "Figure", axes: "Axes", with_best: bool, of_runs: str) -> None:
    """One legend below all panels, for every mark."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles, labels = axes.get_legend_handles_labels()
    marks: list[tuple[Artist, str]] = [
        (Line2D([], [], color=GREY, linestyle="--", linewidth=1.5), "beyond the runs"),
        (Patch(facecolor=FAINT, edgecolor=GREY, linewidth=0.6), "90% band"),
        (Line2D([], [], color=GREY, marker="o", ms=3, linewidth=0, alpha=0.5), of_runs),
    ]
    if with_best:
        best = Line2D([], [], color=GREY, marker="o", ms=5.5, mec="white", linewidth=0)
        marks.append((best, "best run of an (N, D)"))
    figure.legend(
        [*handles, *(mark for mark, _ in marks)], [*labels, *(text for _, text in marks)],
        loc="outside lower left", ncols=len(labels) + len(marks), frameon=False, fontsize=9, labelcolor=INK,
        handlelength=1.7, columnspacing=1.3,
    )  # fmt: skip


def draw_valleys_png(law: ScalingLaw, table: RunTable, path: str | Path, title: str) -> Path:
    """Loss against learning rate, one valley for each size: the D with most runs, at the cell's best batch.

    The axis is the loss above the law's floor of the cell, so that all valleys share it.
    """

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        axes.set_title(title, loc="left", fontweight="bold", color=INK, fontsize=12.5)
        cells, shown = _widest_cells(table), []
        for cell, colour in zip(cells, series_colours(len(cells)), strict=True):
            n, d = table.params[cell[0]], table.tokens[cell[0]]
            floor = float(law.loss(n, d))
            batch = table.batch_tokens[cell[np.argmin(table.loss[cell])]]
            near = cell[np.abs(np.log(table.batch_tokens[cell] / batch)) < 0.1]
            rates = np.geomspace(
                table.learning_rate[near].min() / 1.2, table.learning_rate[near].max() * 1.2, 80
            )
            axes.plot(
                table.learning_rate[near], table.loss[near] - floor, "o", color=colour, ms=5, mec="white",
                mew=0.6, label=f"N = {compact(n)}, D = {compact(d)}",
            )  # fmt: skip
            axes.plot(rates, law.run_loss(n, d, rates, batch) - floor, color=colour, linewidth=1.5)
            axes.plot(law.learning_rate(n, d), 0.0, "v", color=colour, ms=9, mec=INK, mew=0.8, zorder=5)
            shown += (table.loss[near] - floor).tolist()
        # One run with a very high loss would flatten all valleys.
        axes.set_ylim(min(shown) - 0.02, max(2.5 * float(np.quantile(shown, 0.8)), 0.05))
        finish_axes(axes, "peak learning rate", "loss above the law's floor", log_x=True)
        axes.legend(
            frameon=False, fontsize=8.5, labelcolor=INK, loc="upper left", bbox_to_anchor=(1.02, 1.0),
            title="runs at the cell's best batch;\nline: law; triangle: its best rate", title_fontsize=8.5,
            alignment="left",
        )  # fmt: skip

    return write_figure(draw, path, (9.2, 4.8))


def _spread(values: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the sorted values, about evenly spaced in their logarithms."""
    if len(values) <= most:
        return values
    aims = np.linspace(np.log(values[0]), np.log(values[-1]), most)
    return values[np.unique([np.argmin(np.abs(np.log(values) - aim)) for aim in aims])]


def _cells_with_a_best_run(law: ScalingLaw, table: RunTable) -> list[np.ndarray]:
    """Cells whose best run is drawn: those with several runs, or all where learning rates follow a rule."""
    least = 1 if "learning_rate" in law.support.by_rule else MIN_SWEPT
    return [cell for cell in cells_of(table) if len(cell) >= least]


def swept_cells(table: RunTable) -> list[np.ndarray]:
    """Indices of the runs of each (N, D) that has at least `MIN_CELL` of them."""
    return [cell for cell in cells_of(table) if len(cell) >= MIN_CELL]


def _widest_cells(table: RunTable) -> list[np.ndarray]:
    """For each size, the cell with most runs; at most six sizes."""
    by_size: dict[float, np.ndarray] = {}
    for cell in swept_cells(table):
        size = round(float(np.log(table.params[cell[0]])), 2)
        if len(cell) > len(by_size.get(size, ())):
            by_size[size] = cell
    sizes = _spread(np.exp(np.array(sorted(by_size))), 6)
    return [by_size[round(float(np.log(size)), 2)] for size in sizes]
