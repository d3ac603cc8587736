"""Tables of many kinds drawn from known laws: is a good run ever left out, and are the intervals right?

    python benchmarks/laws_many_tables.py                    # 4 draws of each kind, some 4 CPU minutes
    python benchmarks/laws_many_tables.py --kinds search cliff --seeds 10
    python benchmarks/laws_many_tables.py --cliffs           # the signs by which laws/fit/cliff.py decides

Each draw has a law of its own: exponents, levels, curvature and skew of its valley, in the ranges of
published ones. It is asked for 3 and 10 times the largest N, at the table's usual D / N. "Left out" counts
rows that the reading or the fit set aside; in the kinds marked * some should be.
"""

import argparse
import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd

from carbs_scaling import fit_law
from carbs_scaling.laws.fit import cliff
from carbs_scaling.laws.fit import fit_law as fitting
from carbs_scaling.laws.runs.reading import read_runs
from carbs_scaling.laws.scaling_law import ScalingLaw

LARGE, TINY = (2e7, 6e8), (1e3, 4e4)  # ranges of N
FACTORS = (3, 10)  # of the largest N
STEP = 0.69  # between rates, and between batches, of a sweep, in logs


class Truth:
    """A law: Hoffmann's floor and parabolic or lopsided valleys, drawn."""

    def __init__(self, rng: np.random.Generator, sizes: tuple[float, float] = LARGE) -> None:
        self.rng, self.sizes, tiny = rng, sizes, sizes == TINY
        self.n0, self.d0 = (1e4, 5e5) if tiny else (1e8, 4e9)
        self.floor_of = (rng.uniform(1.2, 2.0), *rng.uniform(0.3, 0.9, 2), *rng.uniform(0.25, 0.45, 2))
        self.rate_of = (
            np.log(8e-3 if tiny else 1.5e-3) + 0.5 * rng.normal(),
            *rng.uniform([-0.65, -0.05], [-0.25, 0.25]),
        )
        self.batch_of = (
            np.log(1500 if tiny else 2e5) + 0.5 * rng.normal(),
            *rng.uniform([-0.05, 0.35], [0.15, 0.6]),
        )
        self.exchange, self.lopsided = rng.uniform(0.25, 0.55), rng.uniform() < 0.5
        self.steep = rng.uniform([0.03, 0.015], [0.1, 0.04]) * (1.5 if tiny else 1)
        self.noise, self.unit = (0.01 if tiny else 0.003), 1.0

    def rate(self, n, d):
        """ln of the best rate at the best batch."""
        return self._power(self.rate_of, n, d)

    def batch(self, n, d):
        """ln of the best batch."""
        return self._power(self.batch_of, n, d)

    def _power(self, of, n, d):
        return of[0] + of[1] * np.log(n / self.n0) + of[2] * np.log(d / self.d0)

    def floor(self, n, d):
        """Loss at the best rate and batch."""
        least, by_n, by_d, alpha, beta = self.floor_of
        return self.unit * (least + by_n * (n / self.n0) ** -alpha + by_d * (d / self.d0) ** -beta)

    def loss(self, n, d, ln_rate, ln_batch):
        """Loss of a run without noise."""
        v = ln_batch - self.batch(n, d)
        offs = ln_rate - self.rate(n, d) - self.exchange * v, v
        shapes = [2 * (np.expm1(0.6 * x) - 0.6 * x) / 0.36 if self.lopsided else x * x for x in offs]
        return self.floor(n, d) + self.unit * sum(
            k * shape for k, shape in zip(self.steep, shapes, strict=True)
        )

    def runs(self, n, d, u=0.0, v=0.0, ln_rate=None, ln_batch=None, noise=None):
        """A table of runs whose rate and batch lie u and v off the best ones, or are given."""
        ln_batch = self.batch(n, d) + v if ln_batch is None else ln_batch
        ln_rate = (
            self.rate(n, d) + u + self.exchange * (ln_batch - self.batch(n, d))
            if ln_rate is None
            else ln_rate
        )
        loss = self.loss(n, d, ln_rate, ln_batch)
        scatter = self.unit * (self.noise if noise is None else noise) * self.rng.normal(size=len(n))
        scatter += 0.05 * (loss - self.floor(n, d)) * self.rng.normal(size=len(n))
        columns = {
            "params": n,
            "tokens": d,
            "learning_rate": np.exp(ln_rate),
            "batch_tokens": np.exp(ln_batch),
        }
        return pd.DataFrame(columns | {"loss": loss + scatter})

    def scattered(self, count):
        """N, D of a random search, and offs of ln rate and ln batch."""
        n = np.exp(self.rng.uniform(*np.log(self.sizes), count))
        d = n * np.exp(self.rng.uniform(np.log(5), np.log(100), count))
        return n.round(), d.round(), self.rng.normal(size=count), 0.8 * self.rng.normal(size=count)

    def swept(self, sizes=4, ratios=3, rates=5, batches=4):
        """Runs of a sweep of rates and batches in each cell (N, D)."""
        axes = [np.geomspace(*self.sizes, sizes), np.geomspace(8, 120, ratios) if ratios > 1 else [20.0]]
        axes += [STEP * (np.arange(count) - (count - 1) / 2) for count in (rates, batches)]
        n, ratio, u, v = (axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))
        return n.round(), (n.round() * ratio).round(), u, v


