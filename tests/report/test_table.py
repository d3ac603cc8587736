import io

import pytest
from rich.console import Console

from carbs_scaling.report.front import front_rows
from carbs_scaling.report.table import front_table


def printed(rows, width, **options):
    console = Console(width=width, file=io.StringIO())
    options = {"study_name": "tiny", "trials": 60, "spent_flops": 6e12, "budget_flops": 1.5e13, **options}
    console.print(front_table(rows, **options))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_every_row_fits_on_one_line(random_records, width):
    rows = front_rows(random_records(60))
    text = printed(rows, width, law_lines=["L = 1.2 + 300 C^-0.25"])
    assert "…" not in text
    assert f"{len(rows)} of 60 trials, 6.0e12 of 1.5e13 FLOPs spent (40%)" in text
    assert "L = 1.2 + 300 C^-0.25" in text
    for row in rows:
        assert sum(f"{row['loss_nats_per_token']:.3f}" in line for line in text.splitlines()) >= 1
    assert ("steps" in text) == (width == 120)


def test_a_study_without_a_completed_run_says_so():
    assert "no completed run yet" in printed([], 80, trials=0, spent_flops=0)
