"""What is counted of a search for the best fine-tuning: `benchmarks/finetuning_trials.py`."""

import math
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from _material import clear_snippets
from finetuning_trials import (
    GRID_BATCHES,
    GRID_RATES,
    RATES,
    SMALL,
    WHOLE,
    Lattice,
    best_gain_share,
    grid_order,
    reached,
)


def test_trials_and_flops_until_the_gain_was_made() -> None:
    least = best_gain_share(0.8, 0.5)
    assert least == pytest.approx(0.785)
    found = reached([0.6, math.nan, 0.79, 0.8], [1.0, 2.0, 4.0, 8.0], least)
    assert (found.trials, found.flops, found.best) == (3, 7.0, 0.8)
    never = reached([0.6, math.nan], [1.0, 2.0], least)
    assert (never.trials, never.flops, never.best) == (3, math.inf, 0.6)


@pytest.mark.parametrize(("size", "count"), [(WHOLE, 72), (SMALL, 48)])
def test_points_move_to_the_nearest_of_the_table(size, count) -> None:
    lattice = Lattice(size, 10.0, 1e7)
    points = lattice.points()
    assert len(points) == count
    assert all(lattice.project(point) == point for point in points)
    near = lattice.project({"learning_rate": 1.3 * RATES[2], "batch_size": 6, "examples": 300})
    assert near == {"learning_rate": RATES[2], "batch_size": 8, "examples": 256}
    assert lattice.flops(near) == 2560
    # The grid lies on the table: four rates, two batches, from the fewest examples on.
    swept = grid_order(size.examples)
    grid = [lattice.project(point) for point in swept]
    assert grid == [pytest.approx(point) for point in swept]
    assert len(grid) == len(GRID_RATES) * len(GRID_BATCHES) * len(size.examples)
    assert [point["examples"] for point in grid] == sorted(point["examples"] for point in grid)


def test_snippets_without_a_clear_sign_and_repeats_are_left_out() -> None:
    lines = ["1\t2.2\tfine  film", "2\t-0.4\tso so", "3\t-3.1\tdull", "4\t1.0\tfine film", "broken"]
    assert clear_snippets(lines) == [("fine film", 1), ("dull", 0)]
