"""The picture of a comparison: fronts side by side, and regret against the FLOPs that were spent."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from carbs_scaling.numbers import log_ticks
from carbs_scaling.report.canvas import FAINT, GREY, INK, write_figure
from carbs_scaling.report.compare import Array, Spending, joint_area, reference_corner, regret_after
from carbs_scaling.report.figures import loss_label, scale_flops, scale_loss

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE_INCHES = (11.6, 5.0)
# Orange for the first, as the search's law has in other pictures; all told apart by the colour-blind.
COLOURS = ("#d9480f", "#1864ab", "#2b8a3e", "#862e9c", "#868e96", "#0b7285", "#b08900", "#a61e4d")
STYLES = ("-", "--", ":")
LEGEND_COLUMNS = 6
PLACES = 60  # on the axis of FLOPs at which curves are drawn
LEAST_REGRET = 1e-3  # the foot of the axis: less is drawn there


def draw_comparison_png(
    studies: Sequence[Spending], path: str | Path, unit: str, by_sampler: bool = False
) -> Path:
    """Fronts, and regret against FLOPs, of all studies, or of samplers as mean and band over their studies.

    Args:
        studies: each with a completed run.
        path: the PNG file.
        unit: of the losses.
        by_sampler: whether the studies of a sampler are one line, with a band from the lowest to the highest.

    Raises:
        CarbsScalingError: the file cannot be written.
    """
    groups: dict[str, list[Spending]] = {}
    for study in studies:
        name = study.name if study.sampler in ("-", study.name) else f"{study.name} ({study.sampler})"
        groups.setdefault(study.sampler if by_sampler else name, []).append(study)
    several = any(len(group) > 1 for group in groups.values())

    def draw(figure: "Figure") -> None:
        left, right = figure.subplots(1, 2)
        band = ": means over seeds, with bands from the lowest to the highest" if several else ""
        figure.suptitle(
            f"Fronts, and what each lacks of the joint front{band}",
            x=0.01, ha="left", fontweight="bold", color=INK, fontsize=12.5,
        )  # fmt: skip
        _draw_fronts(left, groups, unit)
        _draw_regrets(right, groups, studies)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower left", ncols=LEGEND_COLUMNS, frameon=False, fontsize=9,
            handletextpad=0.5, columnspacing=1.4, handlelength=1.7, labelcolor=INK,
        )  # fmt: skip

    return write_figure(draw, path, SIZE_INCHES)


def _style(index: int) -> tuple[str, str]:
    return COLOURS[index % len(COLOURS)], STYLES[index // len(COLOURS) % len(STYLES)]


def _draw_fronts(axes: "Axes", groups: dict[str, list[Spending]], unit: str) -> None:
    studies = [study for group in groups.values() for study in group]
    axes.set_xlabel("training FLOPs of a run")
    axes.set_ylabel(loss_label(unit))
    axes.spines[["top", "right"]].set_visible(False)
    scale_flops(axes, np.concatenate([study.flops[np.isfinite(study.loss)] for study in studies]).tolist())
    # Bad runs may be far off; what is compared are the fronts.
    scale_loss(axes, np.concatenate([study.mean_loss()[study.front] for study in studies]).tolist())
    for index, (name, group) in enumerate(groups.items()):
        colour, style = _style(index)
        dearest = min(float(study.flops[np.isfinite(study.loss)].max()) for study in group)
        cheapest = max(float(study.flops[study.front[0]]) for study in group)
        flops = np.geomspace(cheapest, max(dearest, cheapest), 400 if len(group) > 1 else 2)
        if len(group) == 1:
            # At its own runs the step is exact; it ends at the dearest run.
            flops = np.unique([*group[0].flops[group[0].front], dearest])
        losses = np.array([_front_loss(study, flops) for study in group])
        _draw_line(axes, flops, losses, colour, style, name)
        for study in group:
            front = study.front
            beaten = np.setdiff1d(np.arange(len(study.flops)), front)
            axes.plot(
                study.flops[beaten], study.loss[beaten], "o", color=colour, ms=3, alpha=0.2, mew=0, zorder=2
            )
            if len(group) == 1:
                axes.plot(
                    study.flops[front], study.mean_loss()[front], "o", mfc="white", mec=colour, mew=1.2,
                    ms=4.5, zorder=5 + index * 0.01,
                )  # fmt: skip
    axes.plot([], [], "o", color=GREY, ms=3, alpha=0.5, mew=0, label="run that is not on its front")
    axes.tick_params(colors=GREY, labelcolor=INK)


def _front_loss(study: Spending, flops: Array) -> Array:
    """The lowest loss for at most `flops`."""
    front = study.front
    place = np.searchsorted(study.flops[front], flops * (1 + 1e-9), side="right") - 1
    return study.mean_loss()[front][np.maximum(place, 0)]


def _draw_regrets(axes: "Axes", groups: dict[str, list[Spending]], studies: Sequence[Spending]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter

    reference = reference_corner(studies)
    joint = joint_area(studies, reference)
    lowest = 1.0
    every: list[float] = []
    for index, group in enumerate(groups.values()):
        colour, style = _style(index)
        begins = max(float(np.cumsum(study.flops)[np.argmax(np.isfinite(study.loss))]) for study in group)
        ends = min(study.spent_flops for study in group)
        spent = np.geomspace(begins, max(ends, begins), PLACES)
        regrets = np.array(
            [
                [regret_after(study, study.ended_within(flops), joint, reference) for flops in spent]
                for study in group
            ],
            dtype=float,
        )
        regrets = np.maximum(regrets, LEAST_REGRET)
        _draw_line(axes, spent, regrets, colour, style)
        lowest = min(lowest, float(np.nanmin(regrets)))
        every += [begins, ends]
    scale_flops(axes, every)
    axes.set_xlabel("training FLOPs spent")
    axes.set_ylabel("area of the joint front that is missing")
    axes.set_yscale("log")
    axes.set_ylim(lowest / 1.25, 1.1)
    axes.yaxis.set_major_locator(FixedLocator(log_ticks(lowest / 1.25, 1.0, most=8)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}%"))
    axes.yaxis.set_minor_locator(FixedLocator([]))
    axes.grid(which="major", color=FAINT, linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=GREY, labelcolor=INK)


def _draw_line(
    axes: "Axes", x: Array, rows: Array, colour: str, style: str, label: str | None = None
) -> None:
    """The mean of some step curves, and a band with edges from the lowest to the highest."""
    mean = rows.mean(axis=0)
    if len(rows) > 1:
        axes.fill_between(
            x, rows.min(axis=0), rows.max(axis=0), step="post", color=colour, alpha=0.1, linewidth=0, zorder=3
        )
        for edge in (rows.min(axis=0), rows.max(axis=0)):
            axes.plot(x, edge, drawstyle="steps-post", color=colour, linewidth=0.5, alpha=0.6, zorder=3)
    axes.plot(
        x, mean, drawstyle="steps-post", linestyle=style, color=colour, linewidth=1.7, alpha=0.9, zorder=4,
        label=label,
    )  # fmt: skip
