"""What `benchmarks/compare_samplers.py` measures of studies that have ended."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from _comparison import Ended, Evidence, summary, write
from compare_samplers import ENDED, Comparison, entropy

from carbs_scaling.report.compare import Spending

NAN = float("nan")


def study(name: str, flops: list[float], loss: list[float], recipe: list[int] | None = None) -> Ended:
    """Of a budget of 10 FLOPs; a trial takes an hour and two joules."""
    count = len(flops)
    spending = Spending(
        name, name.split("-")[0], 10.0, np.array(flops), np.array(loss),
        None if recipe is None else np.array(recipe), np.full(count, 2.0), wall_seconds=3600.0 * count,
    )  # fmt: skip
    return Ended(spending, np.arange(1.0, count + 1))


@pytest.fixture
def evidence() -> Evidence:
    studies = [
        study("carbs-0", [1, 2, 3, 4], [NAN, 2.04, 2.0, 3.0]),
        study("carbs-1", [1, 2, 3, 4], [2.5, 2.3, 2.04, 2.3]),
        study("random-0", [4, 4, 2], [2.6, 2.04, 2.9]),
        study("random-1", [5, 5], [2.5, 2.6]),
    ]
    return Evidence(studies, start=3.0, unit="nats/token")


def test_counts_until_95_percent_of_the_best_gain(evidence: Evidence) -> None:
    assert (evidence.best, evidence.target) == (2.0, pytest.approx(2.05))
    rows = {row["study"]: row for row in evidence.rows()}
    assert [rows["carbs-0"][f"{what}_to_95"] for what in ("trials", "flops", "hours", "joules")] == [
        2,
        3,
        2,
        4,
    ]
    # Never there: all that was spent.
    assert not rows["random-1"]["reached"]
    assert [rows["random-1"][f"{what}_to_95"] for what in ("trials", "flops", "hours")] == [2, 10, 2]
    table = summary(list(rows.values()))
    assert (table["random"]["studies"], table["random"]["reached"]) == (2, 1)
    assert table["random"]["flops_to_95"][0] == pytest.approx((8 + 10) / 2)
    assert table["random"]["lowest_loss"] == [pytest.approx(2.27), pytest.approx(0.325, abs=0.001)]


def test_a_lucky_repeat_counts_with_the_mean_of_its_recipe() -> None:
    lucky = study("carbs-0", [1, 1, 1], [2.2, 2.0, 2.4], [0, 1, 1])
    assert lucky.lowest().tolist() == [2.2, 2.0, 2.2]


def test_table_json_and_picture(evidence: Evidence, tmp_path: Path) -> None:
    text = write(evidence, tmp_path, "pretraining", {"task": "pretraining"})
    carbs, random = (line for line in text.splitlines() if line.startswith(("| this project", "| random")))
    assert carbs.split("|")[2:5] == [" 2 ", " 2 ±1 ", " 4.5e0 ±2.1e0 "]
    assert "≥ 9.0e0" in random
    assert "(1 of 2)" in random
    assert "FLOPs to 95% against the best of random, which is random: at least 50% less." in text
    known = json.loads((tmp_path / "compare.json").read_text())
    assert known["curves"][0]["lowest_loss"] == [None, 2.04, 2.0, 2.0]
    assert (tmp_path / "compare.png").stat().st_size > 10_000


def test_a_study_that_ended_is_not_run_again(tmp_path: Path) -> None:
    marker = tmp_path / "studies" / "carbs-0" / ENDED
    marker.parent.mkdir(parents=True)
    marker.write_text("4e12")

    def ended_with(budget: float | None) -> float | None:
        return Comparison("pretraining", tmp_path, budget, ()).ended_with("carbs", 0)

    assert ended_with(4e12) == ended_with(None) == 4e12
    assert ended_with(8e12) is None  # goes on
    with pytest.raises(SystemExit, match="take another --folder"):
        ended_with(1e12)


def test_entropy_of_frequencies() -> None:
    assert entropy(np.array([5, 0, 5])) == pytest.approx(np.log(2))
