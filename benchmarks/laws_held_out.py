"""Recommendations for sizes beyond those fitted, on published tables of runs, for every cut that they allow.

    python benchmarks/laws_held_out.py ../shared/data/lm_lr_batch_runs.csv loss_all_exps_post_annealing.csv

For each number of sizes left out, the law is fitted to the runs of the smaller ones and judged in every cell
(N, D) of the larger: regret is the loss at its recommended rate and batch, linear in their logs, clamped to
the sweep, less the cell's best run. Inside: how often the 90% intervals hold the rate, the batch and the loss
of the cell's best run, and in brackets those of the cell's own smoothed optimum. The second table is of
github.com/OpenEuroLLM/dense_english_scaling_laws (folder data).
"""

import argparse

import numpy as np
import torch
from _laws_table import targets, write
from _runs_table import read_table

from carbs_scaling import fit_law
from carbs_scaling.laws.prior.published import BY_NAME

MIN_CELL_RUNS = 6
PUBLISHED = ("Step Law", "DeepSeek")


def main() -> None:
    """Prints a row for every cut of every table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", help="JSON file for the figures")
    parser.add_argument("tables", nargs="+", help="CSV files of runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    head = ["table", "N fitted", "runs", "N held out", "cells", "regret", *PUBLISHED, "loss off (rms)"]
    head += ["lr inside", "B inside", "loss inside"]
    print("| " + " | ".join(head) + " |\n" + "| --- " * len(head) + "|")
    figures = [row for path in options.tables for row in cuts(path)]
    write(options.output, figures)


def cuts(path: str) -> list[dict]:
    """A row for each number of sizes that are left to fit, from two on."""
    runs, source = read_table(path)
    sizes = np.unique(runs.params)
    swept = runs.groupby(["params", "tokens"]).loss.transform("size") >= MIN_CELL_RUNS
    rows = []
    for count in range(2, len(sizes)):
        small = runs[runs.params <= sizes[count - 1]]
        cells = targets(runs[(runs.params > sizes[count - 1]) & swept])
        rows.append({"table": source.name, "sizes": count, **judged(small, cells)})
        row = rows[-1]
        inside = [f"{a:.0%} ({b:.0%})" for a, b in zip(row["inside"], row["inside_smoothed"], strict=True)]
        print(
            f"| {source.name} | {sizes[0]:.2g} to {sizes[count - 1]:.2g} | {len(small)} | "
            f"{sizes[count]:.2g} to {sizes[-1]:.2g} | {len(cells)} | {row['regret']:.4f} | "
            + " | ".join(f"{row['published'][name]:.4f}" for name in PUBLISHED)
            + f" | {row['loss_error']:.4f} | "
            + " | ".join(inside)
            + " |",
            flush=True,
        )
    return rows


def judged(small, cells) -> dict:
    """One fit, in the mean over the cells."""
    law = fit_law(small)
    recipes = [law.recommend(cell.params, cell.tokens) for cell in cells]
    pairs = list(zip(cells, recipes, strict=True))
    published = {
        name: float(np.mean([c.regret(BY_NAME[name].recipe(c.params, c.tokens)) for c in cells]))
        for name in PUBLISHED
    }
    return {
        "regret": float(np.mean([cell.regret(recipe) for cell, recipe in pairs])),
        "published": published,
        "loss_error": float(np.sqrt(np.mean([(r.loss - c.best_loss) ** 2 for c, r in pairs]))),
        "inside": np.mean([cell.inside(recipe) for cell, recipe in pairs], axis=0).tolist(),
        "inside_smoothed": np.mean([cell.inside_smoothed(recipe) for cell, recipe in pairs], axis=0).tolist(),
    }


if __name__ == "__main__":
    main()
