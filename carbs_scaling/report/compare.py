"""Several studies side by side: how much of their joint front each found, for how many FLOPs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from carbs_scaling.frontier import hypervolume, pareto_front
from carbs_scaling.numbers import compact, scientific
from carbs_scaling.report.canvas import GREY, INK, write_figure
from carbs_scaling.report.figures import SIZE_INCHES, loss_label, scale_flops, scale_loss

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

SHARES = (0.1, 0.25, 0.5, 1.0)  # of the first study's budget
REFERENCE_DECADES = 0.1  # past the dearest run: else the last point of a front would count for nothing
# Orange for the first, as the search's law has in other pictures; all told apart by the colour-blind.
COLOURS = ("#d9480f", "#1864ab", "#2b8a3e", "#862e9c", "#868e96", "#0b7285", "#b08900", "#a61e4d")
STYLES = ("-", "--", ":")
# A search that ended has spent at least so much of its budget: what was left paid for no run.
SPENT_SHARE = 0.95


@dataclass(frozen=True)
class Spending:
    """What a study bought.

    Args:
        name: of the study.
        sampler: that proposed its trials; `-` where its ledger does not say.
        budget_flops: that it was last run with.
        flops: of each whole run, in the order in which the trials ended, shape (n,).
        loss: of each trial, NaN for one that gave none, shape (n,).
        recipe: a number for each trial, the same for runs that differ by their seed alone, shape (n,); None
            where all differ.
        joules: that each trial took, NaN where that is not known, shape (n,); None where it is for none.
        charged: FLOPs that each was charged, shape (n,); None for `flops`.
    """

    name: str
    sampler: str
    budget_flops: float
    flops: Array
    loss: Array
    recipe: NDArray[np.int64] | None = None
    joules: Array | None = None
    charged: Array | None = None

    @property
    def paid(self) -> Array:
        """FLOPs that each trial was charged, shape (n,)."""
        return self.flops if self.charged is None else self.charged

    @property
    def spent_flops(self) -> float:
        """Charged for all trials."""
        return float(self.paid.sum())

    @property
    def spent_joules(self) -> float | None:
        """Of all trials; None where that of some is not known."""
        return self.joules_of(len(self.flops))

    def joules_of(self, trials: int) -> float | None:
        """Of the first `trials`; None where that of some is not known."""
        if self.joules is None or not np.isfinite(self.joules[:trials]).all():
            return None
        return float(self.joules[:trials].sum())

    @property
    def front(self) -> NDArray[np.int64]:
        """Indices of the trials on its front, cheapest first."""
        return pareto_front(self.flops, self.mean_loss())

    def mean_loss(self, trials: int | None = None) -> Array:
        """Losses of the first `trials`, repeats of a recipe among them at their mean, shape (trials,)."""
        loss = np.array(self.loss[:trials], dtype=float)
        if self.recipe is None:
            return loss
        ended = np.flatnonzero(np.isfinite(loss))
        _, group = np.unique(self.recipe[:trials][ended], return_inverse=True)
        loss[ended] = (np.bincount(group, loss[ended]) / np.bincount(group))[group]
        return loss

    def ended_within(self, flops: float) -> int:
        """How many trials had ended when `flops` had been spent."""
        return int(np.searchsorted(np.cumsum(self.paid), flops * (1 + 1e-9), side="right"))


@dataclass(frozen=True)
class Comparison:
    """One study beside the others.

    Args:
        study, sampler: names.
        trials: that ended.
        spent_flops: of all of them.
        front_points: on its own front.
        lowest_loss: of its runs.
        regrets: at each of `SHARES` of the first study's budget: the share of the joint front's hypervolume
            that its runs so far leave out; None where no run had completed, and where less was spent.
        flops_to_match: spent when its hypervolume reached that of the whole first study; None if never.
        joules: of all of its trials; None where that of some is not known.
        joules_saved: by the first study against this one, see `saved_joules`; None likewise.
    """

    study: str
    sampler: str
    trials: int
    spent_flops: float
    front_points: int
    lowest_loss: float
    regrets: tuple[float | None, ...]
    flops_to_match: float | None
    joules: float | None = None
    joules_saved: float | None = None


def reference_corner(studies: Sequence[Spending]) -> tuple[float, float]:
    """(log10 FLOPs, loss) that hypervolumes are measured to, the same for all studies.

    0.1 decade past the dearest run of any, and the worst loss at the cheap end: the highest of the losses
    with which the studies' fronts begin.
    """
    dearest = max(study.flops[np.isfinite(study.loss)].max() for study in studies)
    worst = max(study.mean_loss()[study.front[0]] for study in studies)
    return float(np.log10(dearest) + REFERENCE_DECADES), float(worst)


def compare(studies: Sequence[Spending]) -> list[Comparison]:
    """Each study against the joint front of all of them, and against the first; repeats by their mean.

    Hypervolume is the area between a front and `reference_corner` in (log10 FLOPs, loss), and regret is
    1 - hypervolume / hypervolume of the joint front: 0 for a study that found all of it.

    Args:
        studies: each with a completed run; losses and FLOPs mean the same in all of them.
    """
    reference = reference_corner(studies)
    joint = hypervolume(
        np.concatenate([study.flops for study in studies]),
        np.concatenate([study.mean_loss() for study in studies]),
        reference,
    )
    first = studies[0]
    limit = first.budget_flops if np.isfinite(first.budget_flops) else 0.0  # a search may have had none
    budget = max(limit, first.spent_flops)
    target = hypervolume(first.flops, first.mean_loss(), reference)

    def area(study: Spending, trials: int) -> float:
        return hypervolume(study.flops[:trials], study.mean_loss(trials), reference)

    def regret(study: Spending, share: float) -> float | None:
        trials = study.ended_within(share * budget)
        if study.spent_flops < SPENT_SHARE * share * budget:
            return None
        if not np.isfinite(study.loss[:trials]).any():
            return None
        return 1 - area(study, trials) / joint if joint > 0 else 0.0

    def flops_to_match(study: Spending) -> float | None:
        trials = trials_to_area(study, target, reference)
        return None if trials is None else float(study.paid[:trials].sum())

    return [
        Comparison(
            study=study.name,
            sampler=study.sampler,
            trials=len(study.flops),
            spent_flops=study.spent_flops,
            front_points=len(study.front),
            lowest_loss=float(np.nanmin(study.mean_loss())),
            regrets=tuple(regret(study, share) for share in SHARES),
            flops_to_match=flops_to_match(study),
            joules=study.spent_joules,
            joules_saved=saved_joules(first, study, reference),
        )
        for study in studies
    ]


def trials_to_area(study: Spending, area: float, reference: tuple[float, float]) -> int | None:
    """How many trials of a study made its hypervolume reach `area`; None if it never did."""
    for trials in range(1, len(study.flops) + 1):
        reached = hypervolume(study.flops[:trials], study.mean_loss(trials), reference)
        if reached >= area * (1 - 1e-12):
            return trials
    return None


def saved_joules(search: Spending, other: Spending, reference: tuple[float, float]) -> float | None:
    """Joules that `other`, such as a grid, took more than `search` until both had the same front.

    The front of equal hypervolume that both reached: the smaller of their two final ones.

    Args:
        search, other: each with a completed run.
        reference: of `reference_corner`.

    Returns:
        Joules, negative where `other` was the thriftier; None where the energy of some trial is not known.
    """
    whole = (hypervolume(study.flops, study.mean_loss(), reference) for study in (search, other))
    common = min(whole)
    joules = []
    for study in (search, other):
        trials = trials_to_area(study, common, reference)
        joules.append(None if trials is None else study.joules_of(trials))
    own, others = joules
    return None if own is None or others is None else others - own


def comparison_rows(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Flat dicts of plain values, for CSV and JSON."""
    return [
        {
            "study": row.study,
            "sampler": row.sampler,
            "trials": row.trials,
            "spent_flops": row.spent_flops,
            "front_points": row.front_points,
            "lowest_loss": row.lowest_loss,
            **{
                f"regret_at_{share:.0%}".removesuffix("%"): regret
                for share, regret in zip(SHARES, row.regrets, strict=True)
            },
            "flops_to_match_first": row.flops_to_match,
            "energy_joules": row.joules,
            "joules_saved_by_first": row.joules_saved,
        }
        for row in comparisons
    ]