def rounded(ln_values, digits):
    """To so many digits."""
    values = np.exp(ln_values)
    unit = 10.0 ** (np.floor(np.log10(values)) - digits + 1)
    return np.log(np.round(values / unit) * unit)


def powers_of_two(ln_values):
    """The nearest."""
    return np.log(2) * np.round(ln_values / np.log(2))


def search(truth, count, spread=0.17):
    """Runs mostly near the best rate known, the first half of them off by as much; one in seven far off."""
    n, d, u, v = truth.scattered(count)
    near = u * np.where(truth.rng.uniform(size=count) < 0.15, 0.8, spread)
    return n, d, near + 0.3 * truth.rng.normal() * (np.arange(count) < count / 2), v


def beyond_a_cliff(truth, places, jump, at=1.0):
    """Above e^at times the best rate the loss is another: `jump` of it."""
    runs = truth.runs(*places)
    return runs.assign(loss=np.where(places[2] > at, jump(runs.loss), runs.loss))


def slip(truth, places, **change):
    """One row typed wrongly: `loss` added, `rate` multiplied."""
    runs, odd = truth.runs(*places), np.arange(len(places[0])) == 7
    return runs.assign(
        loss=runs.loss + change.get("loss", 0) * odd,
        learning_rate=runs.learning_rate * change.get("rate", 1) ** odd,
    )


def isoflop(truth, rates):
    """Seven sizes at four budgets, each with some rates about the best."""
    near = np.geomspace(0.3, 3, 7)
    size, flops, u = (a.ravel() for a in np.meshgrid(near, np.geomspace(1e18, 3e19, 4), rates, indexing="ij"))
    n = (size * np.sqrt(flops / 120)).round()
    return n, (flops / 6 / n).round(), u


def by_rule(truth):
    """An IsoFLOP table whose rates and batches are typed by a rule."""
    n, d, _ = isoflop(truth, [0.0])
    return truth.runs(
        n, d, ln_rate=rounded(truth.rate(n, 20 * n), 2), ln_batch=powers_of_two(truth.batch(n, d))
    )


def at_one_batch(truth, places):
    """All runs at one batch."""
    return truth.runs(*places[:3], ln_batch=np.full(len(places[0]), np.log(2.0**18)))


def typed(truth, places, digits, decimals):
    """Rates of a digit or two, batches in powers of two, losses of so many decimals."""
    n, d, u, v = places
    runs = truth.runs(
        n, d, ln_rate=rounded(truth.rate(n, d) + u, digits), ln_batch=powers_of_two(truth.batch(n, d) + v)
    )
    return runs.assign(loss=runs.loss.round(decimals))


def in_bits(truth, places):
    """Losses in bits a byte."""
    truth.unit = 1 / (4 * np.log(2))
    return truth.runs(*places)


