"""Output on terminals of small character sets, and names that look like markup."""

import io
import sys
from pathlib import Path

import pytest

from carbs_scaling.commands.front import print_paths
from carbs_scaling.report.front import front_law
from carbs_scaling.report.live import bar
from carbs_scaling.report.table import front_table
from carbs_scaling.report.terminal import console, ready_streams


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_tables_and_bars_print_in_every_encoding(encoding, monkeypatch, random_records):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    ready_streams()
    records = random_records(30)
    law = front_law(records)
    assert law is not None
    out = console()
    out.print(
        front_table(records, study_name="mine", metric="nats", spent_flops=1e9, budget_flops=2e9)
    )  # fmt: skip
    out.print(law.formula())
    out.print(bar([(0.5, "green")], 10))
    print("12 L d² ≤ 3 → ünknown 漢 \udcff")
    stream.flush()
    written = stream.buffer.getvalue().decode(encoding)
    assert "Pareto front of mine" in written
    if encoding == "ascii":
        assert "=====-----" in written
        assert "12 L d^2 <= 3 -> \\xfcnknown \\u6f22" in written


def test_what_looks_like_markup_is_printed_as_it_is(capsys):
    out = console(width=80)
    print_paths([Path("a[red]b[/x]/:smile:/c")], out)
    from rich.table import Table

    table = Table("study")
    table.add_row("[x] :smile:")
    out.print(table)
    printed = capsys.readouterr().out
    assert "wrote a[red]b[/x]/:smile:/c\n" in printed
    assert "[x] :smile:" in printed
