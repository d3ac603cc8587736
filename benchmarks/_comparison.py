"""What `compare_samplers.py` measures of its studies: table, JSON and picture."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from carbs_scaling.files import write_atomically
from carbs_scaling.numbers import scientific
from carbs_scaling.report.compare import (
    SHARES,
    Spending,
    compare,
    joint_area,
    reference_corner,
    regret_after,
)
from carbs_scaling.report.compare_table import percent_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GAIN_SHARE = 0.95
LABELS = {
    "carbs": "this project",
    "carbs_best": "this project, goal=best",
    "imbue_carbs": "CARBS, our writing",
    "imbue": "CARBS, imbue's own",
    "protein": "Protein (PufferLib)",
    "tpe": "TPE",
}
USUAL = ("grid", "random", "tpe")  # what people do today: the best of them is what savings are measured by
OWN = "carbs"
LEAST_SHARE = 0.005  # of the budget, where pictures begin
PLACES = 200


@dataclass(frozen=True)
class Ended:
    """A study that spent its budget.

    Args:
        spending: its trials in the order in which they ended.
        hours: of wall time until each of them had, shape (n,).
    """

    spending: Spending
    hours: NDArray[np.float64]

    def lowest(self) -> NDArray[np.float64]:
        """The lowest loss after each trial, repeats of a recipe at their mean; infinite before the first."""
        counts = range(1, len(self.spending.flops) + 1)
        losses = (self.spending.mean_loss(count) for count in counts)
        return np.array([np.min(loss[np.isfinite(loss)], initial=np.inf) for loss in losses])


@dataclass(frozen=True)
class Evidence:
    """Studies side by side.

    Args:
        studies: by sampler, in the order of the table; each with a completed run.
        start: loss from which gains are counted.
        unit: of the losses.
    """

    studies: Sequence[Ended]
    start: float
    unit: str

    @property
    def best(self) -> float:
        """The lowest loss that any study ended at."""
        return min(float(study.lowest()[-1]) for study in self.studies)

    @property
    def target(self) -> float:
        """The loss at which 95% of the best gain is made."""
        return self.start - GAIN_SHARE * (self.start - self.best)

    def rows(self) -> list[dict[str, Any]]:
        """Plain values of each study.

        Until 95% of the best gain: `trials`, `flops`, `hours` and `joules` with `_to_95`. A study that never
        gets there (`reached`) counts as all of its trials, FLOPs, hours and joules.
        """
        compared = compare([study.spending for study in self.studies], by_sampler=True)
        rows = []
        for study, row in zip(self.studies, compared, strict=True):
            lowest = study.lowest()
            found = np.flatnonzero(lowest <= self.target)
            trials = int(found[0]) + 1 if len(found) else len(lowest)
            rows.append({
                "study": row.study, "sampler": row.sampler, "reached": bool(len(found)),
                "trials_to_95": trials,
                "flops_to_95": float(study.spending.paid[:trials].sum()),
                "hours_to_95": float(study.hours[trials - 1]),
                "joules_to_95": study.spending.joules_of(trials),
                "lowest_loss": row.lowest_loss,
                **{f"regret_at_{round(100 * s)}": r for s, r in zip(SHARES, row.regrets, strict=True)},
                "trials": row.trials, "flops": row.spent_flops, "hours": row.hours, "joules": row.joules,
            })  # fmt: skip
        return rows

    def curves(self) -> list[dict[str, Any]]:
        """FLOPs spent, hours, lowest loss and front regret of each study, after each of its trials."""
        spendings = [study.spending for study in self.studies]
        corner = reference_corner(spendings)
        joint = joint_area(spendings, corner)
        return [
            {
                "study": study.spending.name,
                "sampler": study.spending.sampler,
                "budget_flops": study.spending.budget_flops,
                "spent_flops": np.cumsum(study.spending.paid).tolist(),
                "hours": study.hours.tolist(),
                "lowest_loss": [float(loss) if np.isfinite(loss) else None for loss in study.lowest()],
                "regret": [
                    regret_after(study.spending, count + 1, joint, corner)
                    for count in range(len(study.spending.flops))
                ],
            }
            for study in self.studies
        ]


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The figures of each sampler: studies, how many reached the mark, and (mean, deviation) of each.

    The deviation is None for one study; both are where a study lacks the figure.
    """
    found: dict[str, dict[str, Any]] = {}
    for sampler in dict.fromkeys(row["sampler"] for row in rows):
        own = [row for row in rows if row["sampler"] == sampler]
        found[sampler] = {"studies": len(own), "reached": sum(row["reached"] for row in own)}
        for name in own[0]:
            if name in ("study", "sampler", "reached"):
                continue
            values = [row[name] for row in own]
            known = None not in values
            found[sampler][name] = [
                fmean(values) if known else None,
                stdev(values) if known and len(values) > 1 else None,
            ]
    return found


