"""What the best recipe for a model beyond the search costs, on published language-model runs.

Searches cells up to 4.3e8 parameters under a budget, with the target given to the sampler, then reads the
learning rate and batch of two cells of 1.07e9 parameters, of which nothing was seen, off `best_recipe`.
Prints how much they lose to the best run of those cells. Of another table, sizes and cells are said:

    python benchmarks/extrapolate.py --table loss_all_exps_post_annealing.csv --budget 7e21 \
        --max-params 6e8 --targets 983138304:8e10 1713504256:3e10 1713504256:3e11
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from _replay_table import ReplayTable
from _samplers import Task, spend

from carbs_scaling.samplers.carbs import CarbsSampler
from carbs_scaling.samplers.sampler import new_study

TARGETS = ("1.07e9:2e10", "1.07e9:5.69e10")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", default="../shared/data/lm_lr_batch_runs.csv", help="CSV of the runs")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--budget", type=float, default=1e21, help="training FLOPs")
    parser.add_argument("--max-params", type=float, default=4.3e8, help="of the cells that are searched")
    parser.add_argument("--targets", nargs="+", default=TARGETS, metavar="N:D", help="the first is given")
    parser.add_argument("--without-target", action="store_true", help="search for the front alone")
    parser.add_argument("--out", default="benchmarks/results/extrapolate.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    whole, seen = ReplayTable(arguments.table), ReplayTable(arguments.table, arguments.max_params)
    task = Task(seen, arguments.budget, seen.start, seen.loss)
    targets = [tuple(float(part) for part in target.split(":")) for target in arguments.targets]
    out = Path(arguments.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        target = None if arguments.without_target else targets[0]
        sampler = CarbsSampler(
            seen.distributions,
            seen.flops,
            seen.roles,
            seen.project,
            budget_flops=arguments.budget,
            target=target,
            seed=seed,
        )
        bought = spend(sampler, task)
        rows.append(
            {"seed": seed, "trials": len(bought.points), "lost": lost(sampler, bought, whole, targets)}
        )
        out.write_text(json.dumps(rows, indent=1))
        print(seed, len(bought.points), *(f"{value:.4f}" for value in rows[-1]["lost"]), flush=True)
    losses = np.array([row["lost"] for row in rows])
    for (params, tokens), values in zip(targets, losses.T, strict=True):
        error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
        print(f"N {params:.3g} D {tokens:.3g}: {values.mean():.4f} ±{error:.4f} above the cell's best run")


def lost(sampler: CarbsSampler, bought, whole: ReplayTable, targets) -> list[float]:
    """Loss above the best run of each target's cell, at the recipe of the law of its runs."""
    study = new_study(sampler)
    for point, flops, loss in zip(bought.points, bought.flops, bought.loss, strict=True):
        study.enqueue_trial(point)
        study.tell(study.ask(sampler.space.encoding.distributions), [loss, flops])
    found = []
    for params, tokens in targets:
        recipe = sampler.best_recipe(study, params, tokens)
        point = whole.project(
            {
                "params": params,
                "tokens": tokens,
                "learning_rate": recipe.learning_rate,
                "batch_sequences": recipe.batch_tokens / whole.sequence_length,
            }
        )
        best = min(
            c.best_loss for c in whole.cells if (c.params, c.tokens) == (point["params"], point["tokens"])
        )
        found.append(whole.loss(point) - best)
    return found


if __name__ == "__main__":
    main()
