"""A measurement of this machine: FLOPs a second of real training steps at a few model sizes."""

import time
from collections.abc import Callable

import torch

from carbs_scaling.compute.flops import flops_per_token
from carbs_scaling.compute.throughput import Throughput
from carbs_scaling.models.build import build_model
from carbs_scaling.models.family import ModelShape
from carbs_scaling.training.device import choose_device
from carbs_scaling.training.step import TrainingStep

WARM_UP_STEPS = 2
LEAST_STEPS, LEAST_SECONDS = 3, 0.5  # of a size
ENOUGH_SECONDS = 5.0  # of a size, after which fewer steps do
CPU_PARAMS, GPU_PARAMS = (1e4, 1e5, 1e6), (1e6, 1e7, 1e8, 3e8)
# Most tokens of a step: their scores over a large vocabulary fill the memory. A larger batch is taken as so
# many parts, which take in proportion.
TOKENS_AT_ONCE = {"cpu": 1 << 12, "cuda": 1 << 15}


def probe(
    shape_of: Callable[[float], ModelShape], batch_of: Callable[[float], float], convention: str
) -> Throughput:
    """Time training steps on random tokens, on one GPU, or on one core where there is none.

    Args:
        shape_of: the shape of N parameters.
        batch_of: tokens a step for N parameters.
        convention: in which FLOPs are counted.
    """
    device = choose_device("auto")
    measured: dict[int, float] = {}
    for params in CPU_PARAMS if device.type == "cpu" else GPU_PARAMS:
        shape = shape_of(params)
        if shape.params in measured:  # the smallest shape of this model
            continue
        at_once = max(1, TOKENS_AT_ONCE[device.type] // shape.sequence_length)
        batch = max(1, round(batch_of(params) / shape.sequence_length))
        sequences = min(batch, at_once)
        seconds = step_seconds(shape, sequences, device)
        cost = flops_per_token(shape, convention) * sequences * shape.sequence_length
        measured[shape.params] = cost / seconds
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "one core"
    sizes = sorted(measured)
    return Throughput(sizes, [measured[size] for size in sizes], f"measured on {name}")


def step_seconds(shape: ModelShape, sequences: int, device: torch.device) -> float:
    """Seconds of one training step with a batch of so many sequences."""
    model = build_model(shape, seed=0).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    step = TrainingStep(model, optimizer, sequences, clip_norm=1.0)
    generator = torch.Generator().manual_seed(0)
    batch = torch.randint(
        shape.vocabulary_size, (sequences, shape.sequence_length + 1), generator=generator
    ).to(device)
    begun = time.perf_counter()
    for _ in range(WARM_UP_STEPS):
        step(batch).item()
        if time.perf_counter() - begun > ENOUGH_SECONDS:
            break
    steps, begun, seconds = 0, time.perf_counter(), 0.0
    while steps == 0 or seconds < (LEAST_SECONDS if steps >= LEAST_STEPS else ENOUGH_SECONDS):
        step(batch).item()  # waits for the GPU
        steps += 1
        seconds = time.perf_counter() - begun
    return seconds / steps
