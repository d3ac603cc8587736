"""Continued runs against the same runs in one piece: a paired difference with its error, and the seed noise.

    nice python benchmarks/continued_pairs.py [--pairs 10] [--smoke]

A chain of three runs of one recipe, each 1.5 times longer than the one before and begun with its trunk; its
last run is compared with the same run in one piece, by the same seed and by another one.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir

from carbs_scaling.config_loading import load_section
from carbs_scaling.data.config import DataConfig
from carbs_scaling.data.token_files import prepare_text
from carbs_scaling.models.family import ModelShape
from carbs_scaling.training.checkpoint import CheckpointPlan
from carbs_scaling.training.config import ObjectiveConfig, OptimizerConfig, ScheduleConfig
from carbs_scaling.training.job import TrainingJob
from carbs_scaling.training.loop import train
from carbs_scaling.training.recipe import Recipe

SCHEDULE = ScheduleConfig("wsd", 0.0, 0.3, "linear", 1.0, warmup_steps=40)
GROWTH, LINKS = 1.5, 3


def main() -> None:
    """Prints a line a pair, then the differences."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=600, help="of the longest run; a step has 1,024 tokens")
    parser.add_argument("--smoke", action="store_true", help="two pairs of 90 steps")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/continued_pairs.json"))
    options = parser.parse_args()
    pairs, steps = (2, 90) if options.smoke else (options.pairs, options.steps)
    torch.set_num_threads(1)
    with initialize_config_dir(str(Path("conf").resolve()), version_base=None):
        text = prepare_text(load_section("data", DataConfig, compose("search").data))
    base = TrainingJob(
        recipe=Recipe(ModelShape("gpt2", 32, 1, 16, 256, 128), 6e-3, 8, steps, 0.1, 0.95, 0.0, 0),
        text=text,
        optimizer=OptimizerConfig("adamw", False, True, 1.0),
        schedule=SCHEDULE,
        objective=ObjectiveConfig("nats_per_token", 65_536, False),
        device="cpu",
        compile=False,
        micro_batch_tokens=None,
        curve_path=None,
    )
    print(f"N {base.recipe.params:,}, {steps} steps of {base.recipe.batch_tokens:,} tokens")
    rows = []
    for pair in range(pairs):
        chain = chained(base, steps, pair)
        same, other = (
            train(replace(base, recipe=replace(base.recipe, seed=seed))).loss for seed in (pair, 1000 + pair)
        )
        rows.append({"continued": chain, "one_piece": same, "one_piece_of_another_seed": other})
        print(f"{pair:3d}  continued {chain:.5f}  one piece {same:.5f}  another seed {other:.5f}", flush=True)
    table = np.array([list(row.values()) for row in rows])
    summary = {}
    for name, column in (("same seed", 1), ("another seed", 2)):
        off = table[:, 0] - table[:, column]
        summary[name] = [float(off.mean()), float(off.std(ddof=1) / np.sqrt(len(off)))]
        print(f"continued - one piece, {name}: {summary[name][0]:+.5f} ({summary[name][1]:.5f})")
    noise = float(table[:, 1].std(ddof=1))
    print(f"standard deviation over seeds: {noise:.5f}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    result = {"rows": rows, "differences": summary, "seed_sd": noise, "steps": steps}
    options.output.write_text(json.dumps(result, indent=1))


def chained(base: TrainingJob, steps: int, seed: int) -> float:
    """Loss of the last run of a chain."""
    with tempfile.TemporaryDirectory() as folder:
        before, loss = None, float("nan")
        for link in range(LINKS):
            trunk = CheckpointPlan(f"{folder}/{link}", 0.0, "pair")
            recipe = replace(base.recipe, steps=round(steps / GROWTH ** (LINKS - 1 - link)), seed=seed)
            outcome = train(replace(base, recipe=recipe, trunk=trunk, goes_on_from=before))
            before, loss = trunk, outcome.loss
        return loss


if __name__ == "__main__":
    main()
