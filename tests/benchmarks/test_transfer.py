"""What five runs of a new family say of another family's law: `benchmarks/transfer.py`."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from _sweep import FIRST_RATE, STAR, Valley, fit_line
from exponents import Swept
from transfer import moved_by, nearest

HESSIAN = np.array([[0.3, -0.1], [-0.1, 0.15]])
N = np.array([1e3, 1e4, 1e5])
BOTTOMS = np.column_stack([np.log(0.03) - 0.4 * np.log(N / 1e3), np.log(128) + 0.2 * np.log(N / 1e3)])


def law(hessian: np.ndarray = HESSIAN) -> Swept:
    lines = [fit_line(np.log(N), BOTTOMS[:, i]) for i in (0, 1)]
    return Swept(N, Valley(BOTTOMS, np.ones(3), hessian, np.zeros(3, dtype=bool)), *lines, 0)


def star(bottom: np.ndarray) -> dict[tuple[int, int], float]:
    centre = nearest(0.03, 128, 32)
    points = [(centre[0] + r, centre[1] + b) for r, b in STAR]
    places = np.array([[np.log(FIRST_RATE * 2.0**r), np.log(32 * 2.0**b)] for r, b in points]) - bottom
    losses = 2 + np.einsum("ni,ij,nj->n", places, HESSIAN, places) / 2
    return dict(zip(points, losses, strict=True))


@pytest.mark.parametrize("depth", [1.0, 8.0])
def test_five_runs_move_the_law_to_the_new_familys_best(depth: float) -> None:
    """In whatever unit its losses are."""
    move = np.array([0.5, -0.3])
    runs = {point: depth * loss for point, loss in star(BOTTOMS[0] + move).items()}
    found = moved_by(runs, 32, law(), 1e3)
    np.testing.assert_allclose(found, move, atol=1e-8)


def test_a_move_is_bounded_and_without_a_curvature_is_the_best_of_the_five() -> None:
    assert np.abs(moved_by(star(BOTTOMS[0] + [9.0, -9.0]), 32, law(), 1e3)).max() <= np.log(8) + 1e-9
    runs = star(BOTTOMS[0] + [0.7, 0.0])
    best = min(runs, key=lambda point: runs[point])
    found = moved_by(runs, 32, law(-HESSIAN), 1e3)
    want = np.log([FIRST_RATE * 2.0 ** best[0], 32 * 2.0 ** best[1]]) - BOTTOMS[0]
    np.testing.assert_allclose(found, want, atol=1e-9)


def test_the_nearest_lattice_point_has_at_least_one_sequence() -> None:
    assert nearest(0.04, 130, 32) == (2, 2)
    assert nearest(0.01, 3, 32) == (0, 0)
