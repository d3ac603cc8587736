"""What reports say of a point: its roles and its searched dimensions, each with a heading and short texts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from carbs_scaling.ledger.record import TrialRecord
from carbs_scaling.numbers import compact, exact_or_compact, scientific

Text = Callable[[Any], str]


def value_text(value: Any) -> str:
    """A value in few characters: whole numbers in full while they are short, others to three digits."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return exact_or_compact(value)
    return f"{value:.3g}" if value == 0 or 1e-2 <= abs(value) < 1e5 else scientific(value, 3)


# Heading and text of each role; counts of parameters and tokens are rarely round.
ROLES: dict[str, tuple[str, Text]] = {
    "params": ("N", compact),
    "tokens": ("D", compact),
    "learning_rate": ("lr", scientific),
    "batch_tokens": ("batch", lambda value: exact_or_compact(int(value))),
}
LEGEND = {
    "params": "N: parameters", "tokens": "D: tokens", "learning_rate": "lr: learning rate",
    "batch_tokens": "batch: tokens a step",
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """One quantity of a trial: how it is called, and its text for a record that has it."""

    name: str
    heading: str
    text: Text

    def cell(self, record: TrialRecord) -> str:
        """The text for a record, `-` where it has no such value."""
        value = record.values.get(self.name)
        return "-" if value is None else self.text(value)


def point_columns(records: Sequence[TrialRecord]) -> list[Column]:
    """The roles that some record has, then the searched dimensions that are no roles."""
    roles = {name for record in records for name in record.roles}
    dimensions = dict.fromkeys(name for record in records for name in record.point)
    columns = [
        Column(name, name if heading in dimensions else heading, text)  # a program may call its rows "batch"
        for name, (heading, text) in ROLES.items()
        if name in roles
    ]
    return columns + [Column(name, name, value_text) for name in dimensions if name not in roles]


def detail_columns(records: Sequence[TrialRecord]) -> list[Column]:
    """Details that differ between records and are neither roles nor dimensions.

    FLOPs by another count, `flops_...`, and totals, `total_...`, are for files.
    """
    known = {name for record in records for name in (*record.roles, *record.point)}
    names = dict.fromkeys(name for record in records for name in record.details if name not in known)
    return [
        Column(name, name, value_text)
        for name in names
        if not name.startswith(("flops_", "total_"))
        and len({str(record.details.get(name)) for record in records}) > 1
    ]
