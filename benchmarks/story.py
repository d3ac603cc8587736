"""The README's story from end to end, and whether it held: search, fit, recommend, train, then a grid.

    python benchmarks/story.py             # under two hours on two quiet cores; the same command goes on
    python benchmarks/story.py --smoke     # minutes, to see everything work

1. For each seed: the default search, its law (`fit`), a recipe (`recommend format=recipe`) for ten times the
   N of the largest run of all seeds and less than one pass over the text, and that recipe trained (`train`).
2. Around each recommendation a grid of 5 rates x 3 batches, factors of 2 apart. All grids lie on one lattice,
   so that cells which seeds share are trained once. The first recommendation is trained with two further
   seeds: twice their standard deviation is the seed noise.
3. Does the trained loss lie inside the recommendation's 90% interval, and within the seed noise of the best
   cell?

Everything is a call of the command line. Models and ledgers lie in `--folder`; a run that is there is not
made again. What is known so far is written to `story.json` and `story.md` there after every run.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import stdev
from typing import Any

from carbs_scaling.files import write_atomically

Cell = tuple[int, int]  # powers of 2 of (rate, batch) on the lattice
Values = dict[str, Any]

TIMES = 10.0  # N of the trained model over that of the largest run
RATE_STEPS, BATCH_STEPS = range(-2, 3), range(-1, 2)
NOISE_RUNS = 3  # of one recommendation, the trained one among them
LEVEL = 0.9


@dataclass(frozen=True)
class Story:
    """Where it happens and what it is about.

    Args:
        folder: of ledgers, models and results.
        seeds: of the searches.
        tokens: D of the trained model.
        processes: training runs at once; a search takes its own default.
        overrides: of the search.
    """

    folder: Path
    seeds: tuple[int, ...]
    tokens: float
    processes: int
    overrides: tuple[str, ...] = ()

    def call(self, verb: str, *overrides: str) -> str:
        """What one command of the program printed, errors included; it must end well."""
        command = [sys.executable, "-m", "carbs_scaling.cli", verb, *overrides]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise SystemExit(f"{verb} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def study(self, seed: int) -> tuple[str, ...]:
        """The overrides that name the study of a seed."""
        return f"study.name=seed{seed}", f"study.directory={self.folder / 'studies'}", f"study.seed={seed}"

    def searched(self, seed: int) -> Values:
        """The search of a seed, to its end, and what its law says."""
        kept = self.folder / f"law{seed}.json"
        if not kept.exists():
            print(f"seed {seed}: search", flush=True)
            self.call("search", *self.study(seed), *self.overrides)
            law = json.loads(self.call("fit", *self.study(seed)[:2], "format=json", "plots=false"))
            write_atomically(kept, json.dumps(law, indent=1).encode())
        return json.loads(kept.read_text())

    def recommended(self, seed: int, params: float) -> Values:
        """The recipe of a seed's law; refused targets end the story."""
        file = self.folder / f"recipe{seed}.json"
        if not file.exists():
            target = f"target.params={params}", f"target.tokens={self.tokens}", f"level={LEVEL}"
            self.call("recommend", *self.study(seed)[:2], *target, "format=recipe", f"output={file}")
        return json.loads(file.read_text())

    def trained(self, name: str, recipe_of: int, *overrides: str) -> Values:
        """The record of a recipe's run, with overrides, from its folder or made now."""
        record = self.folder / "trained" / name / "training.json"
        if not record.exists():
            where = f"train.name={name}", f"train.directory={self.folder / 'trained'}"
            self.call("train", f"recipe={self.folder / f'recipe{recipe_of}.json'}", *where, *overrides)
            print(f"{name}: loss {json.loads(record.read_text())['loss']:.4f}", flush=True)
        return json.loads(record.read_text())


def largest_params(law: Values) -> float:
    """N of the largest run that a law was fitted to."""
    return float(law["support"]["high"][0])


def lattice(recipes: Iterable[Values]) -> tuple[float, int]:
    """Rate and batch in sequences of the cell (0, 0): the geometric means of the recommendations."""
    recipes = list(recipes)
    rate = math.exp(sum(math.log(r["peak_learning_rate"]) for r in recipes) / len(recipes))
    batch = math.exp(sum(math.log(r["batch_sequences"]) for r in recipes) / len(recipes))
    return rate, max(1, round(batch))


def grid_around(recipe: Values, origin: tuple[float, int]) -> list[Cell]:
    """The 5 x 3 cells around the one nearest to a recommendation."""
    rate = round(math.log2(recipe["peak_learning_rate"] / origin[0]))
    batch = round(math.log2(recipe["batch_sequences"] / origin[1]))
    return [(rate + i, batch + j) for i in RATE_STEPS for j in BATCH_STEPS]


def cell_overrides(cell: Cell, origin: tuple[float, int]) -> tuple[str, str]:
    """Rate and batch of a cell; sequences are whole."""
    batch = max(1, round(origin[1] * 2.0 ** cell[1]))
    return f"space.learning_rate={origin[0] * 2.0 ** cell[0]:.6g}", f"space.batch_size={batch}"


