"""Trains one small model with every shape of schedule, each at its own best peak.

    nice python benchmarks/schedule_shapes.py [--tokens 600000] [--seeds 2] [--shapes NAME...]

The text is the standard library; a peak is chosen from a ladder for each shape, by the mean over seeds. Seeds
are shared by all shapes, so `against linear` has less noise than the losses themselves.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir

from carbs_scaling.data.config import DataConfig
from carbs_scaling.data.prepared import PreparedText
from carbs_scaling.data.token_files import prepare_text
from carbs_scaling.models.family import ModelShape
from carbs_scaling.training.config import ObjectiveConfig, OptimizerConfig, ScheduleConfig
from carbs_scaling.training.job import TrainingJob
from carbs_scaling.training.loop import train
from carbs_scaling.training.recipe import Recipe
from carbs_scaling.trial import Completed

SHAPES = {
    "constant": ScheduleConfig("constant", 1.0, 0.2, "linear", 1.0),
    "cosine to 0.1": ScheduleConfig("cosine", 0.1, 0.2, "linear", 1.0),
    "cosine to 0": ScheduleConfig("cosine", 0.0, 0.2, "linear", 1.0),
    "linear": ScheduleConfig("linear", 0.0, 0.2, "linear", 1.0),
    "power 1.5": ScheduleConfig("power", 0.0, 0.2, "power", 1.5),
    "power 2": ScheduleConfig("power", 0.0, 0.2, "power", 2.0),
    "power 3": ScheduleConfig("power", 0.0, 0.2, "power", 3.0),
    "wsd, linear": ScheduleConfig("wsd", 0.0, 0.2, "linear", 1.0),
    "wsd, 1 - sqrt": ScheduleConfig("wsd", 0.0, 0.2, "sqrt", 1.0),
    "wsd, power 1.5 (sde)": ScheduleConfig("wsd", 0.0, 0.2, "power", 1.5),
    "wsd 40%, power 1.5": ScheduleConfig("wsd", 0.0, 0.4, "power", 1.5),
}
PEAKS = (0.005, 0.01, 0.02)
SHAPE = ModelShape("gpt2", width=32, depth=1, head_size=16, vocabulary_size=256, sequence_length=128)
SEQUENCES = 8
WARMUP_FRACTION = 0.05


def final_loss(text: PreparedText, schedule: ScheduleConfig, peak: float, tokens: int, seed: int) -> float:
    """Held-out loss of one run in nats a byte; infinite where it diverged."""
    steps = round(tokens / (SEQUENCES * SHAPE.sequence_length))
    outcome = train(
        TrainingJob(
            recipe=Recipe(SHAPE, peak, SEQUENCES, steps, 0.1, 0.95, WARMUP_FRACTION, seed),
            text=text,
            optimizer=OptimizerConfig("adamw", False, True, 1.0),
            schedule=schedule,
            objective=ObjectiveConfig("nats_per_token", 65_536, False),
            device="cpu",
            compile=False,
            micro_batch_tokens=None,
            curve_path=None,
        )
    )
    return outcome.loss if isinstance(outcome, Completed) else float("inf")


def main() -> None:
    """Prints a row a shape."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=600_000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES, help="beside linear")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/schedule_shapes.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    with initialize_config_dir(str(Path("conf").resolve()), version_base=None):
        text = prepare_text(DataConfig(**compose("search").data))
    print(f"{SHAPE.params:,} parameters, {options.tokens:,} tokens, peaks {PEAKS}, {options.seeds} seeds")
    print(f"{'shape':<24}{'best peak':>10}{'loss':>9}{'against linear':>16}")
    results: dict[str, dict] = {}
    linear = None
    for name in dict.fromkeys(["linear", *options.shapes]):
        losses = np.array(
            [
                [final_loss(text, SHAPES[name], peak, options.tokens, seed) for seed in range(options.seeds)]
                for peak in PEAKS
            ]
        )
        best = int(np.argmin(losses.mean(axis=1)))
        linear = losses[best] if linear is None else linear
        gap = losses[best] - linear
        print(
            f"{name:<24}{PEAKS[best]:>10}{losses[best].mean():>9.4f}{gap.mean():>+10.4f} "
            f"({np.ptp(gap) / 2:.4f})",
            flush=True,
        )
        results[name] = {"peaks": PEAKS, "losses": losses.tolist()}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
