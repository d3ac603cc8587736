"""The law of an IsoFLOP table, whose rates and batches follow a rule, on budgets larger than those fitted.

    python benchmarks/laws_isoflop.py isoflop-comma.csv

The file is data/isoflops/extract/marin_202603/raw/isoflop-comma.csv of
github.com/Open-Athena/scaling-law-analysis: runs of 1.6e8 to 1.2e10 parameters (embeddings included) at
1e18 to 1e20 FLOPs in its authors' count. For each number of budgets from two on, the law is fitted to the
cheapest, and judged on the runs of the others.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from _laws_table import write

from carbs_scaling import fit_law
from carbs_scaling.laws.recommend.advice import compute_optimal

COLUMNS = {
    "parameter_count": "params",
    "throughput/total_tokens": "tokens",
    "optimizer.learning_rate": "learning_rate",
    "trainer.train_batch_size": "batch_tokens",
    "eval/paloma/macro_loss": "loss",
}
SEQUENCE_LENGTH = 4096


def main() -> None:
    """Prints a row for each number of budgets fitted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", help="JSON file for the figures")
    parser.add_argument("table", type=Path, help="isoflop-comma.csv")
    options = parser.parse_args()
    if not options.table.exists():
        raise SystemExit(f"{options.table} is not there: see python benchmarks/laws_isoflop.py --help")
    runs = read(options.table)
    budgets = sorted(runs.budget.unique())
    dearest = runs[runs.budget == budgets[-1]]
    best = dearest.loc[dearest.loss.idxmin()]
    head = [
        "budgets fitted",
        "runs",
        "held out",
        "loss off (rms)",
        "mean",
        "inside 90%",
        "compute-optimal N",
        "90%",
    ]
    print("| " + " | ".join([*head, "best run's N"]) + " |\n" + "| --- " * (len(head) + 1) + "|")
    figures = []
    for count in range(2, len(budgets)):
        fitted = runs[runs.budget.isin(budgets[:count])]
        rest = runs[~runs.budget.isin(budgets[:count])]
        law = fit_law(fitted, check=False)
        recipes = [law.recommend(row.params, row.tokens) for row in rest.itertuples()]
        off = np.array([recipe.loss for recipe in recipes]) - rest.loss.to_numpy()
        bounds = np.array([recipe.interval("loss") for recipe in recipes])
        inside = float(((bounds[:, 0] < rest.loss) & (rest.loss < bounds[:, 1])).mean())
        optimal = compute_optimal(law, 6 * best.params * best.tokens)
        low, high = optimal.params_interval
        rms = float(np.sqrt(np.mean(off**2)))
        print(
            f"| to {budgets[count - 1]:.0e} | {len(fitted)} | {len(rest)} | {rms:.4f} | {off.mean():+.4f} | "
            f"{inside:.0%} | {optimal.params:.2e} | {low:.2e} - {high:.2e} | {best.params:.2e} |"
        )
        figures.append({"budgets": count, "rms": rms, "bias": float(off.mean()), "inside": inside})
        figures[-1] |= {"optimal_params": optimal.params, "interval": [low, high]}
    write(options.output, figures)


def read(path: Path) -> pd.DataFrame:
    """The runs of the budgets, without those of the ladder that was trained afterwards."""
    table = pd.read_csv(path)
    table = table[table["Name"].str.startswith("isoflop-")]
    runs = table[list(COLUMNS)].rename(columns=COLUMNS).astype(float)
    budget = table["Name"].str.split("-").str[1].astype(float)
    return runs.assign(batch_tokens=runs.batch_tokens * SEQUENCE_LENGTH, budget=budget)


if __name__ == "__main__":
    main()
