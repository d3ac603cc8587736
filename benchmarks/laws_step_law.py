"""Recommendations for sizes that the law has not seen, on Step Law's table of 2,702 runs (arXiv 2503.04715).

    python benchmarks/laws_step_law.py python benchmarks/laws_step_law.py --runs 50              # from few
    runs instead of all, 10 seeds python benchmarks/laws_step_law.py --runs 50 --searched   # few runs that
    the search chooses for the target

Fitted on N <= 4.3e8, judged in the five cells of N = 1.07e9. The regret of a recommendation is the loss
there, linear in the logs of rate and batch and clamped to the sweep, less the cell's best run. Coverage: how
often the 90% interval holds the rate, the batch and the loss of the cell's best run, over resamples of the
fitted cells.
"""

import time

import numpy as np
from _laws_table import FIT_MAX_PARAMS, TARGET_MIN_PARAMS, arguments, step_law_runs, targets, write

from carbs_scaling import fit_law
from carbs_scaling.laws.published import BY_NAME

NAMES = ("learning_rate", "batch_tokens", "loss")
FLOPS_LIMIT = 1e21
SEARCH_TARGET = (1.07e9, 2e10)


def inside(recipe, target) -> list[bool]:
    """Whether the intervals hold what the cell's best run had."""
    real = (target.best_rate, target.best_batch, target.best_loss)
    bounds = [recipe.interval(name) for name in NAMES]
    return [bool(low <= value <= high) for (low, high), value in zip(bounds, real, strict=True)]


def exponents(law, runs) -> dict:
    """Exponents averaged over the table's cells with standard errors, beside Step Law's."""
    cells = runs.groupby(["params", "tokens"]).size().index
    step_law = {
        "learning_rate_N": (-0.713, 0.030),
        "learning_rate_D": (0.308, 0.019),
        "batch_tokens_N": (0.0, 0.0),
        "batch_tokens_D": (0.571, 0.019),
    }
    own = {
        "learning_rate_N": "a_N",
        "learning_rate_D": "a_D",
        "batch_tokens_N": "b_N",
        "batch_tokens_D": "b_D",
    }
    local = [law.exponents(n, d) for n, d in cells]
    print(
        f"{'exponent':20}{'at centre':>12}{'se':>8}{'over cells':>16}{'Step Law':>10}{'se':>8}"
        f"{'off/joint se':>14}"
    )
    figures = {}
    for name, (published, error) in step_law.items():
        value, se = law.parameter(own[name]), law.standard_error(own[name])
        values = [cell[name] for cell in local]
        off = (value - published) / np.hypot(se, error)
        print(
            f"{name:20}{value:12.3f}{se:8.3f}{min(values):8.2f}..{max(values):<6.2f}{published:10.3f}{error:8.3f}{off:14.2f}"
        )
        figures[name] = {
            "value": value,
            "se": se,
            "cells": [min(values), max(values)],
            "off_in_joint_se": off,
        }
    return figures


def held_out(runs, cells) -> dict:
    """One fit on the small sizes, judged in every target cell, beside published laws."""
    began = time.perf_counter()
    law = fit_law(runs)
    seconds = time.perf_counter() - began
    print(
        f"\n{len(runs)} runs of N <= {FIT_MAX_PARAMS:.2g}, fitted and checked in {seconds:.1f} s\n"
        f"{law.formula()}"
    )
    print(f"held out while fitting: {law.held_out}")
    laws = {name: BY_NAME[name] for name in ("Step Law", "DeepSeek")}
    print(
        f"{'D':>8}{'lr':>10}{'best':>10}{'batch':>10}{'best':>10}{'loss':>8}{'best':>8}{'regret':>9}",
        *(f"{n:>10}" for n in laws),
    )
    rows = []
    for target in cells:
        recipe = law.recommend(target.params, target.tokens)
        beside = {
            name: target.regret(other.recipe(target.params, target.tokens)) for name, other in laws.items()
        }
        row = {
            "tokens": target.tokens,
            "regret": target.regret(recipe),
            "loss_error": recipe.loss - target.best_loss,
            "inside": inside(recipe, target),
            "published_regret": beside,
        }
        rows.append(row)
        print(
            f"{target.tokens:8.2g}{recipe.learning_rate:10.2e}{target.best_rate:10.2e}{recipe.batch_tokens:10.3g}"
            f"{target.best_batch:10.3g}{recipe.loss:8.4f}{target.best_loss:8.4f}{row['regret']:9.4f}",
            *(f"{value:10.4f}" for value in beside.values()),
        )
    regret = float(np.mean([row["regret"] for row in rows]))
    errors = np.array([row["loss_error"] for row in rows])
    print(
        f"mean regret {regret:.4f} ("
        + ", ".join(f"{n} {np.mean([r['published_regret'][n] for r in rows]):.4f}" for n in laws)
        + f"); loss error: mean {errors.mean():+.4f}, rms {np.sqrt((errors**2).mean()):.4f}, "
        f"worst {np.abs(errors).max():.4f}"
    )
    return {
        "mean_regret": regret,
        "loss_error_rms": float(np.sqrt((errors**2).mean())),
        "seconds": seconds,
        "cells": rows,
    }


