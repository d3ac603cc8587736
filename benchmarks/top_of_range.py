"""What a weight on the lowest loss of all does to the front: variants of our search on known losses.

    python benchmarks/top_of_range.py --seeds 3                          # the default search, losses by a law
    python benchmarks/top_of_range.py --seeds 3 --table ../shared/data/lm_lr_batch_runs.csv   # published runs

The gain of a front is its area in (log10 FLOPs, loss) up to a corner some decades past the dearest run that
is allowed. The further that corner, the more a lower loss at the top counts. A variant `a` puts the corner
`a` decades away; `a+b` at a + b x (share of the budget spent)^2; `best` is `sampler.goal=best`. Printed are
the area of the best front known that is missing at 25 and 100% of the budget (losses without noise; the same
corner for all variants, .1 decade away, as `compare` measures), and how far the lowest loss of all lies above
the lowest that the dearest runs can have. Results are kept in a JSON file. A search takes about a minute.
"""

import argparse
import json
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from _replay_table import ReplayTable
from _samplers import Task, build, spend
from default_search import Truth

from carbs_scaling.errors import BudgetSpent
from carbs_scaling.files import write_atomically
from carbs_scaling.frontier import hypervolume
from carbs_scaling.ledger.history import History
from carbs_scaling.samplers.front_search import FrontSearch, FrontState
from carbs_scaling.samplers.sampler import new_study

OUR_DECADES = 0.1  # of `FrontSearch`
VARIANTS = ("0.1", "0.5", "1", "0.1+1", "0.1+3", "best")
MARKS = (0.25, 1.0)
PROBES = 4_000  # random points of which the best front is made


def corner(variant: str) -> Callable[[float], float]:
    """Decades past the dearest run by the share of the budget that is spent."""
    fixed, _, rising = variant.partition("+")
    return lambda spent: float(fixed) + float(rising or 0) * spent**2


@dataclass(frozen=True)
class Cornered(FrontSearch):
    """The search with its corner elsewhere.

    Args:
        decades: past the dearest run, by the share of the budget that is spent.
    """

    decades: Callable[[float], float] = field(default=lambda spent: OUR_DECADES)

    def _state(self, history: History, *known: Any) -> FrontState:
        state = super()._state(history, *known)
        budget = self.budget_flops
        spent = 0.0 if not budget else 1 - history.remaining_flops(budget) / budget
        end = state.reference[0] - OUR_DECADES + self.decades(float(np.clip(spent, 0, 1)))
        edges = torch.cat([state.front.edges[:-1], torch.tensor([end], dtype=torch.float64)])
        return replace(state, front=replace(state.front, edges=edges), reference=(end, state.reference[1]))


def with_corner(sampler: Any, variant: str) -> Any:
    """The sampler with a variant's corner, or its goal."""
    if variant == "best":
        sampler.options = replace(sampler.options, goal="best")
        return sampler
    plain = sampler.front_search

    def cornered(history: History) -> Cornered:
        own = plain(history)
        given = {part.name: getattr(own, part.name) for part in fields(own)}
        return Cornered(**given, decades=corner(variant))

    sampler.front_search = cornered
    return sampler


def default_search(variant: str, seed: int, budget: float | None) -> dict[str, list[float]]:
    """The default search on losses of a law with noise: FLOPs and losses without it, in order."""
    from hydra import compose, initialize_config_dir

    from carbs_scaling.cli import configuration_folder
    from carbs_scaling.commands.search import build_task, load_search
    from carbs_scaling.search import build_sampler

    overrides = [f"study.seed={seed}", *([] if budget is None else [
        f"budget.flops={budget}", f"budget.trial_overhead_flops={budget / 5}"])]  # fmt: skip
    with initialize_config_dir(str(configuration_folder()), version_base="1.3"):
        config, task_config = load_search(compose("search", overrides=overrides))
    task = build_task(config, task_config)
    sampler = with_corner(build_sampler(config, task), variant)
    study, rng, truth = new_study(sampler), np.random.default_rng(seed), Truth()
    found: dict[str, list[float]] = {"flops": [], "loss": []}
    while sampler.remaining_flops(study) >= config.budget.stop_below_fraction * config.budget.flops:
        try:
            trial = study.ask(task.space)
        except BudgetSpent:
            break
        flops = task.flops(trial.params)
        loss = truth.loss(task.legal.recipe(trial.params, seed=0))
        study.tell(trial, [loss * (1 + truth.noise * rng.normal()), flops])
        found["flops"].append(flops)
        found["loss"].append(loss)
    space = sampler.space
    points = space.encoding.points(np.random.default_rng(9).random((PROBES, space.encoding.knobs)))
    legal = [space.legal(point) for point in points]
    found["best_flops"] = [task.flops(point) for point in legal]
    found["best_loss"] = [truth.loss(task.legal.recipe(point, seed=0)) for point in legal]
    found["budget"] = [config.budget.flops]
    return found


