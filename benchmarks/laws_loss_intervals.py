"""Do the 90% intervals of the loss hold, on published IsoFLOP tables beyond the budgets fitted?

    python benchmarks/laws_loss_intervals.py isoflops.csv

The file is data/isoflops/transform/isoflops.csv of github.com/Open-Athena/scaling-law-analysis: N, D and loss
of runs that Llama 3, Marin and Chinchilla published, without the rows that it marks as outliers and without
Misfitting's, which are in other benchmarks here. The law is fitted to runs of the two, three and cheaper half
of the budgets - 12 or 25 of them drawn at random, three times, and all - and judged on every run of the
others. `--shares` adds columns for other values of `laws.form.bends.LOSS_WANDERING`: what the intervals would
hold, and the mean log score less that of the law as it is (below 0: likelier).
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from _laws_table import write

from carbs_scaling import fit_law
from carbs_scaling.laws.form.bends import loss_wandering, steepness, wander_beyond
from carbs_scaling.laws.scaling_law import ScalingLaw
from carbs_scaling.laws.support import way_beyond

DRAWS, COUNTS = 3, (12, 25, None)
WITHIN = 1.645  # standard deviations of a 90% interval
FARTHEST = 16.0  # squared deviations that a score counts at most: one bad law must not decide


def main() -> None:
    """Prints a row for each table and number of runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", help="JSON file for the figures")
    parser.add_argument("--shares", type=float, nargs="*", default=[])
    parser.add_argument("table", type=Path, help="isoflops.csv")
    options = parser.parse_args()
    if not options.table.exists():
        raise SystemExit(f"{options.table} is not there: see python benchmarks/laws_loss_intervals.py --help")
    warnings.simplefilter("ignore")
    table = pd.read_csv(options.table)
    table = table[~table.outlier.astype(bool) & (table.source != "misfitting")]
    head = ["table", "runs", "judged", "loss off (rms)", "deviation expected", "inside 90%"]
    head += [f"with {share}" for share in options.shares]
    print("| " + " | ".join(head) + " |\n" + "| --- " * len(head) + "|")
    figures = [row for name, runs in table.groupby("experiment") for row in rows(name, runs, options.shares)]
    for count in COUNTS:
        held = [row["inside"] for row in figures if row["runs"] == count]
        print(f"mean of {len(held)} tables, {count or 'all'} runs: {np.mean(held):.0%} inside")
    write(options.output, figures)


def rows(name: str, runs: pd.DataFrame, shares: list[float]) -> list[dict]:
    """One row for each number of runs that are fitted."""
    budgets = np.sort(runs.budget.unique())
    found = []
    for count in COUNTS:
        judged = []
        for cheap in sorted({2, 3, len(budgets) // 2}):
            small, rest = (
                runs[part] for part in (runs.budget <= budgets[cheap - 1], runs.budget > budgets[cheap - 1])
            )
            if len(small) < 1.3 * (count or 0):
                continue
            for seed in range(DRAWS if count else 1):
                drawn = small if count is None else small.sample(count, random_state=seed)
                law = fit_law(drawn[["params", "tokens", "loss"]])
                judged += [judge(law, run.params, run.tokens, run.loss, shares) for run in rest.itertuples()]
        if not judged:
            continue
        off, *variances = np.array(judged).T
        score, *others = (np.mean(np.log(v) + np.minimum(off**2 / v, FARTHEST)) / 2 for v in variances)
        inside, *inside_others = (float(np.mean(off**2 < WITHIN**2 * v)) for v in variances)
        row = {"table": name, "runs": count, "judged": len(off), "rms": float(np.sqrt(np.mean(off**2)))}
        row |= {"deviation": float(np.sqrt(np.mean(variances[0]))), "inside": inside}
        row["shares"] = [[i, float(o - score)] for i, o in zip(inside_others, others, strict=True)]
        found.append(row)
        print(
            f"| {name} | {count or 'all'} | {len(off)} | {row['rms']:.3f} | "
            f"{row['deviation']:.3f} | {inside:.0%}"
            + "".join(f" | {i:.0%} ({gain:+.2f})" for i, gain in row["shares"])
            + " |",
            flush=True,
        )
    return found


def judge(law: ScalingLaw, params: float, tokens: float, loss: float, shares: list[float]) -> list[float]:
    """The error of the loss, its variance by the law, and by other shares of wandering."""
    recipe = law.recommend(params, tokens)
    variance = float(np.var(recipe.draws[:, 2]))
    slope, way = steepness(law.loss, params, tokens), way_beyond(law.support.hull, np.log([params, tokens]))
    own = (slope * wander_beyond(way, loss_wandering(law.support.high[0]))) ** 2
    others = [variance - own + (slope * wander_beyond(way, share)) ** 2 for share in shares]
    return [recipe.loss - loss, variance, *others]


if __name__ == "__main__":
    main()
