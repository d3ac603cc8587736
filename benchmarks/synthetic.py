"""Regret of samplers on a bank of synthetic scaling problems, some of which break the law that ours assumes.

    python benchmarks/synthetic.py --samplers ours,random,CARBS --seeds 3

Regret: 1 - hypervolume of the noise-free losses of what was run / that of the true front, at shares of the
budget. Prints a table and writes JSON as it goes; runs that are in the JSON already are not made again.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from _problems import ASIDE, BANK, Problem
from _samplers import ABLATIONS, PEERS, Task, build, spend

from carbs_scaling.frontier import hypervolume

MARKS = (0.1, 0.3, 1.0)
# Ours with what it is told of the limit on trials.
TOLD = {
    "ours: n_trials": lambda max_trials: {"n_trials": max_trials},
    "ours: not told of the limit": lambda _: {},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--samplers", default="ours", help=f"some of: {', '.join([*ABLATIONS, *TOLD, *PEERS])}"
    )
    parser.add_argument(
        "--problems",
        default="",
        help="part of a problem's name; all of the bank by default; some others are asked for by name alone",
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=float, default=2.0, help="in dearest runs")
    parser.add_argument("--max-trials", type=int, default=80)
    parser.add_argument("--out", default="benchmarks/results/synthetic.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    out = Path(arguments.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(out.read_text()) if out.exists() else {}
    names = arguments.samplers.split(",")
    bank = [problem for problem in BANK if arguments.problems in problem.name]
    bank = bank or [problem for problem in ASIDE if arguments.problems in problem.name]
    for seed in range(arguments.seeds):
        for problem in bank:
            for name in names:
                key = f"{name}|{problem.name}|{arguments.budget:g}|{arguments.max_trials}|{seed}"
                if key not in results:
                    results[key] = one_run(name, problem, seed, arguments.budget, arguments.max_trials)
                    out.write_text(json.dumps(results, indent=1))
    print(as_table(results, names, bank, f"|{arguments.budget:g}|{arguments.max_trials}|"))


def one_run(name: str, problem: Problem, seed: int, budget: float, max_trials: int) -> dict:
    """Spends a budget of so many dearest runs on a problem."""
    noise = np.random.default_rng([7, seed])
    budget_flops = budget * problem.budget / 5
    task = Task(problem, budget_flops, problem.start, lambda point: problem.loss(point, noise))
    # Trials are capped here, so that ours is told that a trial is not free.
    options = {"overhead_flops": budget_flops / inverse_overhead(max_trials)}
    options = TOLD.get(name, lambda _: options)(max_trials)
    began = time.perf_counter()
    bought = spend(build("ours" if name in TOLD else name, task, seed, **options), task, max_trials)
    best = problem.best_area()
    ended = np.isfinite(bought.loss) & ~np.array([problem.diverges(point) for point in bought.points])
    truth = np.array([problem.true_loss(point) for point in bought.points])
    regret = []
    for mark in MARKS:
        done = [i for i in bought.within(mark * budget_flops) if ended[i]]
        regret.append(1 - hypervolume(bought.flops[done], truth[done], problem.reference) / best)
    return {
        "sampler": name,
        "problem": problem.name,
        "seed": seed,
        "regret": regret,
        "trials": len(bought.points),
        "failed": int((~ended).sum()),
        "spent": float(bought.flops.sum() / budget_flops),
        "seconds": time.perf_counter() - began,
        "fallbacks": bought.fallbacks,
    }


def inverse_overhead(max_trials: int) -> float:
    """A trial's overhead as the inverse share of the budget: half of it if all trials were free of FLOPs."""
    return 2.0 * max_trials


def as_table(results: dict, names: list[str], bank: list[Problem], setting: str) -> str:
    """Mean regret and standard error by problem and sampler, at each mark, and the mean over the bank."""
    head = ["problem", "law holds", *(f"{name} @{mark:.0%}" for name in names for mark in MARKS)]
    rows, means = [], []
    head = [word if "@100%" not in word else f"{word} (spent)" for word in head]
    for problem in bank:
        row, line = [problem.name, "yes" if problem.right_law else "no"], []
        for name in names:
            runs = [
                r
                for key, r in results.items()
                if r["sampler"] == name and r["problem"] == problem.name and setting in key
            ]
            regret = np.array([r["regret"] for r in runs])
            error = regret.std(axis=0, ddof=1) / np.sqrt(len(runs)) if len(runs) > 1 else np.zeros(len(MARKS))
            row += [f"{m:.4f} ±{e:.4f}" for m, e in zip(regret.mean(axis=0), error, strict=True)]
            row[-1] += f" ({np.mean([r['spent'] for r in runs]):.0%})"
            line += list(regret.mean(axis=0))
        rows.append(row)
        means.append(line)
    rows.append(["mean", "", *(f"{value:.4f}" for value in np.mean(means, axis=0))])
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


if __name__ == "__main__":
    main()
