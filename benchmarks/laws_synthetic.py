"""Data drawn from known laws: are exponents, extrapolations and intervals right, and bad tables refused?

    python benchmarks/laws_synthetic.py

Each law is drawn ten times as a sweep (4 sizes x 3 token counts x 20 runs) and as 60 scattered runs, N up to
6e8, and asked for N = 5e9, D = 5e10, eight times beyond. The fit's own form holds for the first three laws;
in the others sizes and cells scatter as models of other shapes do, the best rate bends, or the floor is not
of its form.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from _laws_table import arguments, write

from carbs_scaling import fit_law
from carbs_scaling.errors import CarbsScalingError

SIZES, TOKENS = (2e7, 6e7, 2e8, 6e8), (1e9, 4e9, 1.6e10)
TARGET = (5e9, 5e10)


@dataclass(frozen=True)
class Truth:
    """A law: floor, ln of best rate and batch, valley, and how sizes and cells scatter (nepers; loss)."""

    floor: Callable
    rate: Callable = lambda n, d: np.log(2e-3) - 0.5 * np.log(n / 1e8) + 0.15 * np.log(d / 4e9)
    batch: Callable = lambda n, d: np.log(2e5) + 0.5 * np.log(d / 4e9)
    valley: Callable = lambda u, v: 0.05 * (u - 0.4 * v) ** 2 + 0.02 * v**2
    scatter: float = 0.0
    loss_scatter: float = 0.0
    exponents: tuple = (-0.5, 0.15, 0.5)


def hoffmann(n, d):
    """Sum of two power laws."""
    return 1.7 + 0.9 * (n / 1e8) ** -0.33 + 0.6 * (d / 4e9) ** -0.3


def kaplan(n, d):
    """No irreducible loss, and the larger lack rules."""
    return ((8.8e13 / n) ** (0.076 / 0.095) + 5.4e13 / d) ** 0.095


def broken(n, d):
    """The exponent of N halves above 2e8."""
    return 1.7 + 0.9 * (n / 1e8) ** -0.4 * (1 + (n / 2e8) ** 3) ** (0.2 / 3) + 0.6 * (d / 4e9) ** -0.3


def lopsided(u, v):
    """Exponential above the best rate, linear below."""
    u = u - 0.4 * v
    return 0.1 * (np.exp(0.9 * u) - 0.9 * u - 1) + 0.05 * (np.exp(0.6 * v) - 0.6 * v - 1)


def bent(n, d):
    """The exponent of the best rate steepens with N."""
    x = np.log(n / 1e8)
    return np.log(2e-3) - 0.5 * x - 0.04 * x**2 + 0.15 * np.log(d / 4e9)


LAWS = {
    "Hoffmann, parabolas": Truth(hoffmann),
    "Kaplan, parabolas": Truth(kaplan),
    "Hoffmann, lopsided": Truth(hoffmann, valley=lopsided),
    "sizes and cells scatter": Truth(hoffmann, valley=lopsided, scatter=0.12, loss_scatter=0.005),
    "best rate bends": Truth(hoffmann, rate=bent, exponents=()),
    "broken floor": Truth(broken),
}


def draw(truth: Truth, seed: int, swept: bool) -> pd.DataFrame:
    """Runs of one truth, with seed noise of .003."""
    rng = np.random.default_rng(seed)
    if swept:
        n, d = (grid.reshape(-1).repeat(20) for grid in np.meshgrid(SIZES, TOKENS))
    else:
        n, d = (
            np.exp(rng.uniform(np.log(2e7), np.log(6e8), 60)),
            np.exp(rng.uniform(np.log(1e9), np.log(1.6e10), 60)),
        )
    size = np.unique(n, return_inverse=True)[1]
    cell = np.unique(np.stack([n, d]), axis=1, return_inverse=True)[1].reshape(-1)
    shift = truth.scatter * (
        rng.normal(size=(2, size.max() + 1))[:, size] + rng.normal(size=(2, cell.max() + 1))[:, cell]
    )
    level = truth.loss_scatter * (
        rng.normal(size=size.max() + 1)[size] + rng.normal(size=cell.max() + 1)[cell]
    )
    u, v = rng.normal(size=(2, len(n))) * np.array([[0.8], [0.8]])
    loss = (
        truth.floor(n, d) + truth.valley(u - shift[0], v - shift[1]) + level + 0.003 * rng.normal(size=len(n))
    )
    return pd.DataFrame(
        {
            "params": n,
            "tokens": d,
            "learning_rate": np.exp(truth.rate(n, d) + u),
            "batch_tokens": np.exp(truth.batch(n, d) + v),
            "loss": loss,
        }
    )


def judged(truth: Truth, seed: int, swept: bool) -> dict:
    """Errors at the target in nepers and loss, the regret, and what lies inside its 90% interval."""
    law = fit_law(draw(truth, seed, swept))
    recipe = law.recommend(*TARGET)
    real = (np.exp(truth.rate(*TARGET)), np.exp(truth.batch(*TARGET)), truth.floor(*TARGET))
    bounds = [recipe.interval(name) for name in ("learning_rate", "batch_tokens", "loss")]
    off = np.log([recipe.learning_rate / real[0], recipe.batch_tokens / real[1]])
    fitted = [(law.parameter(k), law.standard_error(k)) for k in ("a_N", "a_D", "b_D")]
    return {
        "rate": abs(off[0]),
        "batch": abs(off[1]),
        "loss": abs(recipe.loss - real[2]),
        "regret": float(truth.valley(*off)),
        "inside": [low <= value <= high for (low, high), value in zip(bounds, real, strict=True)],
        "exponents": [
            abs(value - exact) <= 1.645 * se
            for (value, se), exact in zip(fitted, truth.exponents, strict=False)
        ],
    }


def refused() -> dict:
    """Degenerate tables, each with the one line that refuses it."""
    good = draw(LAWS["Hoffmann, parabolas"], 0, True)
    tables = {
        "one size": good[good.params == SIZES[0]],
        "no variation": good.assign(loss=3.0),
        "one learning rate": good.assign(learning_rate=1e-3),
        "all diverged": good.assign(diverged=True),
        "3 rows": good.iloc[[0, 80, 200]],
        "params in millions": good.assign(params=good.params / 1e6),
        "tokens in billions": good.assign(tokens=good.tokens / 1e9),
        "perplexity": good.assign(loss=np.exp(good.loss) * 10),
        "no batch column": good.drop(columns="batch_tokens"),
    }
    said = {}
    for name, table in tables.items():
        try:
            fit_law(table)
            said[name] = None
        except CarbsScalingError as error:
            said[name] = str(error)
        print(f"  {name:20} {said[name] or 'A LAW WAS FITTED'}")
    return said


def main() -> None:
    """Prints the table and writes the figures."""
    parser = arguments(__doc__, "")
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    print(
        f"{'law':26}{'runs':>10}{'|ln lr|':>9}{'|ln B|':>8}{'|loss|':>8}{'regret':>8}"
        "   inside 90%: lr    B  loss  exponents"
    )
    figures = {}
    for name, truth in LAWS.items():
        for swept in (True, False):
            found = [judged(truth, seed, swept) for seed in range(options.seeds)]
            mean = {
                key: float(np.mean([f[key] for f in found])) for key in ("rate", "batch", "loss", "regret")
            }
            inside = np.mean([f["inside"] for f in found], axis=0)
            exponents = float(np.mean([f["exponents"] for f in found])) if truth.exponents else float("nan")
            kind = "240 swept" if swept else "60 apart"
            print(
                f"{name:26}{kind:>10}{mean['rate']:9.3f}{mean['batch']:8.3f}{mean['loss']:8.4f}{mean['regret']:8.4f}"
                f"{'':14}{inside[0]:6.0%}{inside[1]:5.0%}{inside[2]:6.0%}{exponents:11.0%}"
            )
            figures[f"{name}, {kind}"] = {**mean, "inside": inside.tolist(), "exponents_inside": exponents}
    everything = np.mean([f["inside"] for f in figures.values()])
    print(f"all intervals: {everything:.0%} inside")
    print("degenerate tables:")
    write(options.output, {"laws": figures, "inside": float(everything), "refused": refused()})


if __name__ == "__main__":
    main()