def comparison_report(comparisons: Sequence[Comparison], unit: str) -> Group:
    """The table for the terminal, and a line that says what its columns mean.

    Args:
        comparisons: of `compare`.
        unit: of the losses.
    """
    first = comparisons[0]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1), header_style="bold")
    for heading in ("study", "sampler"):
        table.add_column(heading, overflow="fold", min_width=len(heading))
    for heading in ("trials", "FLOPs", "front", "lowest", *(f"{s:.0%}" for s in SHARES), "match"):
        table.add_column(heading, justify="right", no_wrap=True)
    with_energy = any(row.joules is not None for row in comparisons)
    for heading in ("joules", "saved") if with_energy else ():
        table.add_column(heading, justify="right", no_wrap=True)
    for row in comparisons:
        energy = ["-" if joules is None else compact(joules) for joules in (row.joules, row.joules_saved)]
        table.add_row(
            row.study,
            row.sampler,
            str(row.trials),
            scientific(row.spent_flops),
            str(row.front_points),
            f"{row.lowest_loss:.3f}",
            *("" if regret is None else f"{100 * regret:.3g}" for regret in row.regrets),
            "never" if row.flops_to_match is None else scientific(row.flops_to_match),
            *(energy if with_energy else []),
        )
    legend = (
        f"lowest: loss, {unit}. {SHARES[0]:.0%} to {SHARES[-1]:.0%}: hypervolume regret, the % of the joint "
        f"front's area that is missing at that share of {first.study}'s budget. match: FLOPs spent until "
        f"the area was that of all of {first.study}."
    )
    if with_energy:
        legend += f" saved: joules that {first.study} took less until both had the same area."
    return Group(table, Text(legend, style="dim"))


