"""CPU seconds and memory of `fit_law` on large tables.

    python benchmarks/laws_speed.py --rows 3000 10000

Two kinds of table from a known law: swept (40 cells) and scattered (each run at an N and D of its own).
"""

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import pandas as pd

from carbs_scaling import fit_law


def table(rows: int, swept: bool) -> pd.DataFrame:
    """Runs of Hoffmann's loss with parabolic valleys about Step Law's rate and batch."""
    rng = np.random.default_rng(0)
    n, d = np.exp(rng.uniform(np.log(3e7), np.log(1e9), rows)), np.exp(rng.uniform(21.0, 25.0, rows))
    if swept:
        cell = rng.integers(0, 40, rows)
        n, d = 3e7 * 1.5 ** (cell % 8), 2e9 * 2.5 ** (cell // 8)
    best_rate, best_batch = 1.79 * n**-0.713 * d**0.307, 0.58 * d**0.571
    off_rate, off_batch = rng.normal(0, 0.7, (2, rows))
    loss = 1.69 + 406.4 * n**-0.34 + 410.7 * d**-0.28 + 0.03 * off_rate**2 + 0.02 * off_batch**2
    loss += rng.normal(0, 0.004, rows)
    rate, batch = best_rate * np.exp(off_rate + 0.4 * off_batch), best_batch * np.exp(off_batch)
    columns = {"params": n, "tokens": d, "learning_rate": rate, "batch_tokens": batch, "loss": loss}
    return pd.DataFrame(columns)


def main() -> None:
    """Prints a row for each table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[3000, 10000])
    parser.add_argument("--output", help="JSON file for the figures")
    options = parser.parse_args()
    fit_law(table(100, True), check=False)  # imports
    figures = []
    print("| rows | table | CPU s | peak memory, GB |\n|---|---|---|---|")
    for rows in options.rows:
        for swept in (True, False):
            runs, before = table(rows, swept), time.process_time()
            fit_law(runs)
            seconds = time.process_time() - before
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
            kind = "swept" if swept else "scattered"
            figures.append({"rows": rows, "kind": kind, "cpu_seconds": seconds, "peak_gb": peak})
            print(f"| {rows} | {kind} | {seconds:.1f} | {peak:.2f} |", flush=True)
    if options.output:
        Path(options.output).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