def two_levels(truth):
    """Tiny models, of which some at high rates end at a second level."""
    n, d, u, v = truth.scattered(60)
    runs, up = truth.runs(n, d, u, v), (u > 0.3) & (truth.rng.uniform(size=60) < 0.4)
    return runs.assign(loss=runs.loss + up * truth.rng.uniform(0.02, 0.15, 60))


def repeated(truth):
    """Three seeds of each run of a sweep, to three decimals."""
    n, d, u, v = (np.repeat(x, 3) for x in truth.swept(3, 2, 4, 2))
    runs = truth.runs(n, d, u, v)
    return runs.assign(loss=runs.loss.round(3))


def fixed_ratio(places):
    """D = 20 N."""
    return places[0], 20 * places[0], *places[2:]


def wide(places):
    """Rates over a range twice as wide."""
    return places[0], places[1], 2 * places[2], places[3]


Kind = Callable[[Truth], pd.DataFrame]
KINDS: dict[str, tuple[tuple[float, float], Kind]] = {
    **{f"random {c}": (LARGE, lambda t, c=c: t.runs(*t.scattered(c))) for c in (8, 12, 25, 50)},
    **{f"tiny, random {c}": (TINY, lambda t, c=c: t.runs(*t.scattered(c))) for c in (12, 50)},
    "sweep": (LARGE, lambda t: t.runs(*t.swept())),
    "tiny, sweep": (TINY, lambda t: t.runs(*t.swept(5, 2, 6, 3))),
    "three rates, three sizes": (LARGE, lambda t: at_one_batch(t, t.swept(3, 1, 3, 1))),
    "search": (TINY, lambda t: t.runs(*search(t, 60))),
    "search, large": (LARGE, lambda t: t.runs(*search(t, 40))),
    "search, tight": (TINY, lambda t: t.runs(*search(t, 50, 0.12))),
    "search, typed": (TINY, lambda t: typed(t, search(t, 60), 2, 4)),
    "IsoFLOP, by rule *": (LARGE, by_rule),
    "IsoFLOP, swept": (LARGE, lambda t: t.runs(*isoflop(t, [-STEP, 0, STEP]))),
    "noise .03, 25": (LARGE, lambda t: t.runs(*t.scattered(25), noise=0.03)),
    "noise .02, sweep": (LARGE, lambda t: t.runs(*t.swept(), noise=0.02)),
    "diverged, 50": (LARGE, lambda t: beyond_a_cliff(t, t.scattered(50), lambda loss: np.nan)),
    "collapsed, 50 *": (LARGE, lambda t: beyond_a_cliff(t, t.scattered(50), lambda loss: 6 + 0.5 * loss)),
    "cliff, 50 *": (LARGE, lambda t: beyond_a_cliff(t, t.scattered(50), lambda loss: 1.1 * loss)),
    "cliff, sweep *": (LARGE, lambda t: beyond_a_cliff(t, t.swept(4, 3, 6, 3), lambda loss: 1.1 * loss, 0.7)),
    "wide rates, sweep": (LARGE, lambda t: t.runs(*t.swept(4, 3, 8, 2))),
    "tiny, wide rates": (TINY, lambda t: t.runs(*wide(t.scattered(40)))),
    "tiny, two levels": (TINY, two_levels),
    "typed, sweep": (LARGE, lambda t: typed(t, t.swept(4, 3, 5, 3), 1, 3)),
    "typed, 25": (LARGE, lambda t: typed(t, t.scattered(25), 1, 2)),
    "a slip of the loss, 25": (LARGE, lambda t: slip(t, t.scattered(25), loss=0.8)),
    "a slip of the loss, sweep": (LARGE, lambda t: slip(t, t.swept(4, 3, 5, 2), loss=-0.8)),
    "a slip of the rate, 50": (LARGE, lambda t: slip(t, t.scattered(50), rate=10)),
    "D = 20 N, sweep": (LARGE, lambda t: t.runs(*fixed_ratio(t.swept(6, 1, 5, 3)))),
    "D = 20 N, 25": (LARGE, lambda t: t.runs(*fixed_ratio(t.scattered(25)))),
    "one batch, sweep": (LARGE, lambda t: at_one_batch(t, t.swept(5, 3, 5, 1))),
    "one batch, search": (LARGE, lambda t: at_one_batch(t, search(t, 40))),
    "three seeds": (LARGE, repeated),
    "bits a byte, 40": (LARGE, lambda t: in_bits(t, t.scattered(40))),
    "bits a byte, sweep": (LARGE, lambda t: in_bits(t, t.swept())),
}


