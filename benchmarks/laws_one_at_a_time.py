"""The law of a sweep of one hyperparameter at a time, many of whose runs broke and still have a loss.

    python benchmarks/laws_one_at_a_time.py Phase*/tex/hyperparam_tables_adamw.tex

The files are those of experiments/optimizer_sweep/Analysis in github.com/marin-community/marin (Wen et al.
2025, arXiv 2509.02046): AdamW at 1.3e8 to 5.4e8 parameters and 20 to 160 tokens a parameter, around a base
point each. For every size from the second on, the law is fitted to it and the smaller ones, and its
recommendation for the larger ones (at the end: for all) printed beside each cell's best run.
"""

import argparse
import re
from pathlib import Path

import numpy as np
import pandas as pd
from _laws_table import write

from carbs_scaling import fit_law
from carbs_scaling.laws.prior.published import BY_NAME

SEQUENCE_LENGTH = 4096
# Non-embedding parameters of what the captions call 130m and so on: 20 of them are the tokens of their runs.
PARAMS = {"130m": 2**27, "300m": 3.02e8, "520m": 2**29, "1.2b": 1.2e9}
TOKENS_PER_PARAM = 20
COLUMNS = (
    "beta1",
    "beta2",
    "epsilon",
    "learning_rate",
    "clip",
    "least_rate",
    "batch",
    "warmup",
    "weight_decay",
)
CAPTION = re.compile(r"on (\S+) on (\d+)x Chinchilla")


def main() -> None:
    """Prints a row a cell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", help="JSON file for the figures")
    parser.add_argument("tables", nargs="+", type=Path, help="hyperparam_tables_adamw.tex of phases I and II")
    options = parser.parse_args()
    if absent := [str(path) for path in options.tables if not path.exists()]:
        raise SystemExit(f"{absent[0]} is not there: see python benchmarks/laws_one_at_a_time.py --help")
    runs = pd.DataFrame([row for path in options.tables for row in rows_of(path.read_text())])
    sizes = np.unique(runs.params)
    head = ["N fitted", "runs (collapsed)", "N", "D", "lr", "90%", "best run's", "Step Law's"]
    head += ["batch (sequences)", "90%", "best run's", "loss", "90%", "best run's"]
    print("| " + " | ".join(head) + " |\n" + "| --- " * len(head) + "|")
    figures = []
    for largest in sizes[1:]:
        fitted = runs[runs.params <= largest]
        law = fit_law(fitted)
        cells = runs[runs.params > largest] if largest < sizes[-1] else runs
        for (params, tokens), cell in cells.groupby(["params", "tokens"]):
            best, recipe = cell.loc[cell.loss.idxmin()], law.recommend(params, tokens)
            step_law = BY_NAME["Step Law"].recipe(params, tokens).learning_rate
            bounds = {name: recipe.interval(name) for name in ("learning_rate", "batch_tokens", "loss")}
            sequences = [b / SEQUENCE_LENGTH for b in (recipe.batch_tokens, *bounds["batch_tokens"])]
            row = [f"to {largest:.2g}", f"{law.support.runs} ({law.support.diverged})", f"{params:.2g}"]
            row += [f"{tokens:.2g}", f"{recipe.learning_rate:.4f}", span(bounds["learning_rate"], ".4f")]
            row += [f"{best.learning_rate:.3f}", f"{step_law:.4f}", f"{sequences[0]:.0f}"]
            row += [span(sequences[1:], ".0f"), f"{best.batch:.0f}", f"{recipe.loss:.3f}"]
            print("| " + " | ".join([*row, span(bounds["loss"], ".3f"), f"{best.loss:.3f}"]) + " |")
            figures.append(
                {
                    "largest_fitted": largest,
                    "params": params,
                    "tokens": tokens,
                    "recommended": [recipe.learning_rate, recipe.batch_tokens, recipe.loss],
                    "intervals": bounds,
                    "best_run": [best.learning_rate, best.batch_tokens, best.loss],
                }
            )
    write(options.output, figures)


def span(bounds, form: str) -> str:
    """Both ends of an interval."""
    return f"{bounds[0]:{form}} - {bounds[1]:{form}}"


def rows_of(tex: str) -> list[dict]:
    """Runs of the tables: a base run each, and runs that change one thing, where -- stands for the base's."""
    rows: list[dict] = []
    base: list[float] = []
    params = tokens = 0.0
    for line in tex.splitlines():
        if caption := CAPTION.search(line) if line.startswith("\\caption") else None:
            params = float(PARAMS[caption[1].lower()])
            tokens, base = TOKENS_PER_PARAM * params * int(caption[2]), []
        parts = [part.strip() for part in line.split("&")]
        if len(parts) < len(COLUMNS) + 1 or parts[0].startswith("$"):
            continue
        values = [base[i] if part == "--" else float(part) for i, part in enumerate(parts[: len(COLUMNS)])]
        base = base or values
        run = dict(zip(COLUMNS, values, strict=True))
        loss = float(parts[len(COLUMNS)])
        rows.append(
            {
                "params": params,
                "tokens": tokens,
                **run,
                "batch_tokens": run["batch"] * SEQUENCE_LENGTH,
                "loss": loss,
            }
        )
    return rows


if __name__ == "__main__":
    main()
