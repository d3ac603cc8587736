"""A picture of a study: every run, the front, and the power law through it, on one page."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from carbs_scaling.laws.front_law import LEVEL, PowerLaw
from carbs_scaling.ledger.record import TrialRecord
from carbs_scaling.numbers import log_ticks, scientific
from carbs_scaling.report.canvas import ALARM, BAND, FAINT, GREY, INK, LAW_COLOUR, short, write_figure
from carbs_scaling.report.front import completed_records, front_records
from carbs_scaling.trial import Status

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE_INCHES = (8.6, 5.2)
TOP_BAND = 0.07  # share of the axes' height kept for runs that ended without a loss
MOST_LABELS = 6
LABEL_ROOM = 0.09  # of the height of the picture, below the lowest labelled point
FAILURE_MARKS = {
    Status.DIVERGED: ("diverged", "x"),
    Status.OUT_OF_MEMORY: ("out of memory", "^"),
}


def draw_front_png(
    records: Sequence[TrialRecord],
    path: str | Path,
    title: str,
    law: PowerLaw | None = None,
    metric: str = "loss",
) -> Path:
    """Draw loss against training FLOPs of all runs, with the front and its power law, as a PNG.

    Args:
        records: of one study; running ones are left out.
        path: the file; an existing one is replaced only once the new one is whole.
        title: stands above the figure.
        law: the power law of the front, from `carbs_scaling.report.front.front_law`.
        metric: unit of the loss.

    Raises:
        CarbsScalingError: the file cannot be written.
    """

    def draw(figure: "Figure") -> None:
        _draw(figure, records, title, law, metric)

    return write_figure(draw, path, SIZE_INCHES, font_size=10.5)


def _draw(
    figure: "Figure", records: Sequence[TrialRecord], title: str, law: PowerLaw | None, metric: str
) -> None:
    axes = figure.subplots()
    completed, front = completed_records(records), front_records(records)
    axes.set_title(title, loc="left", fontweight="bold", color=INK, pad=30, fontsize=12.5)
    axes.set_xlabel("training FLOPs")
    axes.set_ylabel(loss_label(metric))
    axes.spines[["top", "right"]].set_visible(False)
    ended = [record for record in records if not record.running and record.flops > 0]
    if ended:
        scale_flops(axes, [record.flops for record in ended])
    else:
        axes.set_xticks([])
    if completed:
        scale_loss(axes, [record.loss for record in completed])
        _draw_runs(figure, axes, completed)
        if imported := [record for record in completed if record.imported]:
            at = [record.flops for record in imported], [record.loss for record in imported]
            axes.plot(*at, "+", color=INK, ms=4, mew=0.9, zorder=4, label=f"imported ({len(imported)})")
        _draw_front(axes, front, law)
    else:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no completed run yet", transform=axes.transAxes, ha="center", color=GREY)
    if law is not None:
        # Where it was fitted, and no further.
        flops = np.geomspace(law.lowest_flops, law.highest_flops, 200)
        label, band = law.formula("mathtext"), law.band(flops)
        if band is not None:
            axes.fill_between(flops, *band, color=LAW_COLOUR, alpha=0.16, linewidth=0, zorder=2)
            label += f", {LEVEL:.0%} band"
        axes.plot(flops, law.loss(flops), "--", color=LAW_COLOUR, linewidth=1.6, label=label, zorder=4)
    _draw_failures(axes, ended)
    if ended:
        axes.legend(
            loc="lower left", bbox_to_anchor=(-0.012, 1.0), ncols=5, frameon=False, fontsize=9,
            handletextpad=0.4, columnspacing=1.2, handlelength=1.7, labelcolor=INK, borderaxespad=0.1,
        )  # fmt: skip


def loss_label(metric: str) -> str:
    """The title of a loss axis."""
    return "loss" if metric == "loss" else f"loss ({metric})"


def axis_limits(values: Sequence[float], below: float, above: float) -> tuple[float, float]:
    """Limits of a logarithmic axis with margins that are shares of the span that `values` take."""
    low, high = float(np.log(min(values))), float(np.log(max(values)))
    span = max(high - low, 0.2)
    return float(np.exp(low - below * span)), float(np.exp(high + above * span))


def scale_flops(axes: "Axes", flops: Sequence[float]) -> None:
    """A logarithmic axis of FLOPs, in powers of ten."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.set_xlim(*axis_limits(flops, 0.05, 0.08))
    axes.xaxis.set_major_locator(FixedLocator(log_ticks(*axes.get_xlim(), most=8)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _power_of_ten(value)))
    axes.xaxis.set_minor_locator(LogLocator(subs=range(2, 10)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(which="major", color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)


def scale_loss(axes: "Axes", loss: Sequence[float]) -> None:
    """A logarithmic axis: the cheap end of a front is steep, and the dear end is what matters.

    Linear where a loss is not positive.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter

    if min(loss) <= 0:
        axes.margins(y=0.1)
        return
    axes.set_yscale("log")
    axes.set_ylim(*axis_limits(loss, 0.09, 0.08 + TOP_BAND))
    axes.yaxis.set_major_locator(FixedLocator(log_ticks(*axes.get_ylim(), most=9)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(FixedLocator([]))


def _power_of_ten(value: float) -> str:
    mantissa, power = scientific(value).split("e")
    return (
        f"$10^{{{power}}}$"
        if mantissa == "1.0"
        else rf"${mantissa.removesuffix('.0')}{{\times}}10^{{{power}}}$"
    )


def _draw_runs(figure: "Figure", axes: "Axes", completed: Sequence[TrialRecord]) -> None:
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, LogNorm
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    common: dict[str, Any] = {"s": 34, "alpha": 0.85, "linewidths": 0.5, "edgecolors": "white", "zorder": 3}
    place = [record.flops for record in completed], [record.loss for record in completed]
    label = f"run ({len(completed)})"
    params = [record.roles["params"] for record in completed if "params" in record.roles]
    if len(params) < len(completed) or len(set(params)) == 1:
        axes.scatter(*place, color=GREY, label=label, **common)
        return
    # The last, lightest yellow of viridis is lost on white.
    shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.92, 256))
    colours = LinearSegmentedColormap.from_list("params", shades)
    low, high = axis_limits(params, 0.0, 0.0)
    norm = LogNorm(low, high)
    axes.scatter(*place, c=params, cmap=colours, norm=norm, label=label, **common)
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=axes, pad=0.015, aspect=32)
    bar.set_label("parameters N")
    bar.outline.set_visible(False)
    bar.ax.yaxis.set_major_locator(FixedLocator(log_ticks(low * 0.999, high * 1.001, most=8)))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    bar.ax.yaxis.set_minor_locator(NullLocator())


def _draw_front(axes: "Axes", front: Sequence[TrialRecord], law: PowerLaw | None) -> None:
    from matplotlib.patheffects import withStroke

    flops, loss = [record.flops for record in front], [record.loss for record in front]
    # A step: between two of its runs the front is what the cheaper one reached. Drawn on to the edge.
    axes.plot(
        [*flops, axes.get_xlim()[1]], [*loss, loss[-1]],
        drawstyle="steps-post", color=INK, linewidth=1.3, alpha=0.75, zorder=5,
    )  # fmt: skip
    axes.plot(flops, loss, "o", mfc="none", mec=INK, mew=1.3, ms=8, zorder=6, label=f"front ({len(front)})")
    halo = [withStroke(linewidth=3, foreground="white")]
    # The best rates found; sizes are told by the colours. Left of and below the front no run can be, but the
    # law and its band are there: a label stands below both, at the end of a thin line.
    labelled = [record for record in front if "learning_rate" in record.roles]
    lowest = math.inf
    for record in spread_out(labelled, MOST_LABELS)[1:]:
        band = None if law is None else law.band(np.array([record.flops]))
        below = record.loss if band is None else min(record.loss, float(band[0][0]))
        lowest = min(lowest, below)
        axes.plot([record.flops] * 2, [record.loss, below], color=GREY, linewidth=0.7, zorder=4)
        axes.annotate(
            f"lr {scientific(record.roles['learning_rate'])}", (record.flops, below),
            textcoords="offset points", xytext=(-4, -9), ha="right", va="top", fontsize=9, color=INK,
            path_effects=halo, zorder=7,
        )  # fmt: skip
    _leave_room_below(axes, lowest)


def _leave_room_below(axes: "Axes", lowest: float) -> None:
    """Lower the end of the axis of losses until a label below `lowest` stands inside."""
    low, high = axes.get_ylim()
    if not lowest < high:
        return
    scale, back = (math.log, math.exp) if axes.get_yscale() == "log" else (float, float)
    needed = (scale(lowest) - LABEL_ROOM * scale(high)) / (1 - LABEL_ROOM)
    axes.set_ylim(back(min(needed, scale(low))), high)


def spread_out(front: Sequence[TrialRecord], most: int) -> list[TrialRecord]:
    """At most `most` records of a front, both ends among them, far enough apart in FLOPs to be labelled."""
    if len(front) <= 1:
        return list(front)
    position = np.log([record.flops for record in front])
    gap = (position[-1] - position[0]) / most
    chosen = [0]
    for index in range(1, len(front) - 1):
        if position[index] - position[chosen[-1]] >= gap and position[-1] - position[index] >= gap:
            chosen.append(index)
    return [front[index] for index in (*chosen, len(front) - 1)]


def _draw_failures(axes: "Axes", ended: Sequence[TrialRecord]) -> None:
    """Runs without a loss, marked at their FLOPs in a band along the top edge."""
    from matplotlib.patches import Rectangle
    from matplotlib.transforms import blended_transform_factory

    across = blended_transform_factory(axes.transData, axes.transAxes)
    failed = [record for record in ended if record.status in FAILURE_MARKS]
    if failed:
        band = Rectangle((0, 1 - TOP_BAND), 1, TOP_BAND, transform=axes.transAxes, color=BAND, zorder=0)
        axes.add_patch(band)
    for status, (name, marker) in FAILURE_MARKS.items():
        flops = [record.flops for record in failed if record.status is status]
        if flops:
            axes.plot(
                flops, [1 - TOP_BAND / 2] * len(flops), marker,
                transform=across, label=f"{name} ({len(flops)})", color=ALARM,
                ms=5.5, mew=1.4, mfc="none", alpha=0.8, clip_on=False, zorder=3,
            )  # fmt: skip
