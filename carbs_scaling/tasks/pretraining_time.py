"""How long a search of pretraining takes on this machine: training steps of its own space, timed."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls
from scipy.stats import qmc

from carbs_scaling.compute.flops import flops_per_token
from carbs_scaling.config import SearchConfig
from carbs_scaling.errors import ConfigError
from carbs_scaling.models.family import ModelShape
from carbs_scaling.space.encoding import Encoding
from carbs_scaling.task import Point
from carbs_scaling.tasks.pretraining import Pretraining
from carbs_scaling.training.device import choose_device
from carbs_scaling.training.probe import CPU_TRIAL_SECONDS, Case, core_seconds, step_seconds
from carbs_scaling.training.recipe import Recipe

SAMPLES = 1024
CASES = 9  # steps that are timed: three sizes, each with a small, a middle and a large batch
# A search ends up in the middle of a well chosen space: its batches are taken from the middle half.
BATCH_QUARTERS = (0.25, 0.5, 0.75)
OCTAVE = 2.0
GPU_TRIAL_SECONDS = 10.0  # what a trial takes beside its training


@dataclass(frozen=True)
class SearchTime:
    """What a search is expected to take.

    Args:
        runs: how many.
        seconds: wall time.
        workers: trials at once.
        steps_timed: as text, a line each.
    """

    runs: int
    seconds: float
    workers: int
    steps_timed: tuple[str, ...]


def search_time(config: SearchConfig, task: Pretraining, workers: int) -> SearchTime:
    """Time steps of models in the middle of the space, and with them the runs that the budget buys.

    Runs: as many in each octave of FLOPs from the dearest that is allowed down to the cheapest, with points
    drawn evenly from the space (all dimensions in their own scale, batches from the middle half). A step
    takes a + b depth + its FLOPs / c seconds; a, b and c are fitted to the timed steps.

    Raises:
        ConfigError: no point of the space costs what the budget allows.
    """
    budget = config.budget
    device = choose_device(config.executor.device)
    on_cpu = device.type == "cpu"
    most, least = budget.max_trial_fraction * budget.flops, budget.min_trial_fraction * budget.flops
    recipes = [task.legal.recipe(point, seed=0) for point in _points(task)]
    costs = np.array([r.steps * _step_flops(task, r.shape, r.batch_size) for r in recipes])
    kept = (costs <= most) & (costs >= max(least, most / 1000))
    if not kept.any():
        raise ConfigError("no run of this space costs what budget.flops allows: raise it, or open the space")
    recipes = [recipe for recipe, keep in zip(recipes, kept, strict=True) if keep]
    costs = costs[kept]
    cases = _cases(recipes)
    cores = min(workers, os.cpu_count() or 1)
    timed = core_seconds(cases, cores) if on_cpu else [step_seconds(*case, device) for case in cases]
    # Errors count as shares of what a step takes.
    coefficients, _ = nnls(_terms(task, cases) / np.array(timed)[:, None], np.ones(len(timed)))
    steps = np.array([recipe.steps for recipe in recipes])
    seconds = steps * (_terms(task, [(r.shape, r.batch_size) for r in recipes]) @ coefficients)
    octaves = np.floor(np.log(most / costs) / np.log(OCTAVE)).astype(int)
    present = np.unique(octaves)
    mean_cost = np.array([costs[octaves == octave].mean() for octave in present])
    mean_seconds = np.array([seconds[octaves == octave].mean() for octave in present])
    each = budget.flops / mean_cost.sum()  # runs of an octave
    beside = CPU_TRIAL_SECONDS if on_cpu else GPU_TRIAL_SECONDS
    lines = tuple(
        f"width {shape.width}, depth {shape.depth}, {sequences * shape.sequence_length} tokens: "
        f"{1e3 * took:.1f} ms a step"
        for (shape, sequences), took in zip(cases, timed, strict=True)
    )
    return SearchTime(
        max(1, round(each * len(present))),
        float(each * (mean_seconds + beside).sum() / workers),
        workers,
        lines,
    )


def _points(task: Pretraining) -> list[Point]:
    """Legal points spread evenly over the space, with batches of the middle half."""
    encoding = Encoding(task.space)
    names = list(task.space)
    units = qmc.Sobol(encoding.knobs, seed=0).random(SAMPLES)
    if "batch_size" in names:
        column = names.index("batch_size")
        low, high = BATCH_QUARTERS[0], BATCH_QUARTERS[-1]
        units[:, column] = low + (high - low) * units[:, column]
    return [task.project(point) for point in encoding.points(units)]


def _cases(recipes: Sequence[Recipe]) -> list[Case]:
    """Three sizes of the recipes, each with three batches."""
    by_params = sorted(recipes, key=lambda recipe: recipe.shape.params)
    batches = sorted(recipe.batch_size for recipe in recipes)
    found: dict[tuple[int, int, int], Case] = {}
    for size in BATCH_QUARTERS:
        shape = by_params[int(size * (len(by_params) - 1))].shape
        for share in BATCH_QUARTERS:
            sequences = batches[int((share - 0.25) * 2 * (len(batches) - 1))]
            found.setdefault((shape.width, shape.depth, sequences), (shape, sequences))
    return list(found.values())[:CASES]


def _terms(task: Pretraining, cases: Sequence[Case]) -> np.ndarray:
    """1, depth and FLOPs of a step of each case, [cases, 3]: a step takes a sum of these in proportion."""
    return np.array([(1.0, shape.depth, _step_flops(task, shape, n)) for shape, n in cases])


def _step_flops(task: Pretraining, shape: ModelShape, sequences: int) -> float:
    return flops_per_token(shape, task.flops_convention) * sequences * shape.sequence_length
