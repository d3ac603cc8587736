"""Regret of every sampler on published language-model runs, at shares of one FLOP budget.

    python benchmarks/replay.py --samplers ours,CARBS,TPE --seeds 10

Regret: 1 - hypervolume / that of the whole table's front, in (log10 FLOPs, loss). Single runs cost up to 4%
of the budget, so a mark says much about whether one of them ended just before or just after it: `around` is
the mean over shares within a factor of 1.4 of the mark. In brackets what is left of it when every run is
taken to have been its cell's best: the choice of cells, without what rate and batch lost inside them. Prints
a table and writes JSON as it goes; runs that are in the JSON already are not made again.

With `--history 100` so many random runs of the table of at most 1.2e8 parameters are given for nothing. They
count for the regret, also for `NAME (not told)`, the same search that did not know of them.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from _peers import KINDS
from _replay_table import ReplayTable
from _samplers import ABLATIONS, PEERS, Task, build, spend

MARKS = (0.05, 0.10, 0.20, 0.40, 0.70, 1.00)
AROUND = {
    "around 5%": np.geomspace(0.035, 0.07, 12),
    "around 10%": np.geomspace(0.07, 0.14, 12),
    "around 20%": np.geomspace(0.14, 0.28, 12),
}
HISTORY_PARAMS = 1.2e8  # of the largest model of a run that is given
NOT_TOLD = " (not told)"
ALL = [*ABLATIONS, *(name for name in PEERS if name not in ("Ax", *KINDS))]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", default="../shared/data/lm_lr_batch_runs.csv", help="CSV of the runs")
    parser.add_argument(
        "--samplers", default="ours", help=f"'all', or some of: {', '.join([*ABLATIONS, *PEERS])}"
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--budget", type=float, default=3e21, help="training FLOPs")
    parser.add_argument("--max-trials", type=int, default=500)
    parser.add_argument("--history", type=int, default=0, help="runs that are given for nothing")
    parser.add_argument("--until", type=float, default=1.0, help="share of the budget at which to stop")
    parser.add_argument("--out", default="benchmarks/results/replay.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = ReplayTable(arguments.table)
    task = Task(table, arguments.budget, table.start, table.loss)
    names = ALL if arguments.samplers == "all" else arguments.samplers.split(",")
    out = Path(arguments.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(out.read_text()) if out.exists() else {}
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        for name in names:
            key = f"{name}|{arguments.budget:g}|{seed}"
            free = table.random_runs(arguments.history, HISTORY_PARAMS, seed)
            if free:
                key = f"{key}|{arguments.history}"
            if key in results:
                continue
            began = time.perf_counter()
            sampler = build(name.removesuffix(NOT_TOLD), task, seed)
            told = [] if name.endswith(NOT_TOLD) else free
            bought = spend(sampler, task, arguments.max_trials, history=told, until=arguments.until)
            bought = with_free(bought, free, task)
            results[key] = {
                "sampler": name,
                "budget": arguments.budget,
                "seed": seed,
                "regret": [regret_at(table, bought, mark * arguments.budget) for mark in MARKS],
                "around": around_marks(table, bought, arguments.budget),
                "choice": around_marks(table, as_cells_best(table, bought), arguments.budget),
                "ends_at": share_to_reach(table, bought, arguments.budget),
                "history": len(free),
                "until": arguments.until,
                "trials": len(bought.points) - len(free),
                "seconds_a_proposal": float(np.mean(bought.seconds)),
                "seconds": time.perf_counter() - began,
                "fallbacks": bought.fallbacks,
            }
            out.write_text(json.dumps(results, indent=1))
    given = arguments.history, arguments.until
    results = {k: r for k, r in results.items() if (r.get("history", 0), r.get("until", 1.0)) == given}
    print(as_table(results, names, arguments.budget, table))


def with_free(bought, free: list[dict], task: Task):
    """The purchases after the runs that cost nothing."""
    points = [{k: v for k, v in run.items() if k != "loss"} for run in free]
    flops = np.array([task.problem.flops(point) for point in points])
    return replace(
        bought,
        points=[*points, *bought.points],
        flops=np.append(flops, bought.flops),
        loss=np.append([run["loss"] for run in free], bought.loss),
        paid=np.append(np.zeros(len(free)), bought.flops),
    )


def regret_at(table: ReplayTable, bought, flops: float) -> float:
    """Regret when `flops` had been spent."""
    done = bought.within(flops)
    return table.area_regret(bought.flops[done], bought.loss[done])


def around_marks(table: ReplayTable, bought, budget: float) -> dict[str, float]:
    """Regrets averaged around each mark."""
    return {
        name: float(np.mean([regret_at(table, bought, share * budget) for share in shares]))
        for name, shares in AROUND.items()
    }


def as_cells_best(table: ReplayTable, bought):
    """The same purchases, had each run been the best of its cell."""
    return replace(bought, loss=np.array([table.best_of(point) for point in bought.points]))


def share_to_reach(table: ReplayTable, bought, budget: float) -> dict[str, float | None]:
    """Share of the budget at which regrets of .1, .05, .034, .02 and .01 were reached, None where never."""
    spent = np.cumsum(bought.charged)
    regrets = [table.area_regret(bought.flops[: i + 1], bought.loss[: i + 1]) for i in range(len(spent))]
    reached = {}
    for level in (0.1, 0.05, 0.034, 0.02, 0.01):
        below = np.flatnonzero(np.asarray(regrets) <= level)
        reached[str(level)] = float(spent[below[0]] / budget) if len(below) else None
    return reached


def around(runs: list[dict]) -> list[str]:
    """Mean and standard error of the smoothed regrets, and what the choice of cells alone leaves of them.

    A file of older runs may lack either.
    """
    cells = []
    for name in AROUND:
        values = [run["around"][name] for run in runs if "around" in run]
        choice = [run["choice"][name] for run in runs if "choice" in run]
        error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
        cell = f"{np.mean(values):.4f} ±{error:.4f}" if values else "-"
        cells.append(f"{cell} ({np.mean(choice):.4f})" if choice and len(choice) == len(values) else cell)
    return cells


def as_table(results: dict, names: list[str], budget: float, table: ReplayTable) -> str:
    """Mean regret and its standard error at each mark, the oracle's on top."""
    head = [
        "sampler",
        "seeds",
        *(f"{mark:.0%}" for mark in MARKS),
        *AROUND,
        "to .034",
        "trials",
        "s/proposal",
        "fallbacks",
    ]
    oracle = table.oracle_regret(np.asarray(MARKS) * budget)
    smooth = [f"{table.oracle_regret(shares * budget).mean():.4f}" for shares in AROUND.values()]
    rows = [["oracle", "-", *(f"{value:.4f}" for value in oracle), *smooth, "-", "-", "-", "-"]]
    for name in names:
        runs = [r for r in results.values() if r["sampler"] == name and r["budget"] == budget]
        if not runs:
            continue
        regret = np.array([r["regret"] for r in runs])
        error = regret.std(axis=0, ddof=1) / np.sqrt(len(runs)) if len(runs) > 1 else np.zeros(len(MARKS))
        reach = [r["ends_at"]["0.034"] for r in runs]
        rows.append(
            [
                name,
                str(len(runs)),
                *(f"{m:.4f} ±{e:.4f}" for m, e in zip(regret.mean(axis=0), error, strict=True)),
                *around(runs),
                "never" if None in reach else f"{np.mean(reach):.1%}",
                f"{np.mean([r['trials'] for r in runs]):.0f}",
                f"{np.mean([r['seconds_a_proposal'] for r in runs]):.2f}",
                str(sum(sum(r["fallbacks"].values()) for r in runs)),
            ]
        )
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
