"""What a law from few runs is worth, beside formulas typed in by hand.

    python benchmarks/laws_few_runs.py                # 20 draws; --draws 4 for a quick look
    python benchmarks/laws_few_runs.py --tables ../shared/data/misfitting_lr.csv --output few.json

For each cut of each table 8, 12, 25 and 50 runs of the smaller sizes are drawn, uniformly and by 1 / FLOPs,
and the law fitted to them recommends a rate and a batch for each cell (N, D) of the larger sizes. Regret: the
loss there, linear in the logs of rate and batch and clamped to the sweep, less the cell's best run. `others`:
the same without the laws that a table's own authors fitted, in the prior. Inside: how often the 90% intervals
hold rate, batch and loss of the cell's best run. Fits that are in the JSON file are not made again.
"""

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from _laws_table import Target
from _runs_table import read_table

from carbs_scaling import fit_law
from carbs_scaling.laws.prior.published import BY_NAME
from carbs_scaling.laws.prior.published_prior import FIELD

COUNTS, FORMULAS = (8, 12, 25, 50), ("Step Law", "DeepSeek")
MEAN = "their geometric mean"
# By table: how many sizes each cut leaves to fit, and the laws of its own authors.
CUTS = {"Step Law": (2, 4, 5), "misfitting": (4, 7), "OpenEuroLLM": (2, 4), "Step Law MoE": (2,)}
AUTHORS = {"Step Law": ("Step Law",), "Step Law MoE": ("Step Law",), "OpenEuroLLM": ("OpenEuroLLM",)}
MIN_CELL_RUNS, MOST_CELLS = 3, 12


class Formula:
    """A published law, or the geometric mean of several, as a recommendation."""

    def __init__(self, names: tuple[str, ...], params: float, tokens: float) -> None:
        recipes = [BY_NAME[name].recipe(params, tokens) for name in names]
        self.learning_rate = float(np.exp(np.mean([np.log(r.learning_rate) for r in recipes])))
        self.batch_tokens = float(np.exp(np.mean([np.log(r.batch_tokens) for r in recipes])))


def cuts(paths: list[str]):
    """(table, sizes fitted, runs of the smaller sizes, cells of the larger) of every cut."""
    for path in paths:
        runs, source = read_table(path)
        sizes = np.unique(runs.params)
        swept = runs[runs.groupby(["params", "tokens"]).loss.transform("size") >= MIN_CELL_RUNS]
        for count in CUTS[source.name]:
            large = list(swept[swept.params > sizes[count - 1]].groupby(["params", "tokens"]))
            chosen = np.unique(np.linspace(0, len(large) - 1, MOST_CELLS).astype(int))
            cells = [Target(n, d, cell) for (n, d), cell in (large[i] for i in chosen)]
            yield source.name, count, runs[runs.params <= sizes[count - 1]], cells


def drawn(small: pd.DataFrame, count: int, by_cost: bool, seed: int) -> pd.DataFrame:
    """Some of the runs, of two sizes at least; `by_cost`: with probability ~ 1 / FLOPs."""
    weight = 1 / (small.params * small.tokens) if by_cost else np.ones(len(small))
    rng = np.random.default_rng(seed)
    for _ in range(1000):
        runs = small.iloc[rng.choice(len(small), count, replace=False, p=np.asarray(weight / weight.sum()))]
        if runs.params.nunique() > 1 and runs.tokens.nunique() > 1 and runs.learning_rate.nunique() > 1:
            return runs
    raise SystemExit(f"no {count} runs of two sizes in 1,000 draws")


