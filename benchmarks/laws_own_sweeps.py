"""Do intervals hold for Muon, SGD, mixtures of experts? Laws of the sweeps made here, asked beyond them.

    python benchmarks/exponents.py && python benchmarks/transfer.py    # the runs, where they are not there
    python benchmarks/laws_own_sweeps.py

For each family of models and optimizer, the law is fitted to the sweeps of the smallest two, three and four
of five sizes, by the prior of the optimizer and nothing else that is known of it, and asked for each larger
one. Inside: how often the 90% intervals hold rate, batch and loss of the best run there. Sweeps are on a
lattice of factors of 2 and have one seed. Regret: the loss at the recommendation, by a plane through the
sweep's runs, less the best run's.
"""

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _laws_table import targets, write

from carbs_scaling import fit_law

OF_GPT2 = "gpt2-"  # its optimizers; other families have AdamW


def main() -> None:
    """Prints a row for each family, and the mean."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/results/sweeps"))
    parser.add_argument("--output", help="JSON file for the figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    families = read_families(options.folder / "runs.json")
    print(
        "| family | cells asked | rate inside | batch inside | loss inside | regret |\n" + "| --- " * 6 + "|"
    )
    rows = [row(family, runs) for family, runs in families.items()]
    counts = np.array([found["cells"] for found in rows])
    inside = np.average([found["inside"] for found in rows], axis=0, weights=counts)
    regret = np.average([found["regret"] for found in rows], weights=counts)
    print(
        f"| all | {counts.sum()} | " + " | ".join(f"{share:.0%}" for share in inside) + f" | {regret:.3f} |"
    )
    write(options.output, rows)


def read_families(file: Path) -> dict[str, pd.DataFrame]:
    """Runs of the sweeps by family; those of recommendations and of other tasks left out."""
    if not file.exists():
        raise SystemExit(f"{file} is not there: see python benchmarks/laws_own_sweeps.py --help")
    found: dict[str, list[dict]] = {}
    for name, run in json.loads(file.read_text()).items():
        family, *_, rate, batch = name.split(" ")
        if is_power(rate) and is_power(batch) and family != "vit":
            optimizer = family.removeprefix(OF_GPT2) if family.startswith(OF_GPT2) else "adamw"
            of_run = {**run, "optimizer": optimizer, "diverged": run["loss"] is None}
            found.setdefault(family, []).append(of_run)
    return {family: pd.DataFrame(runs) for family, runs in sorted(found.items())}


def is_power(word: str) -> bool:
    """Whether a word of a run's name is a power of 2 of the lattice."""
    return word.removeprefix("-").isdigit()


def row(family: str, runs: pd.DataFrame) -> dict:
    """How the laws of a family's smaller sizes did, over all cuts."""
    sizes = np.unique(runs.params)
    inside, regrets = [], []
    for count in range(2, len(sizes)):
        law = fit_law(runs[runs.params <= sizes[count - 1]].drop(columns=["flops", "cpu_seconds"]))
        for cell in targets(runs[(runs.params > sizes[count - 1]) & ~runs.diverged]):
            recipe = law.recommend(cell.params, cell.tokens)
            inside.append(cell.inside(recipe))
            regrets.append(cell.regret(recipe))
    found = {"family": family, "cells": len(inside), "inside": np.mean(inside, axis=0).tolist()}
    found["regret"] = float(np.mean(regrets))
    shares = " | ".join(f"{share:.0%}" for share in found["inside"])
    print(f"| {family} | {len(inside)} | {shares} | {found['regret']:.3f} |", flush=True)
    return found


if __name__ == "__main__":
    main()