def draw_comparison_png(studies: Sequence[Spending], path: str | Path, unit: str) -> Path:
    """The fronts of all studies in one picture, with their runs faint behind them.

    Args:
        studies: each with a completed run.
        path: the PNG file.
        unit: of the losses.

    Raises:
        CarbsScalingError: the file cannot be written.
    """

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        axes.set_title(
            "Fronts of loss against training FLOPs",
            loc="left", fontweight="bold", color=INK, pad=10 + 17 * _legend_lines(studies), fontsize=12.5,
        )  # fmt: skip
        axes.set_xlabel("training FLOPs")
        axes.set_ylabel(loss_label(unit))
        axes.spines[["top", "right"]].set_visible(False)
        completed = [np.isfinite(study.loss) for study in studies]
        flops = [study.flops[done] for study, done in zip(studies, completed, strict=True)]
        scale_flops(axes, np.concatenate(flops).tolist())
        # Bad runs may be far off; what is compared are the fronts.
        scale_loss(axes, np.concatenate([study.mean_loss()[study.front] for study in studies]).tolist())
        for index, study in enumerate(studies):
            _draw_study(axes, study, index)
        axes.legend(
            loc="lower left", bbox_to_anchor=(-0.012, 1.0), ncols=_LEGEND_COLUMNS, frameon=False, fontsize=9,
            handletextpad=0.5, columnspacing=1.4, handlelength=1.7, labelcolor=INK, borderaxespad=0.1,
        )  # fmt: skip

    return write_figure(draw, path, SIZE_INCHES)


_LEGEND_COLUMNS = 4


def _legend_lines(studies: Sequence[Spending]) -> int:
    return -(-len(studies) // _LEGEND_COLUMNS)


def _draw_study(axes: "Axes", study: Spending, index: int) -> None:
    colour = COLOURS[index % len(COLOURS)]
    style = STYLES[index // len(COLOURS) % len(STYLES)]
    front = study.front
    beaten = np.setdiff1d(np.arange(len(study.flops)), front)
    axes.plot(study.flops[beaten], study.loss[beaten], "o", color=colour, ms=3, alpha=0.25, mew=0, zorder=2)
    flops, loss = study.flops[front], study.mean_loss()[front]
    # A step: between two of its runs the front is what the cheaper one reached. It ends at the dearest run.
    dearest = study.flops[np.isfinite(study.loss)].max()
    axes.plot(
        [*flops, dearest], [*loss, loss[-1]],
        drawstyle="steps-post", linestyle=style, color=colour, linewidth=1.5, alpha=0.85, zorder=4,
    )  # fmt: skip
    name = study.name if study.sampler in ("-", study.name) else f"{study.name} ({study.sampler})"
    axes.plot(
        flops, loss, "o", linestyle="none",
        mfc="white", mec=colour, mew=1.3, ms=5.5, zorder=5 + index * 0.01, label=name,
    )  # fmt: skip
    axes.tick_params(colors=GREY)