def drawn(kind: str, seed: int) -> tuple[Truth, pd.DataFrame]:
    """The law and the table of one draw."""
    sizes, table = KINDS[kind]
    truth = Truth(np.random.default_rng([seed, *kind.encode()]), sizes)
    return truth, table(truth)


def judged(kind: str, seed: int) -> dict:
    """What was left out of one table, and how its law does beyond it."""
    truth, runs = drawn(kind, seed)
    law = fit_law(runs)
    assert isinstance(law, ScalingLaw)
    table = read_runs(runs)[""]
    cliffs = [int(said.split()[-1]) for said in law.warnings if "beyond a cliff" in said]
    ended = runs.dropna()
    rows: dict = {"inside": [], "regret": []}
    for factor in FACTORS:
        n = factor * ended.params.max()
        d = n * float(np.median(ended.tokens / ended.params))
        recipe = law.recommend(n, d)
        ln_rate, ln_batch = np.log([recipe.learning_rate, recipe.batch_tokens])
        best_batch = ln_batch if law.support.one_batch else truth.batch(n, d)
        best_rate = truth.rate(n, d) + truth.exchange * (best_batch - truth.batch(n, d))
        least = float(truth.loss(n, d, best_rate, best_batch))
        real = np.exp(best_rate), np.exp(best_batch), least
        bounds = [recipe.interval(name) for name in ("learning_rate", "batch_tokens", "loss")]
        rows["inside"].append([low <= value <= high for (low, high), value in zip(bounds, real, strict=True)])
        rows["regret"].append(float(truth.loss(n, d, ln_rate, ln_batch)) - least)
    rows["left out"] = table.collapsed + table.off_rule + table.far + table.again + sum(cliffs)
    rows["rule"] = "learning_rate" in law.support.by_rule
    return rows


def main() -> None:
    """Prints the table, or the signs of cliffs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", default=[""], help="those whose names begin so")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--cliffs", action="store_true", help="the signs of cliffs instead")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    kinds = [kind for kind in KINDS if kind.startswith(tuple(options.kinds))]
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    if options.cliffs:
        signs_of_cliffs(kinds, seeds)
        return
    print("| kind | regret at 3, 10 times N | 90% intervals hold rate / batch / loss | left out | by rule |")
    print("|---" * 5 + "|")
    everything = []
    for kind in kinds:
        found = [judged(kind, seed) for seed in seeds]
        inside = np.mean([row["inside"] for row in found], axis=0)
        everything.append(inside)
        regrets = " / ".join(f"{value:.4f}" for value in np.mean([row["regret"] for row in found], axis=0))
        held = "; ".join(" / ".join(f"{share:.0%}" for share in at) for at in inside)
        left, rules = (sum(row[name] for row in found) for name in ("left out", "rule"))
        print(f"| {kind} | {regrets} | {held} | {left} | {rules} |", flush=True)
    held = "; ".join(" / ".join(f"{share:.0%}" for share in at) for at in np.mean(everything, axis=0))
    print(f"| mean | | {held} | | |")


def signs_of_cliffs(kinds: list[str], seeds: range) -> None:
    """Noise of the kept runs without the suspects over that with, and how far the suspects lie above."""
    print("| kind | seed | suspects | noise without over with | deviations above |")
    print("|---" * 5 + "|")
    decide = cliff.is_cliff

    def told(law, without, kept, suspects):
        quieter, above = cliff.signs(law, without, kept, suspects)
        print(f"| {told.name} | {len(suspects)} | {quieter:.2f} | {above:.1f} |", flush=True)
        return decide(law, without, kept, suspects)

    fitting.is_cliff = told
    for kind in kinds:
        for seed in seeds:
            told.name = f"{kind} | {seed}"
            fit_law(drawn(kind, seed)[1], check=False)


if __name__ == "__main__":
    main()
