"""Real training: a search whose trials go on from others against one whose trials begin anew, and stopping.

    nice python benchmarks/continued.py [--seeds 5] [--budget 5e12] [--smoke] [OVERRIDES]

All arms search the embedded text with the default space, unless overrides of the search say otherwise.
`fresh` has the default schedule, a cosine to a tenth; `continued` is `+experiment=continued`; `stopping` is
that with `trials.stopping=law`. Studies stay in `--folder`, so that the command goes on where it was ended.
Printed: the share of fresh's FLOPs that an arm has paid when its front is as good as fresh's at the end
(regret to the front of all runs together).
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from carbs_scaling.config import StudyConfig
from carbs_scaling.frontier import hypervolume
from carbs_scaling.ledger.study import Study
from carbs_scaling.trial import Status

ARMS = {
    "fresh": (),
    "continued": ("+experiment=continued",),
    "stopping": ("+experiment=continued", "trials.stopping=law"),
}


def main() -> None:
    """Prints a row an arm and seed, and draws the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--budget", type=float, default=5e12)
    parser.add_argument("--arms", default="fresh,continued")
    parser.add_argument("--smoke", action="store_true", help="one seed of 1e11 FLOPs")
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/results/continued"))
    parser.add_argument("overrides", nargs="*", help="of every search, such as executor.device=cuda")
    options = parser.parse_intermixed_args()
    if options.smoke:
        options.seeds, options.budget = 1, 1e11
    arms = options.arms.split(",")
    table: dict[str, list[list[tuple[float, float, float]]]] = {arm: [] for arm in arms}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for arm in arms:
            name = f"{arm}-{options.budget:g}-{seed}".replace("+", "")
            search(options, arm, name, seed)
            table[arm].append(runs(options.folder, name))
    every = [run for searches in table.values() for one in searches for run in one if np.isfinite(run[2])]
    cost, loss = np.array([run[1] for run in every]), np.array([run[2] for run in every])
    corner = float(np.log10(cost.max()) + 0.1), float(np.median(loss[cost <= np.quantile(cost, 0.1)]))
    best = hypervolume(cost, loss, corner)
    regrets = {arm: [regret(one, corner, best) for one in searches] for arm, searches in table.items()}
    rows = {}
    for arm in arms:
        shares = [needed(*pair) for pair in zip(regrets[arm], regrets["fresh"], strict=True)]
        rows[arm] = {"share_of_fresh": shares, "final_regret": [one[-1][1] for one in regrets[arm]]}
        reached = ", ".join(f"{share:.2f}" for share in shares)
        print(f"{arm:<10} final regret {np.mean(rows[arm]['final_regret']):.4f}  share of fresh: {reached}")
    result = {"budget": options.budget, "corner": corner, "arms": rows, "regrets": regrets}
    (options.folder / "result.json").write_text(json.dumps(result, indent=1))
    draw(options.folder / "continued.png", regrets)


def search(options: argparse.Namespace, arm: str, name: str, seed: int) -> None:
    """Runs a search, or goes on with it."""
    small = ("space.width={low: 8, high: 32}", "budget.trial_overhead_flops=1e9") if options.smoke else ()
    subprocess.run(
        [
            *(sys.executable, "-m", "carbs_scaling.cli", "search", *ARMS[arm], *small),
            *(f"study.name={name}", f"study.directory={options.folder}", f"study.seed={seed}"),
            *(f"budget.flops={options.budget:g}", f"budget.trial_overhead_flops={options.budget / 400:g}"),
            *("executor=in_process", "executor.device=cpu"),
            *options.overrides,
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def runs(folder: Path, name: str) -> list[tuple[float, float, float]]:
    """(FLOPs paid, FLOPs of the whole run, loss or NaN) of each trial, as they ended."""
    study = Study.load(StudyConfig(name, str(folder), None, 0))
    records = study.records_as_ended()
    stopped = sum(record.status is Status.STOPPED for record in records)
    children = sum(record.parent is not None for record in records)
    print(f"{name}: {len(records)} trials, {children} continued, {stopped} stopped", flush=True)
    return [
        (record.price_flops, record.flops, record.loss if record.completed else np.nan) for record in records
    ]


def regret(
    search: list[tuple[float, float, float]], corner: tuple[float, float], best: float
) -> list[tuple[float, float]]:
    """(FLOPs paid so far, regret) after each trial."""
    paid, found = 0.0, []
    for i, run in enumerate(search):
        paid += run[0]
        done = [other for other in search[: i + 1] if np.isfinite(other[2])]
        cost, loss = (np.array([other[k] for other in done]) for k in (1, 2))
        found.append((paid, 1 - (hypervolume(cost, loss, corner) / best if done else 0.0)))
    return found


def needed(own: list[tuple[float, float]], fresh: list[tuple[float, float]]) -> float:
    """FLOPs until the final regret of fresh is reached, over what fresh needed; infinite if never."""
    goal = fresh[-1][1]
    first = [next((paid for paid, there in one if there <= goal), np.inf) for one in (own, fresh)]
    return float(first[0] / first[1])


def draw(file: Path, regrets: dict[str, list[list[tuple[float, float]]]]) -> None:
    """Regret against FLOPs paid: the median of the seeds, in the range of all of them."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    _, axes = pyplot.subplots(figsize=(6, 4))
    paid = max(point[0] for searches in regrets.values() for one in searches for point in one)
    grid = np.geomspace(paid / 50, paid, 200)
    for number, (arm, searches) in enumerate(regrets.items()):
        places = [
            np.searchsorted([point[0] for point in one], grid * (1 + 1e-9), "right") for one in searches
        ]
        seen = [[1.0, *(point[1] for point in one)] for one in searches]
        values = np.array([np.array(own)[place] for own, place in zip(seen, places, strict=True)])
        axes.fill_between(grid, values.min(0), values.max(0), color=f"C{number}", alpha=0.2, linewidth=0)
        axes.plot(grid, np.median(values, 0), color=f"C{number}", label=f"{arm}, median of {len(searches)}")
    axes.set(xscale="log", yscale="log", xlabel="training FLOPs paid", ylabel="regret of the front")
    axes.grid(alpha=0.3)
    axes.legend()
    pyplot.savefig(file, dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main()
