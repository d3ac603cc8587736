"""Besiroglu's constants (arXiv 2404.10102) recovered from the points of Hoffmann et al.'s figure 4.

    python benchmarks/laws_chinchilla.py

240 of 245 points: the five of highest loss, which are also those of fewest tokens a parameter, are left out
as published. Then Huber's loss of the log residuals, summed. The standard errors beside it are ours, by
bootstrap of the points.
"""

import time
from pathlib import Path

import pandas as pd
from _laws_table import arguments, write

from carbs_scaling.laws.floor import NAMES, fit_floor

PUBLISHED = {
    "E": (1.8172, 0.03),
    "A": (482.01, 124.58),
    "alpha": (0.3478, 0.02),
    "B": (2085.43, 1293.23),
    "beta": (0.3658, 0.02),
}
OUTLIERS = 5


def points(path: str) -> pd.DataFrame:
    """Columns params, tokens, loss of the 240 points."""
    if not Path(path).exists():
        raise SystemExit(
            f"{path} is not there: it is the points of Hoffmann et al.'s figure 4, columns Model Size, "
            "Training FLOP, loss (github.com/epoch-research/analyzing-chinchilla, svg_extracted_data.csv)"
        )
    table = pd.read_csv(path)
    table = pd.DataFrame(
        {
            "params": table["Model Size"],
            "tokens": table["Training FLOP"] / (6 * table["Model Size"]),
            "loss": table["loss"],
        }
    )
    return table.sort_values("loss").iloc[:-OUTLIERS]


def main() -> None:
    """Fits, prints, writes."""
    parser = arguments(__doc__, "../shared/data/chinchilla_figure4.csv")
    parser.add_argument("--resamples", type=int, default=100)
    options = parser.parse_args()
    table = points(options.data)
    began = time.perf_counter()
    law = fit_floor(table.params, table.tokens, table.loss, bootstrap=options.resamples)
    seconds = time.perf_counter() - began
    print(f"{len(table)} points, {options.resamples} resamples, {seconds:.1f} s: {law.formula()}")
    print(f"{'':8}{'fitted':>12}{'se':>10}{'published':>12}{'se':>10}{'off, in published se':>22}")
    figures = {"seconds": seconds, "points": len(table)}
    for index, name in enumerate(NAMES):
        value, (published, error) = getattr(law, name), PUBLISHED[name]
        off = (value - published) / error
        own = law.standard_errors[index] if law.standard_errors else float("nan")
        print(f"{name:8}{value:12.4f}{own:10.4f}{published:12.4f}{error:10.4f}{off:22.3f}")
        figures[name] = {"fitted": value, "se": own, "published": published, "off_in_se": off}
    params, tokens = law.compute_optimal(5.76e23)
    print(
        f"compute-optimal at Chinchilla's 5.76e23 FLOPs: N = {params:.3g}, D = {tokens:.3g}, "
        f"D/N = {tokens / params:.1f}"
    )
    figures["within"] = bool(all(abs(figures[name]["off_in_se"]) <= 1 for name in NAMES))
    print(
        "all within one published standard error" if figures["within"] else "NOT within the published errors"
    )
    write(options.output, figures)


if __name__ == "__main__":
    main()
