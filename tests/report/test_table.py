import io
from dataclasses import replace

import pytest
from rich.console import Console

from carbs_scaling.numbers import compact
from carbs_scaling.report.energy import energy_line
from carbs_scaling.report.front import front_records
from carbs_scaling.report.table import front_table


def printed(records, width, **options):
    console = Console(width=width, file=io.StringIO())
    options = {
        "study_name": "tiny",
        "metric": "nats/token",
        "spent_flops": 6e12,
        "budget_flops": 1.5e13,
        **options,
    }
    console.print(front_table(records, **options))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_every_row_fits_on_one_line(random_records, width):
    records = random_records(60)
    front = front_records(records)
    text = printed(records, width)
    assert "…" not in text
    title = f"{len(front)} of 60 trials, 6.0e12 of 1.5e13 FLOPs spent (40%)"
    assert title in " ".join(text.split())
    for record in front:
        rows = [line for line in text.splitlines() if f"{record.loss:.3f}" in line]
        assert any(line.split()[-1] == str(record.number) for line in rows)


def test_energy_is_labelled_as_estimated(random_records):
    text = printed(random_records(60), 80)
    record = front_records(random_records(60))[-1]
    row = next(line for line in text.splitlines() if line.split()[-1:] == [str(record.number)])
    assert f"~{compact(25.0 * record.number)}" in row.split()
    assert energy_line(random_records(60)).endswith("estimated: 6 W a busy core")


def test_a_wider_terminal_shows_more(random_records):
    shown = [printed(random_records(60), width).splitlines() for width in (40, 60, 120)]
    headings = [next(line for line in lines if "nats/token" in line).split() for lines in shown]
    assert len(headings[0]) < len(headings[1]) < len(headings[2])
    for words in headings:
        assert {"FLOPs", "nats/token", "trial"} <= set(words)
    assert "width" in headings[2]


def test_what_does_not_differ_is_left_out_and_what_differs_is_shown(make_record):
    records = [make_record(n, loss=3.0 - n / 10, flops=1e9 * (n + 1), steps=100 + n) for n in range(3)]
    text = printed(records, 120)
    assert "depth" not in text
    assert "steps" in text
    assert "runs" not in text
    again = replace(records[0], number=9, seed=9)
    assert "runs" in printed([*records, again], 120)


def test_a_study_without_a_completed_run_says_so():
    assert "no completed run yet" in printed([], 80)