def tell(story: Story) -> None:
    """The whole story; writes what is known after every run."""
    laws = {seed: story.searched(seed) for seed in story.seeds}
    params = TIMES * max(largest_params(law) for law in laws.values())
    recipes = {seed: story.recommended(seed, params) for seed in story.seeds}
    first = story.seeds[0]
    # One shape for all, so that the seeds' recommendations and cells are runs of one model.
    shape = tuple(f"space.{name}={recipes[first]['model'][name]}" for name in ("width", "depth"))
    same = {seed: recipes[seed]["model"] == recipes[first]["model"] for seed in story.seeds}
    origin = lattice(recipes.values())
    grids = {seed: grid_around(recipes[seed], origin) for seed in story.seeds}
    runs: dict[str, Callable[[], Values]] = {
        f"seed{seed}": partial(story.trained, f"seed{seed}", seed, *(() if same[seed] else shape))
        for seed in story.seeds
    }
    for number in range(1, NOISE_RUNS):
        runs[f"noise{number}"] = partial(
            story.trained, f"noise{number}", first, f"train.seed={1000 + number}"
        )
    # From the middle outwards: what is cut short is still of use.
    cells = sorted(
        {cell for grid in grids.values() for cell in grid}, key=lambda c: (c[0] ** 2 + c[1] ** 2, c)
    )
    for cell in cells:
        overrides = *shape, *cell_overrides(cell, origin)
        runs[cell_name(cell)] = partial(story.trained, cell_name(cell), first, *overrides)
    losses: dict[str, float] = {}
    report = partial(write_report, story, laws, recipes, origin, grids, losses)
    report()
    with ThreadPoolExecutor(story.processes) as pool:
        for name, record in zip(runs, pool.map(lambda run: run(), runs.values()), strict=True):
            losses[name] = record["loss"]
            report()
    print((story.folder / "story.md").read_text())


def cell_name(cell: Cell) -> str:
    """The folder of a cell's model."""
    return f"rate{cell[0]}_batch{cell[1]}"


def write_report(
    story: Story,
    laws: dict[int, Values],
    recipes: dict[int, Values],
    origin: tuple[float, int],
    grids: dict[int, list[Cell]],
    losses: dict[str, float],
) -> None:
    """`story.json` with every figure, and `story.md` with a row for each seed."""
    noise = [
        losses[n]
        for n in (f"seed{story.seeds[0]}", *(f"noise{i}" for i in range(1, NOISE_RUNS)))
        if n in losses
    ]
    twice_sd = 2 * stdev(noise) if len(noise) == NOISE_RUNS else None
    rows = []
    for seed in story.seeds:
        law, recipe, low_high = laws[seed], recipes[seed], recipes[seed]["prediction"]["interval"]
        loss = losses.get(f"seed{seed}")
        known = {cell: losses[cell_name(cell)] for cell in grids[seed] if cell_name(cell) in losses}
        best = min(known, key=lambda cell: known[cell]) if known else None
        behind = None if loss is None or best is None else loss - known[best]
        rows.append(
            {
                "seed": seed,
                "runs": law["support"]["runs"],
                "largest_params": largest_params(law),
                "warnings": law["warnings"],
                "learning_rate": recipe["peak_learning_rate"],
                "batch_tokens": recipe["batch_tokens"],
                "predicted": recipe["prediction"]["loss"],
                "interval": low_high,
                "loss": loss,
                "inside": None if loss is None else low_high[0] <= loss <= low_high[1],
                "cells": len(known),
                "best_cell": best,
                "best_cell_loss": None if best is None else known[best],
                "behind_best": behind,
                "within_noise": None if behind is None or twice_sd is None else behind <= twice_sd,
            }
        )
    first = recipes[story.seeds[0]]
    head = {
        **{name: first[name] for name in ("params", "tokens", "flops")},
        "model": first["model"],
        "origin": {"learning_rate": origin[0], "batch_sequences": origin[1]},
        "twice_seed_sd": twice_sd,
    }
    content = {**head, "seeds": rows, "losses": losses}
    write_atomically(story.folder / "story.json", (json.dumps(content, indent=1) + "\n").encode())
    write_atomically(story.folder / "story.md", markdown(head, rows).encode())


def markdown(head: Values, rows: list[Values]) -> str:
    """A table for people; what is not known yet is a dash."""

    def shown(value: Any, form: str = "") -> str:
        if value is None:
            return "-"
        return ("no", "yes")[value] if isinstance(value, bool) else format(value, form)

    model = head["model"]
    lines = [
        f"N {head['params']:,} ({model['width']} x {model['depth']}), D {head['tokens']:,}; "
        f"twice the seed sd {shown(head['twice_seed_sd'], '.4f')}",
        "",
        "| seed | runs | largest N | rate | batch | predicted (90%) | trained | inside "
        "| best of grid (cells) | behind | within noise |",
        "|" + " --- |" * 11,
    ]
    for row in rows:
        low, high = row["interval"]
        lines.append(
            f"| {row['seed']} | {row['runs']} | {row['largest_params']:,.0f} | {row['learning_rate']:.2e} "
            f"| {row['batch_tokens']:,} | {row['predicted']:.3f} ({low:.3f} to {high:.3f}) "
            f"| {shown(row['loss'], '.4f')} | {shown(row['inside'])} "
            f"| {shown(row['best_cell_loss'], '.4f')} ({row['cells']}) | {shown(row['behind_best'], '+.4f')} "
            f"| {shown(row['within_noise'])} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--tokens", type=float, default=1.5e6, help="D of the trained model")
    parser.add_argument("--processes", type=int, default=2, help="training runs at once")
    parser.add_argument("--folder", default="benchmarks/results/story")
    parser.add_argument("--smoke", action="store_true", help="one tiny search, a tiny model")
    arguments = parser.parse_args()
    smoke = ("+experiment=smoke",) if arguments.smoke else ()
    folder = Path(arguments.folder + ("-smoke" if arguments.smoke else "")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    seeds = (0,) if arguments.smoke else tuple(int(seed) for seed in arguments.seeds.split(","))
    tokens = 1e5 if arguments.smoke else arguments.tokens
    tell(Story(folder, seeds, tokens, arguments.processes, smoke))


if __name__ == "__main__":
    main()
