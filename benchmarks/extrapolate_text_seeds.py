"""Many searches of `extrapolate_text.py` at once: how good is a recommendation, how far do seeds differ?

    python benchmarks/extrapolate_text.py --seed 1 --no-grid --out results/adamw_1.json    # and so on
    python benchmarks/extrapolate_text_seeds.py results/adamw_*.json

Reads the files of one optimizer. All runs of the large model in them - grids and trained recommendations -
give a map of its loss over learning rate and batch: a cubic in their logs, by least squares. The law is
fitted again to each file's small runs, and its recommendation, in whole sequences, is read off that map.
"""

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _laboratory import SEQUENCE_LENGTH
from extrapolate_text import law_of
from scipy.spatial import Delaunay

from carbs_scaling.laws.recipe import Recommendation
from carbs_scaling.laws.recommend.peak import peak_learning_rate

# Runs further above the best of all are left out of the map: a cubic would bend to them.
MAP_HEIGHT = 0.18
MAP_RUNS = 20  # twice the coefficients of a cubic


@dataclass(frozen=True)
class LossMap:
    """Loss of the large model over learning rate and batch.

    Args:
        centre: logs of (learning rate, batch tokens).
        weights: of `cubic`.
        residual_sd: of the runs around it, seed noise and misfit together.
        hull: of the runs, in logs: there is no map outside.
    """

    centre: np.ndarray
    weights: np.ndarray
    residual_sd: float
    hull: Delaunay

    def loss(self, learning_rate, batch_tokens) -> np.ndarray:
        """In the shape of both; nan where no runs are."""
        logs = np.log(np.stack(np.broadcast_arrays(learning_rate, batch_tokens), axis=-1).astype(float))
        return np.where(self.hull.find_simplex(logs) >= 0, cubic(logs - self.centre) @ self.weights, np.nan)

    def best(self, least_batch: int) -> tuple[float, float, float]:
        """(learning rate, batch, loss) of the lowest whole batch."""
        low, high = self.hull.min_bound, self.hull.max_bound
        rates = np.exp(np.linspace(low[0], high[0], 200))
        batches = np.arange(least_batch, math.exp(high[1]) + 1, least_batch)
        rate, batch = np.meshgrid(rates, batches)
        losses = self.loss(rate, batch)
        at = np.unravel_index(np.nanargmin(losses), losses.shape)
        return float(rate[at]), float(batch[at]), float(losses[at])


def cubic(x: np.ndarray) -> np.ndarray:
    """All monomials up to the third degree: (n, 2) -> (n, 10)."""
    powers = [(i, j) for i in range(4) for j in range(4 - i)]
    return np.stack([x[..., 0] ** i * x[..., 1] ** j for i, j in powers], axis=-1)


def loss_map(runs: list[dict]) -> LossMap:
    """The map of runs of one model."""
    low = min(run["loss"] for run in runs if not run["diverged"])
    near = [run for run in runs if not run["diverged"] and run["loss"] < low + MAP_HEIGHT]
    if len(near) < MAP_RUNS:
        raise SystemExit(
            f"{len(near)} runs of the large model near its best are too few for a map: {MAP_RUNS}"
        )
    logs = np.log([(run["learning_rate"], run["batch_tokens"]) for run in near])
    losses = np.array([run["loss"] for run in near])
    centre = logs.mean(axis=0)
    weights, *_ = np.linalg.lstsq(cubic(logs - centre), losses, rcond=None)
    residual = losses - cubic(logs - centre) @ weights
    degrees = len(losses) - len(weights)
    return LossMap(centre, weights, float(np.sqrt((residual**2).sum() / degrees)), Delaunay(logs))


def inside(advice: Recommendation, name: str, value: float) -> bool:
    """Whether the 90% interval holds it."""
    low, high = advice.interval(name)
    return low <= value <= high


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, help="of one optimizer")
    parser.add_argument("--map", nargs="*", type=Path, default=[], help="further files, for the map alone")
    options = parser.parse_args()
    contents = {path: json.loads(path.read_text()) for path in (*options.files, *options.map)}
    optimizers = {content["plan"]["optimizer"] for content in contents.values()}
    if len(optimizers) > 1:
        raise SystemExit(f"these files are of {', '.join(sorted(optimizers))}: give those of one optimizer")
    optimizer = optimizers.pop()
    small = {
        path: [run for run in contents[path]["runs"] if run["stage"] in ("sweep", "search")]
        for path in options.files
    }
    large = [
        run
        for content in contents.values()
        for run in content["runs"]
        if run["stage"] not in ("sweep", "search")
    ]
    if not large:
        raise SystemExit("these files hold no run of the large model: leave out --search-only, or give --map")
    params, tokens = large[0]["params"], round(float(np.median([run["tokens"] for run in large])))
    found = loss_map(large)
    rate, batch, best = found.best(SEQUENCE_LENGTH)
    print(
        f"{optimizer}: {len(large)} runs of N {params:,}, D {tokens:,}; map within "
        f"{found.residual_sd:.4f} of them; its best {best:.4f} at {rate:.2e} and {batch:.0f} tokens\n"
        f"{'file':24}{'runs':>5}{'rate':>10}{'batch':>7}{'trained at':>17}{'behind':>8}{'loss':>7}  "
        "inside 90%: rate batch loss"
    )
    rows = []
    for path, runs in small.items():
        law = law_of(runs)
        advice = law.recommend(params, tokens)
        trained = max(1, round(advice.batch_tokens / SEQUENCE_LENGTH)) * SEQUENCE_LENGTH
        peak = peak_learning_rate(law, params, tokens, trained, optimizer).learning_rate
        behind = float(found.loss(peak, trained)) - best
        held = [
            inside(advice, n, v)
            for n, v in (("learning_rate", rate), ("batch_tokens", batch), ("loss", best))
        ]
        rows.append((behind, *held))
        print(
            f"{path.name[:23]:24}{len(runs):5}{advice.learning_rate:10.2e}{advice.batch_tokens:7.0f}"
            f"{peak:10.2e} {trained:6}{behind:8.4f}{advice.loss:7.3f}  "
            + " ".join("yes" if x else "no " for x in held),
            flush=True,
        )
    behind = np.array([row[0] for row in rows])
    known = behind[np.isfinite(behind)]
    if not len(known):
        raise SystemExit("every recommendation lies off the map")
    error = known.std(ddof=1) / math.sqrt(len(known)) if len(known) > 1 else math.nan
    print(
        f"behind the map's best: mean {known.mean():.4f} (standard error {error:.4f}), median "
        f"{np.median(known):.4f}, most {known.max():.4f}; {len(behind) - len(known)} off the map; in 90%: "
        + ", ".join(f"{share:.0%}" for share in np.mean([row[1:] for row in rows], axis=0))
    )


if __name__ == "__main__":
    main()
