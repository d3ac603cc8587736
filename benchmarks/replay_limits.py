"""How good any search of the replay table could be: what is lost by not knowing, and by buying in one order.

    python benchmarks/replay_limits.py --seeds 6

Regrets as in `replay.py`, of
- the oracle, which knows each cell's best run and may buy anew for every mark;
- the oracle whose runs are not the best of their cells but each cell's one run at the recipe of `fit_law` on
  all of the table;
- one order of purchases by gain per FLOP, after a design of .4% of the budget, every cell's best run known;
- the same where every run ends on average so much above its cell's best, and the buyer knows that;
- the search with the law known: its prior is centred on the law of all the table's runs, a tenth as wide.
"""

import argparse
from dataclasses import dataclass

import numpy as np
import torch
from _replay_table import ReplayTable
from _runs_table import read_table
from _samplers import Task, build, spend
from replay import AROUND, MARKS, regret_at

from carbs_scaling import fit_law
from carbs_scaling.acquisition.front_gain import FrontLevels, expected_front_gain
from carbs_scaling.laws.fit.law_fit import fit_plain_law
from carbs_scaling.laws.prior.prior import LawPrior, law_prior
from carbs_scaling.samplers import candidates, target_search
from carbs_scaling.surrogate import fit

DESIGN_SHARE = 0.004


@dataclass(frozen=True)
class Purchases:
    """Runs in the order in which they were bought.

    Args:
        flops: shape (n,).
        loss: shape (n,).
        totals: FLOPs spent when each had ended, shape (n,).
    """

    flops: np.ndarray
    loss: np.ndarray
    totals: np.ndarray

    def regret(self, table: ReplayTable, flops: float) -> float:
        """When `flops` had been spent."""
        done = self.totals <= flops
        return table.area_regret(self.flops[done], self.loss[done])


def one_order(table: ReplayTable, budget: float, excess: float, seed: int) -> Purchases:
    """A greedy buyer whose runs end `excess` above the best on average."""
    rng = np.random.default_rng(seed)
    cheapest = int(np.argmin(table.cell_flops))
    flops, loss = [table.cell_flops[cheapest]], [table.cell_best[cheapest] + 0.03]
    spent = flops[0] + DESIGN_SHARE * budget
    totals, visits = [spent], np.zeros(len(table.cells))
    log_cost = np.log10(table.cell_flops)
    while len(flops) < 300:
        front = FrontLevels.of(flops, loss, log_cost.min(), table.reference)
        expected = excess * np.exp(-len(flops) / 60)
        sd = np.maximum(expected, 1e-3) * 0.8**visits
        # An improvement below .001 is noise.
        mean = torch.from_numpy(table.cell_best + expected + 0.001)[None]
        parts = mean, torch.from_numpy(sd)[None], torch.from_numpy(log_cost)
        gain = expected_front_gain(torch.ones(1, dtype=torch.float64), *parts, front).numpy()
        affordable = table.cell_flops <= budget - spent
        if not affordable.any():
            break
        best = int(np.argmax(np.where(affordable, gain / table.cell_flops, -1.0)))
        spent += table.cell_flops[best]
        visits[best] += 1
        flops.append(table.cell_flops[best])
        loss.append(table.cell_best[best] + (rng.exponential(expected) if excess else 0.0))
        totals.append(spent)
    return Purchases(np.array(flops), np.array(loss), np.array(totals))


def losses_by_law(table: ReplayTable, path: str) -> np.ndarray:
    """Each cell's loss at the rate and batch that the law of all runs recommends for it, shape (cells,)."""
    law = fit_law(read_table(path)[0], check=False)
    losses = []
    for cell in table.cells:
        recipe = law.recommend(cell.params, cell.tokens)
        batch = recipe.batch_tokens / table.sequence_length
        point = {"params": cell.params, "tokens": cell.tokens, "learning_rate": recipe.learning_rate}
        losses.append(table.loss(table.project(point | {"batch_sequences": batch})))
    return np.array(losses)


def know_the_law(path: str) -> None:
    """Centres the law's prior on all runs of the table, a tenth as wide; for this process."""
    runs, _ = read_table(path)
    logs = np.log(runs[["params", "tokens", "learning_rate", "batch_tokens"]].to_numpy())
    loss, known = runs.loss.to_numpy(), {}

    def informed(level, centre, *roles_and_ranges):
        prior = law_prior(level, centre, *roles_and_ranges)
        if centre not in known:
            features = logs - np.asarray(centre)
            known[centre] = fit_plain_law(features, loss, law_prior(loss.min(), centre)).theta
        return LawPrior(known[centre], 0.1 * prior.sd, 0.1 * prior.shared)

    for module in (fit, candidates, target_search):
        module.law_prior = informed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", default="../shared/data/lm_lr_batch_runs.csv", help="CSV of the runs")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--budget", type=float, default=3e21, help="training FLOPs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table, budget = ReplayTable(arguments.table), arguments.budget
    shares = [np.array([mark]) for mark in MARKS] + list(AROUND.values())
    print("| | " + " | ".join([f"{mark:.0%}" for mark in MARKS] + list(AROUND)) + " |")
    print("| --- " * (len(shares) + 1) + "|")

    def show(name: str, rows: list[list[float]]) -> None:
        print(
            f"| {name} | " + " | ".join(f"{value:.4f}" for value in np.mean(rows, axis=0)) + " |", flush=True
        )

    show("oracle", [[float(table.oracle_regret(s * budget).mean()) for s in shares]])
    by_law = losses_by_law(table, arguments.table)
    show("oracle by law", [[float(table.oracle_regret(s * budget, by_law).mean()) for s in shares]])
    for excess in (0.0, 0.004, 0.008, 0.012):
        rows = []
        for seed in range(1 if excess == 0 else 40):
            bought = one_order(table, budget, excess, seed)
            rows.append([float(np.mean([bought.regret(table, f * budget) for f in s])) for s in shares])
        show(f"one order, runs {excess} above the best", rows)
    know_the_law(arguments.table)
    task, rows = Task(table, budget, table.start, table.loss), []
    for seed in range(arguments.seeds):
        bought = spend(build("ours", task, seed), task)
        rows.append([float(np.mean([regret_at(table, bought, f * budget) for f in s])) for s in shares])
    show(f"the search, law known ({arguments.seeds} seeds)", rows)


if __name__ == "__main__":
    main()
