"""Published language-model runs as a function to be searched: a grid of learning rates and batches.

A table has some 40 or 50 cells (N, D), each swept over learning rate and batch size. A point snaps to the
nearest trained (N, D) in logs scaled to the table's range; inside a cell the loss is interpolated linearly in
the logs of learning rate and batch, clamped to what was swept. Cost is 6 N D.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _runs_table import read_table
from optuna.distributions import FloatDistribution
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator
from scipy.spatial import QhullError

from carbs_scaling.frontier import hypervolume, pareto_front


@dataclass(frozen=True)
class Cell:
    """One (N, D) with its sweep.

    Args:
        params: non-embedding parameters N.
        tokens: training tokens D.
        rates: ln learning rates swept, shape (n,).
        batches: ln sequences a step swept, shape (n,).
        losses: shape (n,).
    """

    params: float
    tokens: float
    rates: np.ndarray
    batches: np.ndarray
    losses: np.ndarray

    @property
    def flops(self) -> float:
        """6 N D."""
        return 6.0 * self.params * self.tokens

    @property
    def best_loss(self) -> float:
        """Lowest loss of the sweep."""
        return float(self.losses.min())


class ReplayTable:
    """The table as a space, a cost and a loss.

    Args:
        path: the CSV file, one of `_runs_table.SOURCES`.
        max_params: cells above are left out.

    Raises:
        SystemExit: the file is absent or unknown; one line says what is meant.
    """

    def __init__(self, path: str | Path, max_params: float = np.inf) -> None:
        runs, source = read_table(path)
        self.name, self.sequence_length, self.start = source.name, source.sequence_length, source.start
        runs = runs[runs.params <= max_params]
        runs = runs.assign(batch_sequences=runs.batch_tokens / source.sequence_length)
        self.cells = [
            Cell(
                float(params),
                float(tokens),
                np.log(group.learning_rate.to_numpy()),
                np.log(group.batch_sequences.to_numpy()),
                group.loss.to_numpy(),
            )
            for (params, tokens), group in runs.groupby(["params", "tokens"])
        ]
        self._tables = [_interpolators(cell) for cell in self.cells]
        self._memory: dict[tuple, tuple[dict, int]] = {}
        self._logs = np.log([[cell.params, cell.tokens] for cell in self.cells])
        self._range = np.ptp(self._logs, axis=0)
        self.cell_flops = np.array([cell.flops for cell in self.cells])
        self.cell_best = np.array([cell.best_loss for cell in self.cells])
        cheapest = self.cell_best[np.argmin(self.cell_flops)]
        self.reference = (float(np.log10(self.cell_flops.max()) + 0.1), float(cheapest + 0.05))
        self.full_area = hypervolume(self.cell_flops, self.cell_best, self.reference)
        low, high = runs.min(), runs.max()
        self.distributions = {
            "params": FloatDistribution(low.params, high.params, log=True),
            "tokens": FloatDistribution(low.tokens, high.tokens, log=True),
            "learning_rate": FloatDistribution(low.learning_rate, high.learning_rate, log=True),
            "batch_sequences": FloatDistribution(low.batch_sequences, high.batch_sequences, log=True),
        }

    def project(self, point: dict) -> dict:
        """What is really run in place of `point`."""
        index = self._cell_index(point)
        cell = self.cells[index]
        rate = np.clip(np.log(point["learning_rate"]), cell.rates.min(), cell.rates.max())
        batch = np.clip(np.log(point["batch_sequences"]), cell.batches.min(), cell.batches.max())
        return {
            "params": cell.params,
            "tokens": cell.tokens,
            "learning_rate": float(np.exp(rate)),
            "batch_sequences": float(np.exp(batch)),
        }

    def flops(self, point: dict) -> float:
        """6 N D of a point as it stands."""
        return 6.0 * point["params"] * point["tokens"]

    def roles(self, point: dict) -> dict:
        """The roles of `CarbsSampler`."""
        return {
            "params": point["params"],
            "tokens": point["tokens"],
            "learning_rate": point["learning_rate"],
            "batch_tokens": point["batch_sequences"] * self.sequence_length,
        }

    def loss(self, point: dict) -> float:
        """Interpolated loss of a projected point; where the sweep has no run on all sides, the nearest's."""
        inner, outer = self._tables[self._cell_index(point)]
        at = (np.log(point["learning_rate"]), np.log(point["batch_sequences"]))
        value = float(inner(*at)) if inner is not None else float("nan")
        return value if np.isfinite(value) else float(outer(*at))

    def random_runs(self, count: int, max_params: float, seed: int) -> list[dict]:
        """Runs of the table of at most `max_params` parameters, drawn at random: points with their losses."""
        runs = [
            {
                "params": cell.params,
                "tokens": cell.tokens,
                "learning_rate": float(np.exp(rate)),
                "batch_sequences": float(np.exp(batch)),
                "loss": float(loss),
            }
            for cell in self.cells
            if cell.params <= max_params
            for rate, batch, loss in zip(cell.rates, cell.batches, cell.losses, strict=True)
        ]
        chosen = np.random.default_rng(seed).choice(len(runs), min(count, len(runs)), replace=False)
        return [runs[i] for i in chosen]

    def best_of(self, point: dict) -> float:
        """Lowest loss of the point's cell."""
        return self.cells[self._cell_index(point)].best_loss

    def area_regret(self, flops, loss) -> float:
        """1 - area of the runs' front / area of the whole table's front."""
        return 1.0 - hypervolume(flops, loss, self.reference) / self.full_area

    def oracle_regret(self, budgets, losses=None) -> np.ndarray:
        """Least regret that budgets (m,) can buy for one who knows what each cell's one run will end at.

        That is each cell's best run, or `losses` (one a cell).

        Exact but for rounding costs up to a `resolution` of the largest budget: a front is a chain of cells
        of rising cost and falling loss, so dynamic programming over (last cell bought, FLOPs spent) is a
        knapsack.
        """
        budgets = np.asarray(budgets, dtype=float)
        resolution = budgets.max() / 20_000
        front_order = np.argsort(self.cell_flops)
        costs = self.cell_flops[front_order]
        losses = (self.cell_best if losses is None else np.asarray(losses))[front_order]
        units = np.ceil(costs / resolution).astype(int)
        size = int(budgets.max() / resolution) + 1
        log_costs = np.log10(costs)
        # area[i, u]: most area left of cell i's cost when cell i was bought last and u units were spent.
        area = np.full((len(costs), size), -np.inf)
        best = np.zeros(size)
        for i in range(len(costs)):
            if losses[i] >= self.reference[1] or units[i] >= size:
                continue
            area[i, units[i] :] = 0.0
            for j in range(i):
                if losses[j] > losses[i]:
                    gained = area[j] + (log_costs[i] - log_costs[j]) * (self.reference[1] - losses[j])
                    area[i, units[i] :] = np.maximum(area[i, units[i] :], gained[: size - units[i]])
            closed = area[i] + (self.reference[0] - log_costs[i]) * (self.reference[1] - losses[i])
            best = np.maximum(best, closed)
        best = np.maximum.accumulate(best)
        return 1.0 - best[np.minimum((budgets / resolution).astype(int), size - 1)] / self.full_area

    def front_cells(self) -> list[Cell]:
        """Cells on the whole table's front, cheapest first."""
        return [self.cells[i] for i in pareto_front(self.cell_flops, self.cell_best)]

    def _cell_index(self, point: dict) -> int:
        at = np.log([point["params"], point["tokens"]])
        return int(np.argmin((((self._logs - at) / self._range) ** 2).sum(axis=1)))


def _interpolators(cell: Cell):
    points = np.column_stack([cell.rates, cell.batches])
    nearest = NearestNDInterpolator(points, cell.losses, rescale=True)
    try:
        return LinearNDInterpolator(points, cell.losses, rescale=True), nearest
    except QhullError:
        return None, nearest