def judged(runs: pd.DataFrame, cells: list[Target], prior: list[str] | None, check: bool) -> dict:
    """Mean regret and coverage of the law of some runs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        law = fit_law(runs, prior=prior, check=check)
    recipes = [law.recommend(cell.params, cell.tokens) for cell in cells]
    pairs = list(zip(cells, recipes, strict=True))
    return {
        "regret": float(np.mean([cell.regret(recipe) for cell, recipe in pairs])),
        "inside": np.mean([cell.inside(recipe) for cell, recipe in pairs], axis=0).tolist(),
    }


def main() -> None:
    """Makes the fits that are missing, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", nargs="+", default=["lm_lr_batch_runs.csv", "misfitting_lr.csv"])
    parser.add_argument("--output", default="laws_few_runs.json")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--prior", nargs="+", help="published laws, or weak, instead of the default")
    parser.add_argument("--no-check", action="store_true", help="without the check beside a fit")
    options = parser.parse_args()
    paths = [p if Path(p).exists() else f"../shared/data/{p}" for p in options.tables]
    output = Path(options.output)
    known = json.loads(output.read_text()) if output.exists() else {}
    asked: set[str] = set()
    for table, sizes, small, cells in cuts(paths):
        cut = f"{table} {sizes}"
        formulas = {**{name: (name,) for name in FORMULAS}, MEAN: FORMULAS}
        known[f"{cut} formulas"] = {
            name: float(np.mean([c.regret(Formula(laws, c.params, c.tokens)) for c in cells]))
            for name, laws in formulas.items()
        }
        own = AUTHORS.get(table, ())
        columns = {"all": options.prior, "others": options.prior or [n for n in FIELD if n not in own]}
        for count in options.counts:
            for by_cost in (False, True):
                for seed in range(options.draws):
                    key = f"{cut} {count} {'cost' if by_cost else 'uniform'} {seed}"
                    asked.add(key)
                    found = known.setdefault(key, {})
                    if "all" not in found:
                        runs = drawn(small, count, by_cost, seed)
                        found["all"] = judged(runs, cells, columns["all"], not options.no_check)
                        found["others"] = found["all"]
                        if own and not options.prior:
                            found["others"] = judged(runs, cells, columns["others"], not options.no_check)
                        output.write_text(json.dumps(known, indent=1) + "\n")
            print(f"{cut}: {count} runs done", flush=True)
    report({key: known[key] for key in known if key in asked}, known, options.counts)


def report(fits: dict, known: dict, counts: list[int]) -> None:
    """Markdown: mean regret over cuts by number of runs, each cut, coverage."""
    names = sorted({key.rsplit(" ", 3)[0] for key in fits})

    def mean(cut: str, count: int, column: str, what: str):
        rows = [f[column][what] for key, f in fits.items() if key.startswith(f"{cut} {count} ")]
        return np.mean(rows, axis=0)

    formulas = [known[f"{cut} formulas"] for cut in names]
    print(f"\n| cut | {' | '.join(f'{c} runs' for c in counts)} | {' | '.join((*FORMULAS, MEAN))} |")
    print("|---" * (len(counts) + 4) + "|")
    for column in ("all", "others"):
        for cut, typed in zip(names, formulas, strict=True):
            cells = [f"{mean(cut, count, column, 'regret'):.4f}" for count in counts]
            cells += [f"{value:.4f}" for value in typed.values()]
            print(f"| {cut}{' without its authors' if column == 'others' else ''} | {' | '.join(cells)} |")
        cells = [f"**{np.mean([mean(c, count, column, 'regret') for c in names]):.4f}**" for count in counts]
        cells += [f"{np.mean([f[name] for f in formulas]):.4f}" for name in (*FORMULAS, MEAN)]
        print(f"| mean{' without the authors' if column == 'others' else ''} | {' | '.join(cells)} |")
    print("\n| 90% intervals hold rate / batch / loss | " + " | ".join(f"{c} runs" for c in counts) + " |")
    print("|---" * (len(counts) + 1) + "|")
    for column in ("all", "others"):
        held = [np.mean([mean(cut, c, column, "inside") for cut in names], axis=0) for c in counts]
        # At one batch all hold it.
        several = [cut for cut in names if not cut.startswith("misfitting")] or names
        batch = [np.mean([mean(cut, c, column, "inside")[1] for cut in several]) for c in counts]
        cells = [f"{h[0]:.0%} / {b:.0%} / {h[2]:.0%}" for h, b in zip(held, batch, strict=True)]
        print(f"| {column} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
