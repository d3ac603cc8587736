"""What `compare` prints and writes: two tables, a row a study or a sampler, and flat rows for files."""

from collections.abc import Callable, Sequence
from statistics import fmean, stdev
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from carbs_scaling.numbers import compact, scientific
from carbs_scaling.report.compare import SHARES, Comparison

Numbers = Sequence[float | None]
Show = Callable[[float], str]


def by_samplers(comparisons: Sequence[Comparison]) -> dict[str, list[Comparison]]:
    """The studies of each sampler, in the order in which the samplers come."""
    groups: dict[str, list[Comparison]] = {}
    for row in comparisons:
        groups.setdefault(row.sampler, []).append(row)
    return groups


def comparison_rows(comparisons: Sequence[Comparison], by_sampler: bool = False) -> list[dict[str, Any]]:
    """Flat dicts of plain values, for CSV and JSON.

    Args:
        comparisons: of `compare`.
        by_sampler: whether a row is a sampler: means over its studies, standard deviations (`_sd`) beside
            them, and how many of them reached what is counted to (`_reached`).
    """
    if not by_sampler:
        return [{"study": row.study, "sampler": row.sampler, **_values(row)} for row in comparisons]
    rows = []
    for sampler, group in by_samplers(comparisons).items():
        row: dict[str, Any] = {"sampler": sampler, "studies": len(group)}
        measured = [_values(study) for study in group]
        for name in measured[0]:
            values = [study[name] for study in measured]
            row[name] = _mean(values)
            if len(group) > 1:
                row[f"{name}_sd"] = _deviation(values)
            if name in ("trials_to_95", "flops_to_match_first"):
                row[f"{name}_reached"] = sum(value is not None for value in values)
        rows.append(row)
    return rows


def _values(row: Comparison) -> dict[str, Any]:
    return {
        "trials": row.trials,
        "spent_flops": row.spent_flops,
        "front_points": row.front_points,
        "lowest_loss": row.lowest_loss,
        **{
            f"regret_at_{share:.0%}".removesuffix("%"): regret
            for share, regret in zip(SHARES, row.regrets, strict=True)
        },
        "trials_to_95": row.trials_to_95,
        "flops_to_match_first": row.flops_to_match,
        "hours": row.hours,
        "energy_joules": row.joules,
        "joules_saved_by_first": row.joules_saved,
    }


def _mean(values: Numbers) -> float | None:
    """Of those that there are; None for none."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _deviation(values: Numbers) -> float | None:
    known = [value for value in values if value is not None]
    return stdev(known) if len(known) > 1 else None


def comparison_report(comparisons: Sequence[Comparison], unit: str, by_sampler: bool = False) -> Group:
    """The tables for the terminal, and what their columns mean.

    Args:
        comparisons: of `compare`.
        unit: of the losses.
        by_sampler: whether a row is a sampler: the mean of its studies, with the standard deviation below.
    """
    groups = by_samplers(comparisons) if by_sampler else {row.study: [row] for row in comparisons}
    first = next(iter(groups))
    names = ("sampler", "studies") if by_sampler else ("study", "sampler")
    found, price = _table(*names), _table(names[0])
    marks = tuple(f"{share:.0%}" for share in SHARES)
    with_energy = any(row.joules is not None for row in comparisons)
    for heading in ("trials", "FLOPs", "front", "lowest", *marks):
        found.add_column(heading, justify="right", no_wrap=True)
    for heading in ("95% trials", "match FLOPs", "hours", *(("joules", "saved") if with_energy else ())):
        price.add_column(heading, justify="right", no_wrap=True)
    for name, group in groups.items():
        second = str(len(group)) if by_sampler else group[0].sampler
        several = len(group) > 1
        _rows(found, [name, second], several, [
            (count_text, [row.trials for row in group]),
            (scientific, [row.spent_flops for row in group]),
            (count_text, [row.front_points for row in group]),
            (lambda x: f"{x:.3f}", [row.lowest_loss for row in group]),
            *((percent_text, [row.regrets[i] for row in group]) for i in range(len(SHARES))),
        ])  # fmt: skip
        energy: list[tuple[Show, Numbers]] = [
            (compact, [row.joules for row in group]), (compact, [row.joules_saved for row in group])
        ]  # fmt: skip
        _rows(price, [name], several, [
            (count_text, [row.trials_to_95 for row in group]),
            (scientific, [row.flops_to_match for row in group]),
            (lambda x: f"{x:.2g}", [row.hours for row in group]),
            *(energy if with_energy else []),
        ], reached=2)  # fmt: skip
    whose = f"the mean of {first}'s studies" if by_sampler else f"all of {first}"
    legend = (
        f"lowest: loss, {unit}. {marks[0]} to {marks[-1]}: hypervolume regret, the % of the joint front's "
        f"area that is missing at that share of {first}'s budget; blank where less was spent. "
        "95% trials: until 95% of the joint front's area were there. "
        f"match FLOPs: spent until the area was that of {whose}."
    )
    if with_energy:
        legend += f" saved: joules that {first} took less until both had the same area."
    if by_sampler:
        legend += " Below each mean, its standard deviation over the sampler's studies."
    return Group(found, price, Text(legend, style="dim"))


def _table(*names: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1), header_style="bold")
    for name in names:
        table.add_column(name, overflow="fold", min_width=len(name))
    return table


def _rows(
    table: Table, lead: list[str], several: bool, columns: Sequence[tuple[Show, Numbers]], reached: int = 0
) -> None:
    """A row of means, and one of standard deviations; the first `reached` columns say `never` for none."""
    means, deviations = [], []
    for index, (show, values) in enumerate(columns):
        mean, deviation = _mean(values), _deviation(values)
        never = "never" if index < reached else ""
        missing = sum(value is None for value in values)
        if mean is None:
            means.append(never)
        elif missing and index < reached:
            means.append(f"{show(mean)} ({len(values) - missing}/{len(values)})")
        else:
            means.append("" if missing else show(mean))
        shown = deviation is not None and (not missing or index < reached)
        deviations.append(f"±{show(deviation)}" if shown and deviation is not None else "")
    table.add_row(*lead, *means)
    if several:
        table.add_row(*("" for _ in lead), *deviations, style="dim")


def percent_text(share: float) -> str:
    """A share in percent without its sign: 38.2, 0.41."""
    return f"{100 * share:.1f}" if abs(share) >= 0.01 else f"{100 * share:.2f}"


def count_text(value: float) -> str:
    """A count, or the mean of some."""
    return f"{value:.0f}" if value == int(value) or value >= 100 else f"{value:.1f}"