def coverage(runs, cells, resamples: int) -> dict:
    """Coverage of 90% intervals over bootstrap resamples of the fitted cells."""
    groups = [group for _, group in runs.groupby(["params", "tokens"])]
    import pandas as pd

    held, regrets = [], []
    for seed in range(resamples):
        chosen = np.random.default_rng(seed).integers(0, len(groups), len(groups))
        law = fit_law(pd.concat([groups[i] for i in chosen]), check=True)
        for target in cells:
            recipe = law.recommend(target.params, target.tokens)
            held.append(inside(recipe, target))
            regrets.append(target.regret(recipe))
    share = np.mean(held, axis=0)
    print(f"\ncoverage of 90% intervals over {resamples} resamples x {len(cells)} cells: "
          + ", ".join(f"{n} {s:.0%}" for n, s in zip(NAMES, share, strict=True))
          + f"; all {share.mean():.0%}; mean regret {np.mean(regrets):.4f}")  # fmt: skip
    return {
        **dict(zip(NAMES, share.tolist(), strict=True)),
        "all": float(share.mean()),
        "mean_regret": float(np.mean(regrets)),
    }


def searched_runs(path: str, count: int, seed: int):
    """The first `count` runs of N <= 4.3e8 that the search buys for a target, within 1e21 FLOPs."""
    import pandas as pd
    from _replay_table import START, ReplayTable
    from _samplers import Task, spend

    from carbs_scaling.sampler import CarbsSampler

    seen = ReplayTable(path, max_params=FIT_MAX_PARAMS)
    sampler = CarbsSampler(
        seen.distributions,
        seen.flops,
        seen.roles,
        seen.project,
        budget_flops=FLOPS_LIMIT,
        target=SEARCH_TARGET,
        seed=seed,
    )
    bought = spend(sampler, Task(seen, FLOPS_LIMIT, START, seen.loss))
    runs = pd.DataFrame([seen.roles(seen.project(point)) for point in bought.points])
    return runs.assign(loss=bought.loss).iloc[:count]


def blind_runs(runs, count: int, seed: int):
    """Runs within 1e21 FLOPs, drawn without looking at their losses: cheaper ones more often."""
    flops = 6 * runs.params * runs.tokens
    rng = np.random.default_rng(seed)
    order = rng.choice(len(runs), len(runs), replace=False, p=(1 / flops / (1 / flops).sum()).to_numpy())
    chosen, spent = [], 0.0
    for index in order:
        if len(chosen) < count and spent + flops.iloc[index] <= FLOPS_LIMIT:
            chosen.append(index)
            spent += flops.iloc[index]
    return runs.iloc[chosen]


def few_runs(choose, cells, seeds: int) -> dict:
    """A fit on each of the choices `choose(seed)`, judged in every target cell."""
    rows = []
    for seed in range(seeds):
        runs = choose(seed)
        spent = float((6 * runs.params * runs.tokens).sum())
        law = fit_law(runs)
        recipes = [law.recommend(t.params, t.tokens) for t in cells]
        regret = float(np.mean([t.regret(r) for t, r in zip(cells, recipes, strict=True)]))
        error = float(np.mean([abs(r.loss - t.best_loss) for t, r in zip(cells, recipes, strict=True)]))
        held = np.mean([inside(r, t) for t, r in zip(cells, recipes, strict=True)], axis=0)
        rows.append(
            {
                "seed": seed,
                "runs": len(runs),
                "flops": spent,
                "regret": regret,
                "loss_error": error,
                "coverage": held.tolist(),
            }
        )
        print(
            f"seed {seed}: {len(runs)} runs, {spent:.2g} FLOPs, mean regret {regret:.4f}, "
            f"loss off {error:.4f}, inside {held}"
        )
    print(
        f"mean regret {np.mean([r['regret'] for r in rows]):.4f}, "
        f"coverage {np.mean([r['coverage'] for r in rows]):.0%}"
    )
    return {"mean_regret": float(np.mean([r["regret"] for r in rows])), "seeds": rows}


def main() -> None:
    """Prints the tables and writes the figures."""
    parser = arguments(__doc__, "../shared/data/lm_lr_batch_runs.csv")
    parser.add_argument("--runs", type=int, default=0, help="fit on so many of the runs instead of all")
    parser.add_argument("--searched", action="store_true", help="let the search choose those runs")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--resamples", type=int, default=20)
    options = parser.parse_args()
    table = step_law_runs(options.data)
    small, cells = table[table.params <= FIT_MAX_PARAMS], targets(table[table.params >= TARGET_MIN_PARAMS])
    if options.runs:

        def choose(seed: int):
            if options.searched:
                return searched_runs(options.data, options.runs, seed)
            return blind_runs(small, options.runs, seed)

        kind = "searched" if options.searched else "blind"
        print(f"{options.runs} runs within {FLOPS_LIMIT:.0e} FLOPs, {kind}")
        figures = {"few_runs": few_runs(choose, cells, options.seeds)}
    else:
        print("all sizes:")
        figures = {"exponents": exponents(fit_law(table, check=False), table)}
        figures["held_out"] = held_out(small, cells)
        figures["coverage"] = coverage(small, cells, options.resamples)
    write(options.output, figures)


if __name__ == "__main__":
    main()
