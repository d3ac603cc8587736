"""Besiroglu's constants (arXiv 2404.10102) recovered from the points of Hoffmann et al.'s figure 4.

    python benchmarks/laws_chinchilla.py

240 of 245 points: the five of highest loss, which are also those of fewest tokens a parameter, are left out
as published. Then approach 3 of Hoffmann et al. (arXiv 2203.15556): Huber's loss of the log residuals,
summed, by L-BFGS from a grid of starts. The standard errors beside it are ours, by bootstrap of the points.
Last, the law of `fit_law` on the same points, which have no learning rate and no batch.
"""

import time
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from _laws_table import arguments, write
from scipy.optimize import OptimizeResult, minimize

from carbs_scaling import fit_law
from carbs_scaling.laws.recommend.advice import compute_optimal

PUBLISHED = {
    "E": (1.8172, 0.03),
    "A": (482.01, 124.58),
    "alpha": (0.3478, 0.02),
    "B": (2085.43, 1293.23),
    "beta": (0.3658, 0.02),
}
OUTLIERS = 5
FLOPS = 5.76e23  # of Chinchilla
# Of log loss, as published; far below the residuals' spread, so close to least absolute deviations.
HUBER = 1e-3
# Hoffmann et al., appendix D.3, thinned: logs of A, B, E and the exponents.
STARTS = tuple(product((0.0, 10.0, 20.0), (0.0, 10.0, 20.0), (-0.5, 0.5), (0.2, 0.8), (0.2, 0.8)))
NAMES = ("E", "A", "alpha", "B", "beta")


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


def fit_floor(table: pd.DataFrame, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    """`NAMES` by approach 3 of Hoffmann et al., and their bootstrap standard errors; shape (5,) each."""
    logs = [np.log(table[name].to_numpy(float)) for name in ("params", "tokens", "loss")]
    scale = float(np.median(logs[2]))
    starts = [np.array([a, b, e + scale - 0.7, alpha, beta]) for a, b, e, alpha, beta in STARTS]
    coarse = sorted((descend(start, logs, 60) for start in starts), key=lambda found: found.fun)
    point = min((descend(found.x, logs, 5000) for found in coarse[:4]), key=lambda found: found.fun).x
    rng, resampled = np.random.default_rng(0), []
    for _ in range(resamples):
        rows = rng.integers(0, len(table), len(table))
        resampled.append(natural(descend(point, [values[rows] for values in logs], 3000).x))
    return natural(point), np.std(resampled, axis=0, ddof=1)


def natural(point: np.ndarray) -> np.ndarray:
    """`NAMES` of (ln A, ln B, ln E, alpha, beta)."""
    ln_a, ln_b, ln_e, alpha, beta = point
    return np.array([np.exp(ln_e), np.exp(ln_a), alpha, np.exp(ln_b), beta])


def descend(start: np.ndarray, logs: list[np.ndarray], iterations: int) -> OptimizeResult:
    """L-BFGS on (ln A, ln B, ln E, alpha, beta) with the exact gradient; logs of N, D and loss."""
    ln_n, ln_d, ln_loss = logs

    def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
        ln_a, ln_b, ln_e, alpha, beta = point
        terms = np.stack([ln_a - alpha * ln_n, ln_b - beta * ln_d, np.full_like(ln_n, ln_e)])
        predicted = np.logaddexp.reduce(terms)
        share = np.exp(terms - predicted)
        residual = predicted - ln_loss
        size = np.abs(residual)
        cost = np.where(size <= HUBER, residual**2 / 2, HUBER * (size - HUBER / 2)).sum()
        slope = np.clip(residual, -HUBER, HUBER) * share
        gradient = [slope[0].sum(), slope[1].sum(), slope[2].sum(), -(slope[0] @ ln_n), -(slope[1] @ ln_d)]
        # Of order one for the solver's tolerances: residuals are of the order of `HUBER`.
        return float(cost) / HUBER**2, np.array(gradient) / HUBER**2

    options = {"maxiter": iterations, "maxfun": 4 * iterations, "ftol": 1e-15, "gtol": 1e-7}
    return minimize(objective, start, jac=True, method="L-BFGS-B", options=options)


def main() -> None:
    """Fits, prints, writes."""
    parser = arguments(__doc__, "../shared/data/chinchilla_figure4.csv")
    parser.add_argument("--resamples", type=int, default=100)
    options = parser.parse_args()
    table = points(options.data)
    began = time.perf_counter()
    fitted, errors = fit_floor(table, options.resamples)
    seconds = time.perf_counter() - began
    print(f"{len(table)} points, {options.resamples} resamples, {seconds:.1f} s")
    print(f"{'':8}{'fitted':>12}{'se':>10}{'published':>12}{'se':>10}{'off, in published se':>22}")
    figures = {"seconds": seconds, "points": len(table)}
    for name, value, own in zip(NAMES, fitted, errors, strict=True):
        published, error = PUBLISHED[name]
        off = (value - published) / error
        print(f"{name:8}{value:12.4f}{own:10.4f}{published:12.4f}{error:10.4f}{off:22.3f}")
        figures[name] = {"fitted": value, "se": own, "published": published, "off_in_se": off}
    figures["within"] = bool(all(abs(figures[name]["off_in_se"]) <= 1 for name in NAMES))
    print(
        "all within one published standard error" if figures["within"] else "NOT within the published errors"
    )
    law = fit_law(table)
    print(f"fit_law on the same points:\n{law.formula()}")
    at = compute_optimal(law, FLOPS)
    print(f"compute-optimal at Chinchilla's {FLOPS:.3g} FLOPs: N = {at.params:.3g}, D = {at.tokens:.3g}")
    ours = {name: float(np.exp(law.parameter(f"ln_{name}"))) for name in ("E", "alpha", "beta", "gamma")}
    figures["fit_law"] = {**ours, "optimal_params": at.params, "interval": at.params_interval}
    write(options.output, figures)


if __name__ == "__main__":
    main()
