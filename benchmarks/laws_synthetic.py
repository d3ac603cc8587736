"""Data drawn from known laws: are exponents, extrapolations and intervals right, and bad tables refused?

    python benchmarks/laws_synthetic.py

Each law is drawn ten times as a sweep (4 sizes x 3 token counts x 20 runs) and as 60 scattered runs, N up to
6e8, and asked for N = 5e9, D = 5e10, eight times beyond. The fit's own form holds for the first three laws;
in the others sizes and cells scatter as models of other shapes do, the best rate bends, or the floor is not
of its form.

Two more tables: sweeps whose upper rates diverge, fitted with and without the diverged runs; and runs that
also vary weight decay, beta2 and the shape.
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


def with_cliff(truth: Truth, seed: int, cliff: float) -> pd.DataFrame:
    """Rates a factor of 2 apart, three batches a cell; above e^cliff times the best rate a run diverges."""
    rng = np.random.default_rng(seed)
    n, d, u, v = (
        grid.reshape(-1) for grid in np.meshgrid(SIZES, TOKENS, np.arange(-2.0, 1.1, 0.69), (-0.8, 0.0, 0.8))
    )
    cell = np.unique(np.stack([n, d]), axis=1, return_inverse=True)[1].reshape(-1)
    u = u + rng.uniform(-0.3, 0.3, cell.max() + 1)[cell]
    diverged = u - 0.4 * v > cliff
    loss = truth.floor(n, d) + truth.valley(u, v) + 0.003 * rng.normal(size=len(n))
    return pd.DataFrame(
        {
            "params": n,
            "tokens": d,
            "learning_rate": np.exp(truth.rate(n, d) + u),
            "batch_tokens": np.exp(truth.batch(n, d) + v),
            "loss": np.where(diverged, np.nan, loss),
            "diverged": diverged,
        }
    )


def cliffs(seeds: int) -> dict:
    """What diverged runs add: error of the rate at the target, width of its interval, how often it diverges.

    With the cliff below the floor of the valley the best rate that trains is at the cliff, not at the floor.
    """
    truth, figures = LAWS["Hoffmann, lopsided"], {}
    print(
        f"{'diverging above':18}{'diverged runs':>15}{'ln lr off':>11}{'rms':>7}{'width':>7}{'diverges':>10}"
    )
    for cliff in (0.3, 0.05, -0.3):
        for used in (True, False):
            rows = []
            for seed in range(seeds):
                runs = with_cliff(truth, seed, cliff)
                law = fit_law(runs if used else runs[~runs.diverged], check=False)
                recipe = law.recommend(*TARGET)
                low, high = np.log(recipe.interval("learning_rate"))
                off = np.log(recipe.learning_rate) - truth.rate(*TARGET)
                batch_off = np.log(recipe.batch_tokens) - truth.batch(*TARGET)
                rows.append((off - min(cliff, 0.0), high - low, off - 0.4 * batch_off > cliff))
            off, width, diverges = np.mean(rows, axis=0)
            rms = float(np.sqrt(np.mean([row[0] ** 2 for row in rows])))
            kind = "used" if used else "left out"
            print(f"{f'e^{cliff} best rate':18}{kind:>15}{off:+11.3f}{rms:7.3f}{width:7.2f}{diverges:10.0%}")
            figures[f"{cliff}, {kind}"] = {"bias": off, "rms": rms, "width": width, "diverges": diverges}
    return figures


OTHERS = {
    "weight_decay": lambda n, d: 0.1 * (n / 1e8) ** 0.15 * (d / 4e9) ** -0.2,
    "beta2": lambda n, d: 1 - 0.03 * (d / 4e9) ** -0.1,
    "width_to_depth": lambda n, d: 60 * (n / 1e8) ** 0.2,
}


def with_others(truth: Truth, seed: int, count: int, steep: float) -> pd.DataFrame:
    """Runs that vary all at once; of weight decay lr wd / B counts, of beta2 (1 - beta2) / B."""
    rng = np.random.default_rng(seed)
    n, d = rng.choice(SIZES, count), rng.choice(TOKENS, count)
    u, v, w, b, a = rng.normal(size=(5, count)) * np.array([[0.7], [0.7], [1.0], [1.0], [0.5]])
    excess = 0.015 * (w + u - v) ** 2 + 0.01 * (b - v) ** 2 + 0.04 * a**2
    aspect = OTHERS["width_to_depth"](n, d) * np.exp(a)
    depth = (n / 12 / aspect**2) ** (1 / 3)
    loss = truth.floor(n, d) + truth.valley(u, v) + steep * excess + 0.003 * rng.normal(size=count)
    return pd.DataFrame(
        {
            "params": n,
            "tokens": d,
            "learning_rate": np.exp(truth.rate(n, d) + u),
            "batch_tokens": np.exp(truth.batch(n, d) + v),
            "loss": loss,
            "weight_decay": OTHERS["weight_decay"](n, d) * np.exp(w),
            "beta2": 1 - np.minimum((1 - OTHERS["beta2"](n, d)) * np.exp(b), 0.9),
            "depth": depth,
            "width": aspect * depth,
        }
    )


def others(seeds: int) -> dict:
    """Errors in nepers (beta2: of 1 - beta2) at the target, intervals, and how often a law was found."""
    truth, figures = LAWS["Hoffmann, lopsided"], {}
    print(f"{'hyperparameter':18}{'runs':>16}{'found':>8}{'|ln| off':>10}{'inside':>8}")
    for count, steep, kind in ((240, 1.0, "240"), (60, 1.0, "60"), (240, 0.0, "240, flat")):
        recipes = [
            fit_law(with_others(truth, seed, count, steep), check=False).recommend(*TARGET)
            for seed in range(seeds)
        ]
        for name, best in OTHERS.items():
            real, rows = best(*TARGET), []
            for recipe in recipes:
                if name in recipe.other:
                    low, high = recipe.interval(name)
                    pair = np.array([recipe.other[name], real])
                    off = abs(np.diff(np.log(1 - pair if name == "beta2" else pair))[0])
                    rows.append((off, low <= real <= high))
            off, inside = np.mean(rows, axis=0) if rows else (np.nan, np.nan)
            print(f"{name:18}{kind:>16}{len(rows):>5}/{seeds}{off:10.3f}{inside:8.0%}")
            figures[f"{name}, {kind}"] = {"found": len(rows), "off": float(off), "inside": float(inside)}
    return figures


def refused() -> dict:
    """Degenerate tables, each with the line that refuses it; None where a law says what it does not know."""
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
    figures = {"laws": figures, "inside": float(everything)}
    figures["cliffs"], figures["others"] = cliffs(options.seeds), others(options.seeds)
    print("degenerate tables:")
    write(options.output, {**figures, "refused": refused()})


if __name__ == "__main__":
    main()
