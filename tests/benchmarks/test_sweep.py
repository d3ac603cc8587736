"""The numbers of the sweeps of learning rate and batch: `benchmarks/_sweep.py`."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from _sweep import Model, Runs, fit_line, fit_valley, walk

HESSIAN = np.array([[0.3, -0.1], [-0.1, 0.15]])
BOTTOMS = np.array([[-4.0, 5.0], [-4.6, 5.2], [-5.5, 5.5]])


def loss_of(z: np.ndarray, model: int) -> np.ndarray:
    off = np.asarray(z, dtype=float) - BOTTOMS[model]
    return 2.0 - 0.1 * model + np.einsum("...i,ij,...j->...", off, HESSIAN, off) / 2


def runs_of(model: int) -> tuple[np.ndarray, np.ndarray]:
    step = np.log(2)
    z = np.round(BOTTOMS[model] / step) * step + step * np.array(
        [[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1], [1, 1], [-1, -1]]
    )
    return z, loss_of(z, model)


def test_bottoms_of_paraboloids_are_found() -> None:
    places, losses = zip(*(runs_of(model) for model in range(3)), strict=True)
    valley = fit_valley(places, losses)
    assert valley.identified
    np.testing.assert_allclose(valley.bottoms, BOTTOMS, atol=1e-9)
    np.testing.assert_allclose(valley.losses, [2.0, 1.9, 1.8], atol=1e-9)
    np.testing.assert_allclose(valley.hessian, HESSIAN, atol=1e-9)


def test_five_runs_and_a_known_shape_give_a_bottom() -> None:
    z, loss = runs_of(1)
    valley = fit_valley([z[:5]], [loss[:5]], HESSIAN)
    assert not valley.at_edge.any()
    np.testing.assert_allclose(valley.bottoms[0], BOTTOMS[1], atol=1e-9)
    with pytest.raises(ValueError, match="three are needed"):
        fit_valley([z[:2]], [loss[:2]], HESSIAN)


def test_a_best_batch_beyond_the_runs_stands_at_their_end() -> None:
    z = BOTTOMS[0] + np.array([[0.0, -2.0], [0.7, -2.0], [-0.7, -2.0], [0.0, -1.3], [0.7, -1.3]])
    valley = fit_valley([z], [loss_of(z, 0)], HESSIAN)
    assert valley.at_edge.tolist() == [True]
    assert valley.bottoms[0, 1] == pytest.approx(z[:, 1].max() + np.log(2) / 2, abs=0.01)
    # The best rate is that of this batch, along the valley.
    along = BOTTOMS[0, 0] - HESSIAN[0, 1] / HESSIAN[0, 0] * (valley.bottoms[0, 1] - BOTTOMS[0, 1])
    assert valley.bottoms[0, 0] == pytest.approx(along)


def test_runs_that_diverged_are_left_out() -> None:
    z, loss = runs_of(0)
    valley = fit_valley([np.vstack([z, [[9.0, 5.0]]])], [np.append(loss, np.inf)])
    np.testing.assert_allclose(valley.bottoms[0], BOTTOMS[0], atol=1e-9)


def test_interval_of_a_slope_holds_it_as_often_as_it_says() -> None:
    rng, x = np.random.default_rng(0), np.linspace(0, 4, 5)
    lines = [fit_line(x, 1 - 0.5 * x + 0.2 * rng.normal(size=5)) for _ in range(2000)]
    held = np.mean([line.low <= -0.5 <= line.high for line in lines])
    assert held == pytest.approx(0.9, abs=0.02)
    exact = fit_line(x, 1 - 0.5 * x)
    assert (exact.slope, exact.at(10)) == (pytest.approx(-0.5), pytest.approx(-4))


def test_a_walk_ends_at_the_best_point_and_begins_with_a_star() -> None:
    def loss_at(point: tuple[int, int]) -> float:
        return (point[0] + 2) ** 2 + 0.3 * (point[1] - 4) ** 2 - 0.5 * (point[0] + 2) * (point[1] - 4)

    seen = walk(loss_at, (0, 2), most=40)
    assert min(seen, key=lambda p: seen[p]) == (-2, 4)
    assert list(seen)[:5] == [(0, 2), (1, 2), (-1, 2), (0, 3), (0, 1)]
    assert len(walk(loss_at, (0, 2), most=9)) == 9
    assert all(batch >= 0 for _, batch in walk(lambda p: p[0] ** 2 + p[1], (0, 1)))


def test_runs_are_made_once(tmp_path: Path) -> None:
    made = []

    def train(model: Model, rate: float, sequences: int, seed: int) -> dict[str, float]:
        made.append((rate, sequences))
        return {"loss": rate, "cpu_seconds": 1.0}

    model = Model("adam", 8, 1, 1000)
    runs = Runs(tmp_path / "runs.json", train=train)
    assert runs.at(model, (1, 3)) == 0.02
    again = Runs(tmp_path / "runs.json", train=train)
    assert again.at(model, (1, 3)) == 0.02
    assert made == [(0.02, 8)]
    assert again.cpu_minutes(["adam"]) == pytest.approx(1 / 60)
