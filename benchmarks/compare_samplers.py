"""Samplers side by side on real training: several seeds each, one budget, on the text that comes with Python.

    python benchmarks/compare_samplers.py             # hours on two cores; the same command goes on
    python benchmarks/compare_samplers.py --smoke     # minutes, to see everything work
    python benchmarks/compare_samplers.py --budget 8e12 --samplers carbs,random --seeds 0,1,2,3,4

Each study is `carbs-scaling search sampler=SAMPLER study.seed=SEED` with the default space and `--budget`
FLOPs; one that has ended is not run again. `carbs-scaling compare by=sampler` then writes, into `--folder`,
`compare.txt` (means and standard deviations over seeds), `compare.json` and `compare.png` (means and bands).
They are written anew after each round of seeds, so that what is there can be read before the end.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from carbs_scaling.files import write_atomically

SAMPLERS = "carbs,imbue_carbs,tpe,random,grid"
BUDGET_FLOPS = 8e12  # that of `conf/budget/laptop.yaml`: some 8 minutes a study on two quiet cores


def command(verb: str, *overrides: str, shown: bool = False) -> str:
    """Runs the program; gives what it printed where it is not shown.

    Raises:
        SystemExit: it failed.
    """
    words = [sys.executable, "-m", "carbs_scaling.cli", verb, *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "110"}
    done = subprocess.run(
        words, stdout=None if shown else subprocess.PIPE, text=True, env=environment, check=False
    )
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout or ""


def search(folder: Path, sampler: str, seed: int, budget_flops: float, overrides: list[str]) -> None:
    """One study to its end, unless that was done before with this budget."""
    ended_at = folder / "studies" / f"{sampler}-{seed}" / "ended_with_budget"
    if ended_at.exists() and float(ended_at.read_text()) >= budget_flops:
        return
    print(f"{sampler}, seed {seed}", flush=True)
    command(
        "search", f"study.name={sampler}-{seed}", f"study.directory={folder / 'studies'}",
        f"study.seed={seed}", f"sampler={sampler}", f"budget.flops={budget_flops:g}", *overrides,
    )  # fmt: skip
    write_atomically(ended_at, f"{budget_flops:g}".encode())


def compare(folder: Path, samplers: list[str], seeds: list[int]) -> None:
    """Table, JSON and picture of the studies that are there."""
    names = ",".join(f"{sampler}-{seed}" for sampler in samplers for seed in seeds)
    shared = (f"studies=[{names}]", f"study.directory={folder / 'studies'}", "by=sampler")
    text = command("compare", *shared, "plots=false")
    write_atomically(folder / "compare.txt", text.encode())
    command(
        "compare", *shared, "format=json", f"output={folder / 'compare.json'}"
    )  # and the picture beside it
    print(text, flush=True)


def main() -> None:
    """Runs what is not there yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samplers", default=SAMPLERS)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--budget", type=float, default=BUDGET_FLOPS, help="training FLOPs of each study")
    parser.add_argument("--folder", type=Path, default=Path("compare_samplers"))
    parser.add_argument("--smoke", action="store_true", help="two samplers, two seeds, the smoke preset")
    parser.add_argument("overrides", nargs="*", help="of the search, such as executor.workers=1")
    arguments = parser.parse_args()
    samplers = arguments.samplers.split(",")
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    budget, overrides = arguments.budget, list(arguments.overrides)
    if arguments.smoke:
        samplers, seeds, budget, overrides = samplers[:2], seeds[:2], 6e10, ["+experiment=smoke", *overrides]
    for index, seed in enumerate(seeds):
        for sampler in samplers:
            search(arguments.folder, sampler, seed, budget, overrides)
        if len(samplers) > 1:
            compare(arguments.folder, samplers, seeds[: index + 1])
    settings = {"samplers": samplers, "seeds": seeds, "budget_flops": budget, "overrides": overrides}
    write_atomically(arguments.folder / "settings.json", json.dumps(settings, indent=1).encode())


if __name__ == "__main__":
    main()
