"""Recommendations for sizes that the law has not seen, on Step Law's table of 2,702 runs (arXiv 2503.04715).

    python benchmarks/laws_step_law.py
    python benchmarks/laws_step_law.py --runs 50                     # from few runs, 10 seeds
    python benchmarks/laws_step_law.py --runs 50 --searched target   # few runs that the search chooses
    python benchmarks/laws_step_law.py --runs 50 --prior published   # leaning on published exponents

Fitted on N <= 4.3e8, judged in the five cells of N = 1.07e9. The regret of a recommendation is the loss
there, linear in the logs of rate and batch and clamped to the sweep, less the cell's best run. Coverage: how
often the 90% interval holds the rate, the batch and the loss of the cell's best run, and those of its
smoothed optimum, over resamples of the fitted cells.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from _laws_table import FIT_MAX_PARAMS, NAMES, TARGET_MIN_PARAMS, arguments, targets, write
from _runs_table import read_table

from carbs_scaling import fit_law
from carbs_scaling.laws.prior.published import BY_NAME

FLOPS_LIMIT = 1e21
SEARCH_TARGET = (1.07e9, 8e9)  # the middle of the five cells in ln D
LEAST_SWEPT, DRAWN_TABLES = 20, 200
LINES = np.array([["learning_rate_N", "batch_tokens_N"], ["learning_rate_D", "batch_tokens_D"]])


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
    local = [local_exponents(law, n, d) for n, d in cells]
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


def local_exponents(law, params: float, tokens: float) -> dict[str, float]:
    """Exponents of the learning rate and the batch at (N, D)."""
    h, found = 1e-3, {}
    for name in ("learning_rate", "batch_tokens"):
        for role, (n, d) in {"N": (h, 0.0), "D": (0.0, h)}.items():
            up, down = (getattr(law, name)(params * np.exp(s * n), tokens * np.exp(s * d)) for s in (1, -1))
            found[f"{name}_{role}"] = float(np.log(up / down) / (2 * h))
    return found


def lines_through_best_runs(law, runs) -> dict:
    """Exponents by straight lines through the best runs of each cell, on the table and on draws from the law.

    Were the law right, both would agree: that the best of some forty runs is a lucky one, and that best rate
    and batch of a cell lie off the law by its `spread`, is in the draws too.
    """
    rows = runs.reset_index(drop=True).groupby(["params", "tokens"])
    cells = [np.array(cell) for cell in rows.groups.values() if len(cell) >= LEAST_SWEPT]
    logs = np.log(runs[["params", "tokens", "learning_rate", "batch_tokens"]].to_numpy())
    place = np.array([logs[cell[0], :2] for cell in cells])
    own_cell = np.concatenate([np.full(len(cell), i) for i, cell in enumerate(cells)])
    swept = np.concatenate(cells)
    params, tokens, rates, batches = np.exp(logs[swept]).T
    floor = law.loss(params, tokens)

    def drawn_loss(rng: np.random.Generator) -> np.ndarray:
        off = np.exp(law.spread[1:] * rng.normal(size=(len(cells), 2)))[own_cell].T
        expected = law.run_loss(params, tokens, rates / off[0], batches / off[1])
        loss = np.full(len(runs), np.inf)
        noise = np.hypot(law.seed_sd, law.height_sd * (expected - floor))
        loss[swept] = expected + noise * rng.normal(size=len(swept))
        return loss

    def exponents_of(loss: np.ndarray, best: int) -> np.ndarray:
        recipes = [logs[cell[np.argsort(loss[cell])[:best]], 2:].mean(axis=0) for cell in cells]
        return np.linalg.lstsq(np.column_stack([np.ones(len(cells)), place]), recipes, rcond=None)[0][1:]

    print(
        f"\nlines through the best runs of {len(cells)} cells; of {DRAWN_TABLES} tables drawn from the law:"
    )
    figures, rng = {}, np.random.default_rng(0)
    for best in (1, 5):
        real = exponents_of(runs.loss.to_numpy(), best)
        drawn = [exponents_of(drawn_loss(rng), best) for _ in range(DRAWN_TABLES)]
        mean, sd = np.mean(drawn, axis=0), np.std(drawn, axis=0)
        for (i, j), name in np.ndenumerate(LINES):
            print(f"  best {best}: {name:16}{real[i, j]:7.3f}   drawn {mean[i, j]:7.3f} +- {sd[i, j]:.3f}")
            figures[f"{name}, best {best}"] = [real[i, j], mean[i, j], sd[i, j]]
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
            "loss_error_smoothed": recipe.loss - float(target.smoothed[2]),
            "inside": target.inside(recipe),
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
    smoothed = np.array([row["loss_error_smoothed"] for row in rows])
    print(
        f"mean regret {regret:.4f} ("
        + ", ".join(f"{n} {np.mean([r['published_regret'][n] for r in rows]):.4f}" for n in laws)
        + f"); loss error: mean {errors.mean():+.4f}, rms {np.sqrt((errors**2).mean()):.4f}, "
        f"worst {np.abs(errors).max():.4f}; against smoothed optima: rms "
        f"{np.sqrt((smoothed**2).mean()):.4f}, worst {np.abs(smoothed).max():.4f}"
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

    best, smoothed, regrets = [], [], []
    for seed in range(resamples):
        chosen = np.random.default_rng(seed).integers(0, len(groups), len(groups))
        law = fit_law(pd.concat([groups[i] for i in chosen]), check=True)
        for target in cells:
            recipe = law.recommend(target.params, target.tokens)
            best.append(target.inside(recipe))
            smoothed.append(target.inside_smoothed(recipe))
            regrets.append(target.regret(recipe))
    print(f"\ncoverage of 90% intervals over {resamples} resamples x {len(cells)} cells:")
    figures = {"mean_regret": float(np.mean(regrets))}
    for what, held in (("best run", best), ("smoothed optimum", smoothed)):
        share = np.mean(held, axis=0)
        named = ", ".join(f"{name} {value:.0%}" for name, value in zip(NAMES, share, strict=True))
        print(f"  {what:17} {named}; all {share.mean():.0%}")
        figures[what] = {**dict(zip(NAMES, share.tolist(), strict=True)), "all": float(share.mean())}
    print(f"mean regret {np.mean(regrets):.4f}")
    return figures


@dataclass(frozen=True)
class FewRuns:
    """Some runs to fit.

    Args:
        table: the runs.
        reading: the search's own recipe for (params, tokens); None where no search chose them.
    """

    table: pd.DataFrame
    reading: Callable[[float, float], Any] | None = None


def searched_runs(path: str, count: int, seed: int, target: tuple[float, float] | None) -> FewRuns:
    """The `count` runs of N <= 4.3e8 that a search of 1e21 FLOPs buys, for a target or for the front."""
    from _replay_table import ReplayTable
    from _samplers import Task, spend

    from carbs_scaling.samplers.carbs import CarbsSampler
    from carbs_scaling.samplers.sampler import new_study

    seen = ReplayTable(path, max_params=FIT_MAX_PARAMS)
    sampler = CarbsSampler(
        seen.distributions,
        seen.flops,
        seen.roles,
        seen.project,
        budget_flops=FLOPS_LIMIT,
        target=target,
        seed=seed,
        # A slot of `count` is worth its share of the budget: told so, the search spends it in about as many.
        overhead_flops=FLOPS_LIMIT / count,
    )
    bought = spend(sampler, Task(seen, FLOPS_LIMIT, seen.start, seen.loss), max_trials=count)
    study = new_study(sampler)
    for point, flops, loss in zip(bought.points, bought.flops, bought.loss, strict=True):
        study.enqueue_trial(point)
        study.tell(study.ask(seen.distributions), [loss, flops])
    runs = pd.DataFrame([seen.roles(seen.project(point)) for point in bought.points])
    return FewRuns(runs.assign(loss=bought.loss), lambda n, d: sampler.best_recipe(study, n, d))


def blind_runs(runs, count: int, seed: int) -> FewRuns:
    """Runs within 1e21 FLOPs, drawn without looking at their losses: cheaper ones more often."""
    flops = 6 * runs.params * runs.tokens
    rng = np.random.default_rng(seed)
    order = rng.choice(len(runs), len(runs), replace=False, p=(1 / flops / (1 / flops).sum()).to_numpy())
    chosen, spent = [], 0.0
    for index in order:
        if len(chosen) < count and spent + flops.iloc[index] <= FLOPS_LIMIT:
            chosen.append(index)
            spent += flops.iloc[index]
    return FewRuns(runs.iloc[chosen])


def few_runs(choose, cells, seeds: int, prior: list[str]) -> dict:
    """A fit on each of the choices `choose(seed)`, judged in every target cell."""
    rows = []
    for seed in range(seeds):
        few = choose(seed)
        runs = few.table
        spent = float((6 * runs.params * runs.tokens).sum())
        law = fit_law(runs, prior=prior)
        recipes = [law.recommend(t.params, t.tokens) for t in cells]
        regret = float(np.mean([t.regret(r) for t, r in zip(cells, recipes, strict=True)]))
        error = float(np.mean([abs(r.loss - t.best_loss) for t, r in zip(cells, recipes, strict=True)]))
        held = np.mean([t.inside(r) for t, r in zip(cells, recipes, strict=True)], axis=0)
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
        own = ""
        if few.reading is not None:
            read = [t.regret(few.reading(t.params, t.tokens)) for t in cells]
            rows[-1]["search_regret"] = float(np.mean(read))
            own = f", by the search's own reading {np.mean(read):.4f}"
        print(
            f"seed {seed}: {len(runs)} runs, {spent:.2g} FLOPs, mean regret {regret:.4f}{own}, "
            f"loss off {error:.4f}, inside {held}",
            flush=True,
        )
    own = [row["search_regret"] for row in rows if "search_regret" in row]
    print(
        f"mean regret {np.mean([r['regret'] for r in rows]):.4f}, "
        + (f"by the search's own reading {np.mean(own):.4f}, " if own else "")
        + f"coverage {np.mean([r['coverage'] for r in rows]):.0%}"
    )
    return {"mean_regret": float(np.mean([r["regret"] for r in rows])), "seeds": rows}


def main() -> None:
    """Prints the tables and writes the figures."""
    parser = arguments(__doc__, "../shared/data/lm_lr_batch_runs.csv")
    parser.add_argument("--runs", type=int, default=0, help="fit on so many of the runs instead of all")
    parser.add_argument("--searched", choices=("front", "target"), help="let the search choose those runs")
    parser.add_argument("--prior", nargs="+", default=[], help="published laws to lean on, with --runs")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--resamples", type=int, default=20)
    options = parser.parse_args()
    table, _ = read_table(options.data)
    small, cells = table[table.params <= FIT_MAX_PARAMS], targets(table[table.params >= TARGET_MIN_PARAMS])
    if options.runs:

        def choose(seed: int):
            if options.searched:
                target = SEARCH_TARGET if options.searched == "target" else None
                return searched_runs(options.data, options.runs, seed, target)
            return blind_runs(small, options.runs, seed)

        kind = f"searched for the {options.searched}" if options.searched else "blind"
        print(f"{options.runs} runs within {FLOPS_LIMIT:.0e} FLOPs, {kind}")
        figures = {"few_runs": few_runs(choose, cells, options.seeds, options.prior)}
    else:
        print("all sizes:")
        law = fit_law(table, check=False)
        figures = {"exponents": exponents(law, table), "lines": lines_through_best_runs(law, table)}
        figures["held_out"] = held_out(small, cells)
        figures["coverage"] = coverage(small, cells, options.resamples)
    write(options.output, figures)


if __name__ == "__main__":
    main()
