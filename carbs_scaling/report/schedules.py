"""Schedules by laws of loss curves, as tables for the terminal."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from carbs_scaling.laws.schedules.comparison import Check, Models, Ranking

LONGER = 3.0  # times the longest curve, beyond which laws were seen to rank decays above far longer runs
FEW_MODELS = 3


def schedules_report(
    models: Models,
    checks: Mapping[str, Check],
    ranking: Ranking,
    steps: int,
    best: Any,
    longest: int,
    theory: str,
) -> Group:
    """How laws predict curves that were left out, candidates by the best of them, and what to write.

    Args:
        models: curves by model and run.
        checks: by law; empty without a check.
        ranking: of the candidates.
        steps: of the target.
        best: the best schedule, as in `conf/schedule`.
        longest: steps of the longest curve.
        theory: name of the candidate that is derived from the SDE.
    """
    counts = ", ".join(f"{model}: {len(curves)}" for model, curves in models.items())
    parts: list[Any] = [Text(f"loss curves by model: {counts}", style="bold")]
    if checks:
        table = _table("law", "R^2, whole curves", "R^2, final losses", "error of final losses")
        for name, check in checks.items():
            table.add_row(
                name, f"{check.r_squared:.4f}", f"{check.final_r_squared:.4f}", f"{check.final_error:.4f}"
            )
        one = next(iter(checks.values()))
        parts += [Text(f"each of {one.curves} curves of {one.models} models left out once:"), table]
    else:
        parts.append(Text("no law was checked: that takes three curves of a model, of different schedules"))
    parts.append(Text(f"candidates for {steps:,} steps by {ranking.law}:"))
    table = _table("schedule", "loss above the best", *models)
    for name, excess in ranking.excess.items():
        label = f"{name} (derived from the SDE)" if name == theory else name
        losses = [f"{ranking.losses[name][model]:.4f}" for model in models]
        table.add_row(label, f"{excess:.4f}", *losses)
    parts.append(table)
    words = " ".join(f"schedule.{name}={value}" for name, value in vars(best).items())
    parts.append(Text(f"best, for train and search: {words}"))
    parts += [
        Text(f"warning: {text}", style="yellow")
        for text in warnings_of(checks, ranking, models, steps, longest)
    ]
    return Group(*parts)


def warnings_of(
    checks: Mapping[str, Check], ranking: Ranking, models: Models, steps: int, longest: int
) -> list[str]:
    """What the ranking cannot be trusted with, one line each."""
    said = []
    if ranking.law in checks:
        error = checks[ranking.law].final_error
        alike = [name for name, excess in ranking.excess.items() if excess <= error]
        if len(alike) > 1:
            said.append(
                f"{len(alike)} schedules lie within the law's error of {error:.4f} of the best: choose among "
                f"{', '.join(alike)} by what is easier to run"
            )
        if len(models) < FEW_MODELS:
            said.append(f"laws were compared on {len(models)} model sizes: three or more say which one holds")
    if steps > LONGER * longest:
        said.append(
            f"{steps:,} steps are {steps / longest:.1f} times the longest curve: laws rank late decays too "
            "well there; add a longer curve"
        )
    return said


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index == 0 else "right")
    return table