def as_markdown(evidence: Evidence, title: str) -> str:
    """The table, and under it what its columns mean."""
    table = summary(evidence.rows())
    marks = [f"front regret at {round(100 * share)}%" for share in SHARES]
    head = ["sampler", "seeds", "trials to 95%", "FLOPs to 95%", "hours to 95%", "lowest loss", *marks, "kJ"]
    lines = [f"**{title}**", "", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for sampler, row in table.items():
        missed = row["studies"] - row["reached"]
        more = "≥ " if missed else ""
        kept = f" ({row['reached']} of {row['studies']})" if missed else ""
        cells = [
            LABELS.get(sampler, sampler),
            str(row["studies"]),
            more + _shown(row["trials_to_95"], "{:.0f}".format) + kept,
            more + _shown(row["flops_to_95"], scientific),
            more + _shown(row["hours_to_95"], "{:.2g}".format),
            _shown(row["lowest_loss"], "{:.3f}".format),
            *(_shown(row[f"regret_at_{round(100 * s)}"], percent_text, "%") for s in SHARES),
            _shown(row["joules"], lambda joules: f"{joules / 1000:.2g}"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *explained(evidence, table)]
    return "\n".join(lines) + "\n"


def explained(evidence: Evidence, table: dict[str, dict[str, Any]]) -> list[str]:
    """Sentences under the table."""
    first = next(iter(table))
    lines = [
        f"Mean ± standard deviation over seeds. Losses in {evidence.unit}. The best gain is the fall from "
        f"{evidence.start:.3f} to {evidence.best:.3f}, the lowest loss of any study; 95% of it are made at "
        f"{evidence.target:.3f}. ≥: a study that never got there counts with all that it spent (in brackets: "
        "how many did). Front regret: the area of the joint front that is missing at that share of the "
        "budget; empty where a study spent less or no run had ended. Energy is that of all trials, as the "
        "ledger has it.",
    ]
    usual = [name for name in USUAL if name in table]
    if first == OWN and usual:
        own = table[OWN]
        for what, key in (("FLOPs", "flops_to_95"), ("trials", "trials_to_95"), ("hours", "hours_to_95")):
            best = min(usual, key=lambda name: table[name][key][0])
            if own["reached"] < own["studies"]:  # two lower bounds have no ratio
                lines.append(f"{what} to 95%: this project did not get there with every seed either.")
                continue
            saved = 1 - own[key][0] / table[best][key][0]
            least = "at least " if table[best]["reached"] < table[best]["studies"] else ""
            lines.append(
                f"{what} to 95% against the best of {', '.join(usual)}, which is {best}: "
                f"{least}{abs(saved):.0%} {'less' if saved >= 0 else 'more'}."
            )
    return lines


def _shown(value: Sequence[float | None], show: Any, sign: str = "") -> str:
    mean, deviation = value
    if mean is None:
        return ""
    return f"{show(mean)}{sign}" if deviation is None else f"{show(mean)} ±{show(deviation)}{sign}"


def write(evidence: Evidence, folder: Path, title: str, settings: dict[str, Any]) -> str:
    """Writes `compare.md`, `compare.json` and `compare.png`; gives the table."""
    rows, curves = evidence.rows(), evidence.curves()
    text = as_markdown(evidence, title)
    known = {
        **settings, "unit": evidence.unit, "start_loss": evidence.start, "best_loss": evidence.best,
        "loss_at_95": evidence.target, "samplers": summary(rows), "studies": rows, "curves": curves,
    }  # fmt: skip
    write_atomically(folder / "compare.md", text.encode())
    write_atomically(folder / "compare.json", json.dumps(known, indent=1).encode())
    draw(evidence, curves, folder / "compare.png", title)
    return text


def draw(evidence: Evidence, curves: Sequence[dict[str, Any]], path: Path, title: str) -> Path:
    """Lowest loss, and regret of the front, against the share of the budget: means, bands over seeds."""
    from carbs_scaling.report.canvas import INK, write_figure

    def drawn(figure: "Figure") -> None:
        figure.suptitle(
            f"{title}: means over seeds, with bands from the lowest to the highest",
            x=0.01, ha="left", fontweight="bold", color=INK, fontsize=12.5,
        )  # fmt: skip
        left, right = figure.subplots(1, 2)
        _draw_lines(left, curves, "lowest_loss", f"lowest loss so far ({evidence.unit})")
        left.axhline(evidence.target, color=INK, linewidth=0.8, linestyle=(0, (2, 2)), zorder=2)
        left.annotate(
            "95% of the best gain", (0, evidence.target), xycoords=("axes fraction", "data"), xytext=(4, 3),
            textcoords="offset points", ha="left", fontsize=8.5, color=INK,
        )  # fmt: skip
        _draw_lines(right, curves, "regret", "area of the joint front that is missing")
        handles, labels = left.get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower left", ncols=7, frameon=False, fontsize=9, labelcolor=INK
        )

    return write_figure(drawn, path, (11.6, 5.0))


def _draw_lines(axes: "Axes", curves: Sequence[dict[str, Any]], key: str, label: str) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    from carbs_scaling.report.canvas import FAINT, GREY, INK
    from carbs_scaling.report.compare_figure import COLOURS

    shares = np.geomspace(LEAST_SHARE, 1, PLACES)
    shown: list[float] = []
    begins = 1.0
    for index, sampler in enumerate(dict.fromkeys(curve["sampler"] for curve in curves)):
        rows = np.array([_at(curve, key, shares) for curve in curves if curve["sampler"] == sampler])
        there = np.isfinite(rows).all(axis=0)  # from where every seed has a run
        if not there.any():
            continue
        x, rows, colour = shares[there], rows[:, there], COLOURS[index % len(COLOURS)]
        if len(rows) > 1:
            low, high = rows.min(axis=0), rows.max(axis=0)
            axes.fill_between(x, low, high, step="post", color=colour, alpha=0.12, linewidth=0, zorder=3)
        begins, mean = min(begins, float(x[0])), rows.mean(axis=0)
        axes.plot(
            x, mean, drawstyle="steps-post", color=colour, linewidth=2.0 if sampler == OWN else 1.4,
            zorder=5 if sampler == OWN else 4, label=LABELS.get(sampler, sampler),
        )  # fmt: skip
        # A first run may be far off; the end is what is compared.
        shown += mean[x >= 0.05].tolist()
    axes.set_xscale("log")
    axes.set_xlim(0.95 * begins, 1.03)
    axes.xaxis.set_major_locator(FixedLocator([0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("share of the budget spent")
    axes.set_ylabel(label)
    if shown and key == "regret":
        axes.set_ylim(0, min(1.0, 1.1 * max(shown)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}%"))
    elif shown:
        span = max(max(shown) - min(shown), 1e-3)
        axes.set_ylim(min(shown) - 0.08 * span, max(shown) + 0.08 * span)
    axes.grid(which="major", color=FAINT, linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=GREY, labelcolor=INK)


def _at(curve: dict[str, Any], key: str, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """A curve's value once a share of the budget was spent; NaN before its first completed run."""
    spent = np.array(curve["spent_flops"]) / curve["budget_flops"]
    values = np.array([np.nan, *(np.nan if v is None else v for v in curve[key])], dtype=float)
    return values[np.searchsorted(spent, shares * (1 + 1e-9), side="right")]


def ordered(studies: Sequence[Ended], samplers: Sequence[str]) -> list[Ended]:
    """Studies with those of a sampler together, samplers in their order."""
    return sorted(studies, key=lambda study: samplers.index(study.spending.sampler))