def replay(table: ReplayTable, budget: float, variant: str, seed: int) -> dict[str, list[float]]:
    """The search on published runs."""
    task = Task(table, budget, table.start, table.loss)
    bought = spend(with_corner(build("ours", task, seed), variant), task)
    return {
        "flops": bought.flops.tolist(),
        "loss": bought.loss.tolist(),
        "best_flops": table.cell_flops.tolist(),
        "best_loss": table.cell_best.tolist(),
        "budget": [budget],
    }


def figures(searches: list[dict[str, list[float]]], all_searches: list[dict[str, list[float]]]) -> np.ndarray:
    """Missing area at each mark and lowest loss above the least known, by search, shape (n, 3)."""
    flops = np.concatenate([np.append(s["flops"], s["best_flops"]) for s in all_searches])
    loss = np.concatenate([np.append(s["loss"], s["best_loss"]) for s in all_searches])
    dearest = max(max(s["flops"]) for s in all_searches)
    loss = loss[flops <= dearest * (1 + 1e-9)]
    flops = flops[flops <= dearest * (1 + 1e-9)]
    reference = (
        float(np.log10(dearest) + 0.1),
        max(s["loss"][int(np.argmin(s["flops"]))] for s in all_searches),
    )
    full, least = hypervolume(flops, loss, reference), float(np.min(loss))
    rows = []
    for search in searches:
        spent = np.cumsum(search["flops"])
        row = []
        for mark in MARKS:
            done = spent <= mark * search["budget"][0] * (1 + 1e-9)
            area = hypervolume(np.array(search["flops"])[done], np.array(search["loss"])[done], reference)
            row.append(1 - area / full)
        rows.append([*row, min(search["loss"]) - least])
    return np.array(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", help="of published runs, instead of the default search")
    parser.add_argument("--budget", type=float, help="FLOPs; else 5e12, and 3e21 of a table")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/top_of_range.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    logging.disable(logging.WARNING)
    table = ReplayTable(arguments.table) if arguments.table else None
    known = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    of = f"{'default' if table is None else table.name} {arguments.budget or ''}"
    variants = arguments.variants.split(",")
    for seed in range(arguments.seeds):
        for variant in variants:
            key = f"{of} {variant} {seed}"
            if key not in known:
                known[key] = (
                    default_search(variant, seed, arguments.budget)
                    if table is None
                    else replay(table, arguments.budget or 3e21, variant, seed)
                )
                write_atomically(arguments.out, json.dumps(known).encode())
    mine = [found for key, found in known.items() if key.startswith(f"{of} ")]
    print("| corner, decades | seeds | missing at 25% | at 100% | lowest loss above the least | trials |")
    print("|" + " --- |" * 6)
    for variant in variants:
        searches = [known[f"{of} {variant} {seed}"] for seed in range(arguments.seeds)]
        rows = figures(searches, mine)
        error = rows.std(axis=0, ddof=1) / np.sqrt(len(rows)) if len(rows) > 1 else np.zeros(3)
        cells = [f"{m:.4f} ±{e:.4f}" for m, e in zip(rows.mean(axis=0), error, strict=True)]
        trials = np.mean([len(search["flops"]) for search in searches])
        print(f"| {variant} | {len(rows)} | {' | '.join(cells)} | {trials:.0f} |")


if __name__ == "__main__":
    main()
