"""A measurement of this machine: FLOPs a second of real training steps at a few model sizes."""

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np
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
CPU_PARAMS, GPU_PARAMS = (2e3, 2e4, 2e5, 2e6), (1e6, 1e7, 1e8, 3e8)
# Most tokens of a step: their scores over a large vocabulary fill the memory. A larger batch is taken as so
# many parts, which take in proportion.
TOKENS_AT_ONCE = {"cpu": 1 << 12, "cuda": 1 << 15}


# What a CPU trial takes beside its training: a proposal, building, scoring (benchmarks/search_overhead.py).
CPU_TRIAL_SECONDS = 1.0

Case = tuple[ModelShape, int]  # a model, and sequences a step


def probe(
    shape_of: Callable[[float], ModelShape],
    batch_of: Callable[[float], float],
    convention: str,
    processes: int = 1,
) -> Throughput:
    """Time training steps on random tokens, on one GPU, or on cores where there is none.

    Args:
        shape_of: the shape of N parameters.
        batch_of: tokens a step for N parameters.
        convention: in which FLOPs are counted.
        processes: that will train at once on the CPU, a core each: as many measure at once, since cores
            slow one another down.
    """
    device = choose_device("auto")
    on_cpu = device.type == "cpu"
    cases: dict[int, Case] = {}
    for params in CPU_PARAMS if on_cpu else GPU_PARAMS:
        shape = shape_of(params)
        at_once = max(1, TOKENS_AT_ONCE[device.type] // shape.sequence_length)
        batch = max(1, round(batch_of(params) / shape.sequence_length))
        cases.setdefault(shape.params, (shape, min(batch, at_once)))  # several may be the smallest shape
    sizes = sorted(cases)
    ordered = [cases[size] for size in sizes]
    cores = min(processes, os.cpu_count() or 1)
    seconds = core_seconds(ordered, cores) if on_cpu else [step_seconds(*case, device) for case in ordered]
    rates = [
        flops_per_token(shape, convention) * sequences * shape.sequence_length / took
        for (shape, sequences), took in zip(ordered, seconds, strict=True)
    ]
    if not on_cpu:
        return Throughput(sizes, rates, f"{torch.cuda.get_device_name(device)}, measured")
    source = f"one core, measured with {cores} at work"
    return Throughput(sizes, rates, source, CPU_TRIAL_SECONDS)


def core_seconds(cases: Sequence[Case], cores: int) -> list[float]:
    """Seconds of a step of each case on one core, while as many others do the same; the mean over cores."""
    if cores == 1:
        return one_thread_seconds(cases)
    with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn")) as pool:
        measured = list(pool.map(one_thread_seconds, [cases] * cores))
    return [float(seconds) for seconds in np.mean(measured, axis=0)]


def one_thread_seconds(cases: Sequence[Case]) -> list[float]:
    """Seconds of a step of each case in this process, on one thread as in a worker of the search."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [step_seconds(*case, torch.device("cpu")) for case in cases]
    finally:
        torch.set_num_threads(threads)


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
