"""A grid of learning rates and batches around a recommended recipe, trained and compared."""

import itertools
import math
from dataclasses import replace

import numpy as np
from _laboratory import SEQUENCE_LENGTH, Laboratory

from carbs_scaling.training.recipe import Recipe

GRID_RATES, GRID_BATCHES = range(-2, 3), range(-1, 2)  # powers of 2 around the recommendation
REPEATED_CELLS = 2  # best cells of the grid that are repeated, beside the recommendation


def cell_recipe(centre: Recipe, cell: tuple[int, int], seed: int = 0) -> Recipe:
    """The large model so many factors of 2 in rate and batch away from the recommendation, at the same D.

    Sequences are whole: a smaller batch is rounded down, so that the grid is no narrower than it says.
    """
    sequences = max(1, math.floor(centre.batch_size * 2.0 ** cell[1]))
    return replace(
        centre,
        learning_rate=centre.learning_rate * 2.0 ** cell[0],
        batch_size=sequences,
        steps=round(centre.tokens / (sequences * SEQUENCE_LENGTH)),
        seed=seed,
    )


def train_grid(lab: Laboratory, centre: Recipe, extensions: int) -> dict[tuple[int, int], float]:
    """Losses by cell, infinite where a run diverged; beyond 5 x 3 where the best lay on an edge."""
    rates, batches = list(GRID_RATES), list(GRID_BATCHES)
    while not has_batch(centre, batches[0]):  # below one sequence there is none: one more above
        batches = [j + 1 for j in batches]
    losses: dict[tuple[int, int], float] = {}
    for extension in range(extensions + 1):
        # The recommendation first, then outwards: what is cut short is still of use.
        cells = sorted(itertools.product(rates, batches), key=lambda c: (abs(c[0]) + abs(c[1]), c))
        for cell in cells:
            if cell not in losses:
                run = lab.train(cell_recipe(centre, cell), "extend" if extension else "grid")
                losses[cell] = math.inf if run["diverged"] else run["loss"]
        best = min(losses, key=losses.get)
        wider = widened(rates, best[0]), [j for j in widened(batches, best[1]) if has_batch(centre, j)]
        if wider == (rates, batches):
            break
        rates, batches = wider
    return losses


def has_batch(centre: Recipe, step: int) -> bool:
    """Whether so many factors of 2 from the recommended batch is a sequence or more."""
    return centre.batch_size * 2.0**step >= 1


def widened(steps: list[int], best: int) -> list[int]:
    """Consecutive steps, with one more on the side whose end is the best."""
    low = min(steps) - (best == min(steps))
    return list(range(low, max(steps) + (best == max(steps)) + 1))


def compare(lab: Laboratory, centre: Recipe, losses: dict[tuple[int, int], float]) -> dict:
    """The recommendation against the best cells, each with several seeds."""
    finite = [cell for cell in losses if math.isfinite(losses[cell])]
    cells = [(0, 0), *[c for c in sorted(finite, key=losses.get) if c != (0, 0)][:REPEATED_CELLS]]
    table = {}
    for seed in range(lab.plan.repeats):
        for cell in cells:
            run = lab.train(cell_recipe(centre, cell, seed), "repeat")
            table.setdefault(cell, []).append(math.inf if run["diverged"] else run["loss"])
    seeds = np.array([table[cell] for cell in cells])
    means = seeds.mean(axis=1)
    best, fresh = int(np.argmin(means)), seeds[:, 1:].mean(axis=1)
    seed_sd = float(np.sqrt(seeds.var(axis=1, ddof=1).mean()))
    return {
        "cells": [list(cell) for cell in cells],
        "losses": seeds.tolist(),
        "best_cell": list(cells[best]),
        "behind_best": float(means[0] - means[best]),
        # Without the seed by which the cells were chosen, whose luck favours them.
        "behind_best_fresh_seeds": float(fresh[0] - fresh.min()),
        "seed_sd": seed_sd,
        "standard_error": seed_sd * math.sqrt(2 / lab.plan.repeats),
    }


def show_grid(centre: Recipe, losses: dict[tuple[int, int], float]) -> None:
    """Losses of seed 0, a row for each batch."""
    rates, batches = (sorted({cell[axis] for cell in losses}) for axis in (0, 1))
    print(f"{'batch':>8}  " + "".join(f"{centre.learning_rate * 2.0**i:11.3e}" for i in rates))
    for j in batches:
        cells = (losses.get((i, j)) for i in rates)
        tokens = cell_recipe(centre, (0, j)).batch_tokens
        print(f"{tokens:8,}  " + "".join(f"{'' if loss is None else f'{loss:.4f}':>11}" for loss in cells))
