"""What continuing can save at most: front runs bought by a law that is known, on a synthetic problem.

    OMP_NUM_THREADS=1 python benchmarks/continued_limits.py

Nothing is learnt: every run has the best rate for its N, D and batch, and every loss is known. Policies:

    plan          least FLOPs for a front, by dynamic programming over cost, and N of the chain
    greedy        most gain of the front per FLOP paid, run by run
    ahead, w      the same; a run is also worth w times the best gain per FLOP of its continuations

The share is FLOPs paid by continued runs over those by fresh ones at the same regret. Of the plan it is
interpolated between fronts of rising size; of the others it is the median over fresh's own regrets.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from _problems import BANK, HEAD_SIZE, Problem

from carbs_scaling.frontier import pareto_front

DECAY = 0.3
SIZES, LENGTHS, STEPS = 30, 90, 2000
RATIO = 0.015  # of the bank's valleys: loss per squared factor of e off the best batch, which goes as D^(1/2)


class Grid:
    """Runs by N and D, and the area that they leave below the reference.

    Args:
        problem: one whose batch has the bank's valley.
        budget: in dearest runs.
        least: FLOPs of the cheapest run, in budgets.
        penalty: loss of a run with a short decay above one with a cosine.
    """

    def __init__(self, problem: Problem, budget: float, least: float, penalty: float) -> None:
        self.budget, (top, self.reference) = budget * problem.budget / 5, problem.reference
        widths = np.arange(128, 1025, HEAD_SIZE, dtype=float)
        every = np.unique(12 * np.arange(2, 13)[:, None] * widths[None] ** 2)
        near = np.searchsorted(every, np.geomspace(every[0], every[-1], SIZES))
        self.params = every[np.unique(near.clip(0, len(every) - 1))]
        self.tokens = np.geomspace(1e8, 1e10, LENGTHS)
        n, d = np.meshgrid(self.params, self.tokens, indexing="ij")
        self.flops, self.floor, self.penalty = 6 * n * d, problem.floor(n, d), penalty
        self.allowed = self.flops >= least * self.budget
        self.best = problem.best_area(least * self.budget)
        lowest = self.flops[self.allowed].min()
        self.log_cost = np.linspace(np.log10(lowest), top, STEPS)
        self.wide = self.log_cost[1] - self.log_cost[0]
        self.start = np.searchsorted(self.log_cost, np.log10(self.flops)).clip(0, STEPS)
        off = np.log(self.tokens[:, None] / self.tokens[None]) / 2
        self.drift = RATIO * off**2  # of a run with the batch that is best for another length

    def gain(self, level: np.ndarray, start: np.ndarray, loss: np.ndarray) -> np.ndarray:
        """Growth of the area by runs that begin at `start`, given the best loss so far at each cost."""
        total = np.concatenate([[0.0], np.cumsum(level)])
        end = np.maximum(np.searchsorted(-level, -loss), start)
        return np.maximum(total[end] - total[start] - (end - start) * loss, 0.0) * self.wide


def greedy(grid: Grid, overhead: float, continued: bool, share: float = 0.0) -> np.ndarray:
    """(FLOPs paid in budgets, regret) after each run, until the budget is spent."""
    extra = overhead * grid.budget
    level = np.full(STEPS, grid.reference)
    base = grid.floor + (grid.penalty if continued else 0.0)
    moved = base[:, None, :] + grid.drift[None]  # by N, the length of the batch, own length
    start = np.broadcast_to(grid.start[:, None, :], moved.shape)
    per = 6 * grid.params[:, None, None]
    later = per * (grid.tokens[None, None] - (1 - DECAY) * grid.tokens[None, :, None]) + extra
    longer = grid.tokens[None] > 1.02 * grid.tokens[:, None]
    trunks: list[tuple[int, int, int]] = []
    paid, found = 0.0, []
    while paid < grid.budget and len(found) < 400:
        gains = np.where(grid.allowed[:, None], grid.gain(level, start, moved), 0.0)
        own = np.where(grid.allowed, grid.gain(level, grid.start, base), 0.0)
        score = own / (grid.flops + extra)
        if share:
            first = grid.gain(level, start, np.broadcast_to(base[:, :, None], moved.shape))
            more = np.where(longer[None], np.maximum(gains - first, 0.0) / later, 0.0)
            score = score + share * more.max(axis=-1)
        i, b = np.unravel_index(int(np.argmax(score)), score.shape)
        best = score[i, b], int(i), int(b), int(b), grid.flops[i, b], base[i, b]
        for n, batch, length in trunks if continued else ():
            price = 6 * grid.params[n] * (grid.tokens - (1 - DECAY) * grid.tokens[length])
            after = np.arange(LENGTHS) > length
            own = gains[n, batch] / (price + extra)
            if share:
                lost = np.broadcast_to(moved[n, batch][:, None], (LENGTHS, LENGTHS))
                first = grid.gain(level, np.broadcast_to(grid.start[n][None], lost.shape), lost)
                more = np.where(longer, np.maximum(gains[n, batch][None] - first, 0.0) / later[n], 0.0)
                own = own + share * more.max(axis=-1)
            own = np.where(after, own, 0.0)
            d = int(np.argmax(own))
            if own[d] > best[0]:
                best = own[d], n, batch, d, price[d], moved[n, batch, d]
        _, n, batch, d, price_now, loss = best
        trunks.append((n, batch, d))
        paid += float(price_now)
        level = np.where(np.arange(STEPS) >= grid.start[n, d], np.minimum(level, loss), level)
        area = float((grid.reference - level).sum()) * grid.wide
        found.append((paid / grid.budget, 1 - area / grid.best))
    return np.array(found)


def plans(grid: Grid, problem: Problem, continued: bool, worths: np.ndarray, costs: int = 90) -> np.ndarray:
    """(FLOPs paid in budgets, regret) of the best fronts for worths of area, at the best batch."""
    lowest, top = grid.flops[grid.allowed].min(), grid.flops.max()
    cost = np.geomspace(lowest, top, costs)
    x, end = np.log10(cost), grid.log_cost[-1]
    tokens = cost[None] / (6 * grid.params[:, None])
    inside = (tokens >= grid.tokens[0]) & (tokens <= grid.tokens[-1] * 1.0001)
    loss = np.where(inside, problem.floor(grid.params[:, None] + 0 * tokens, tokens), 1e9)
    loss = loss + (grid.penalty if continued else 0.0)
    price = cost / grid.budget
    found = []
    for worth in worths:
        # (FLOPs, area under the front) from a last run of cost j and size n on.
        paid, under = np.zeros((2, costs, len(grid.params)))
        for j in range(costs - 1, -1, -1):
            ways = [(np.zeros(len(grid.params)), loss[:, j] * (end - x[j]))]
            for k in range(j + 1, costs):
                along = loss[:, j] * (x[k] - x[j])
                n = int(np.argmin(paid[k] + worth * under[k]))
                ways.append((np.full(len(along), price[k] + paid[k, n]), along + under[k, n]))
                if continued:
                    ways.append((price[k] - (1 - DECAY) * price[j] + paid[k], along + under[k]))
            flops, area = (np.array([way[part] for way in ways]) for part in (0, 1))
            chosen = np.argmin(flops + worth * area, axis=0)
            paid[j], under[j] = (np.take_along_axis(of, chosen[None], 0)[0] for of in (flops, area))
        whole = paid + price[:, None]
        area = under + grid.reference * (x - x[0])[:, None]
        j, n = np.unravel_index(int(np.argmin(whole + worth * area)), whole.shape)
        below = grid.reference * (end - x[0]) - area[j, n]
        found.append((whole[j, n], 1 - below / grid.best))
    return np.array(found)


def shares(fresh: np.ndarray, own: np.ndarray, goals: np.ndarray) -> np.ndarray:
    """FLOPs of `own` over those of `fresh` at regrets, interpolated in logs along their fronts."""

    def needed(runs: np.ndarray) -> np.ndarray:
        rows = runs[pareto_front(runs[:, 0], runs[:, 1])]
        return np.interp(np.log(goals), np.log(rows[::-1, 1]), np.log(rows[::-1, 0]))

    return np.exp(needed(own) - needed(fresh))


def main() -> None:
    """Prints the share of fresh's FLOPs for each policy."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--budget", type=float, default=6.667, help="in dearest runs")
    parser.add_argument("--least", type=float, default=0.001, help="FLOPs of the cheapest run, in budgets")
    parser.add_argument("--overhead", type=float, default=0.0025, help="of a trial, in budgets")
    parser.add_argument("--penalty", type=float, default=0.001)
    parser.add_argument("--shares", default="0.25,0.5,1", help="weights of the look ahead")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/continued_limits.json"))
    options = parser.parse_args()
    problem, result = BANK[0], {}
    grid = Grid(problem, options.budget, options.least, options.penalty)
    worths = np.geomspace(0.2, 10, 7)
    fresh, own = (plans(grid, problem, continued, worths) for continued in (False, True))
    goals = fresh[1:-1, 1]
    result["plan"] = dict(zip([f"{goal:.4f}" for goal in goals], shares(fresh, own, goals), strict=True))
    print("plan:", "  ".join(f"{share:.2f} at regret {goal}" for goal, share in result["plan"].items()))
    fresh = greedy(grid, options.overhead, False)
    late = fresh[fresh[:, 0] > 0.03]
    for name, weight in [("greedy", 0.0)] + [(f"ahead, {w}", float(w)) for w in options.shares.split(",")]:
        own = greedy(grid, options.overhead, True, weight)
        reached = late[late[:, 1] >= own[:, 1].min()]
        result[name] = shares(fresh, own, reached[:, 1])
        spread = np.quantile(result[name], (0.25, 0.5, 0.75))
        print(
            f"{name}: median share {spread[1]:.2f} (quartiles {spread[0]:.2f}, {spread[2]:.2f})", flush=True
        )
        result[name] = spread.tolist()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
