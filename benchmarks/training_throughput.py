"""How fast trials train here: FLOPs a second over the shapes of a small search, and what a step costs.

    python benchmarks/training_throughput.py [--device auto] [--seconds 3] [--output results.json]

Every row is a trial on random ids, run by `train` for long enough to be timed. `step_ms` is a whole step,
`passes_ms` the forward and backward passes alone (the fastest of three repeats): between them lie reading the
batch, clipping, optimizer, schedule and records, and whatever else the machine was doing. On a GPU `peak` is
the most memory that PyTorch held during the run, and `estimate` what `compute.memory` says of it beforehand.
"""

import argparse
import json
import platform
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from carbs_scaling.compute.flops import flops_per_token
from carbs_scaling.compute.memory import training_memory_bytes
from carbs_scaling.data.prepared import PreparedText
from carbs_scaling.data.tokenization import token_dtype
from carbs_scaling.data.windows import training_order, training_windows
from carbs_scaling.models.build import build_model
from carbs_scaling.models.family import ModelShape
from carbs_scaling.tasks.pretraining_memory import activation_size
from carbs_scaling.training.batches import device_batches
from carbs_scaling.training.config import ObjectiveConfig, OptimizerConfig, ScheduleConfig
from carbs_scaling.training.device import choose_device
from carbs_scaling.training.job import TrainingJob, micro_batch_size
from carbs_scaling.training.loop import train
from carbs_scaling.training.recipe import Recipe
from carbs_scaling.training.step import accumulate_gradients
from carbs_scaling.training.step_building import compiled_model

CONVENTION = "6N+head+attention"
# (width, depth, sequences a step, each of --sequence-length tokens)
CPU_SHAPES = ((16, 1, 2), (16, 1, 16), (32, 2, 8), (64, 3, 8), (64, 3, 32), (128, 4, 16), (128, 6, 64))
GPU_SHAPES = ((64, 3, 32), (128, 4, 64), (256, 6, 128), (512, 8, 256), (768, 12, 256), (1024, 16, 512))
GPU_HEAD_SIZE, CPU_HEAD_SIZE = 64, 16


@dataclass(frozen=True)
class Row:
    """One shape's figures."""

    architecture: str
    width: int
    depth: int
    params: int
    batch_tokens: int
    step_ms: float
    passes_ms: float
    gigaflops_per_second: float
    tokens_per_second: float
    peak_bytes: int | None
    estimated_bytes: int


def random_text(folder: Path, vocabulary_size: int) -> PreparedText:
    """A token file of random ids: speed does not depend on what is learnt."""
    ids = np.random.default_rng(0).integers(vocabulary_size, size=1 << 22, dtype=token_dtype(vocabulary_size))
    for split in ("train", "validation"):
        ids.tofile(folder / f"{split}.bin")
    return PreparedText(
        train_path=str(folder / "train.bin"),
        validation_path=str(folder / "validation.bin"),
        vocabulary_size=vocabulary_size,
        train_tokens=ids.size,
        validation_tokens=ids.size,
        bytes_per_token=1.0,
        sha256="random",
        description="random ids",
    )


def timed_job(
    shape: ModelShape, batch_size: int, text: PreparedText, arguments: argparse.Namespace
) -> TrainingJob:
    """A trial at a learning rate that changes next to nothing, so that none diverges."""
    return TrainingJob(
        recipe=Recipe(shape, 1e-6, batch_size, 10, 0.1, 0.95, 0.1, 0),
        text=text,
        optimizer=OptimizerConfig("adamw", False, True, 1.0),
        schedule=ScheduleConfig("cosine", 0.1, 0.2),
        objective=ObjectiveConfig("nats_per_token", shape.sequence_length, gradient_noise_scale=False),
        device=arguments.device,
        compile=arguments.compile,
        micro_batch_tokens=arguments.micro_batch_tokens,
        curve_path=str(Path(text.train_path).with_name("curve.jsonl")),
        cuda_graph=not arguments.no_cuda_graph,
    )


def passes_seconds(job: TrainingJob, steps: int) -> float:
    """Seconds a step of forward and backward passes alone."""
    device = choose_device(job.device)
    model = build_model(job.recipe.shape, 0).to(device)
    windows = training_windows(job.text, job.recipe.shape.sequence_length)
    batch = next(device_batches(windows, training_order(len(windows), job.recipe.batch_size, 1, 0), device))
    part = micro_batch_size(job.recipe, job.micro_batch_tokens)
    forward = compiled_model(model, part * job.recipe.shape.sequence_length) if job.compile else model
    for _ in range(3):
        accumulate_gradients(forward, batch, part).item()
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(steps):
            model.zero_grad(set_to_none=True)
            loss = accumulate_gradients(forward, batch, part)
        loss.item()
        seconds.append((time.perf_counter() - start) / steps)
    return min(seconds)


def measure(job: TrainingJob, seconds: float) -> Row:
    """Trains for about `seconds`, after a short run that says how many steps those are."""
    probe = train(job)
    # Enough for a graph to be captured, which a run of ten steps is too short for.
    steps = max(30, round(seconds / probe.seconds * probe.progress * job.recipe.steps))
    outcome = train(replace(job, recipe=replace(job.recipe, steps=steps)))
    if outcome.progress < 1:
        raise SystemExit(f"{job.recipe.shape}: {outcome.status}: {outcome.message}")
    step = outcome.seconds / steps
    shape = job.recipe.shape
    return Row(
        architecture=shape.architecture,
        width=shape.width,
        depth=shape.depth,
        params=shape.params,
        batch_tokens=job.recipe.batch_tokens,
        step_ms=1e3 * step,
        passes_ms=1e3 * passes_seconds(job, max(5, steps // 6)),
        gigaflops_per_second=flops_per_token(shape, CONVENTION) * job.recipe.batch_tokens / step / 1e9,
        tokens_per_second=job.recipe.batch_tokens / step,
        peak_bytes=outcome.peak_memory_bytes,
        estimated_bytes=training_memory_bytes(
            shape,
            micro_batch_size(job.recipe, job.micro_batch_tokens),
            job.optimizer.name,
            activation_size(job.device),
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=3.0, help="training time of a row")
    parser.add_argument("--sequence-length", type=int, default=128)
    parser.add_argument("--vocabulary-size", type=int, default=256)
    parser.add_argument("--micro-batch-tokens", type=int, help="tokens in memory at once; default: all")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--no-cuda-graph", action="store_true", help="launch kernels one by one")
    parser.add_argument("--architectures", nargs="+", default=["gpt2", "llama"])
    parser.add_argument("--shapes", nargs="+", help="WIDTHxDEPTHxSEQUENCES instead of the usual ones")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads, one as in a worker")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = choose_device(arguments.device)
    shapes = GPU_SHAPES if device.type == "cuda" else CPU_SHAPES
    if arguments.shapes:
        shapes = tuple(tuple(map(int, shape.split("x"))) for shape in arguments.shapes)
    head_size = GPU_HEAD_SIZE if device.type == "cuda" else CPU_HEAD_SIZE
    print(
        "architecture width depth      params batch_tokens  step_ms  passes_ms  GFLOP/s  tokens/s  "
        "peak/estimate MB"
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        text = random_text(Path(folder), vocabulary_size=arguments.vocabulary_size)
        for architecture in arguments.architectures:
            for width, depth, batch_size in shapes:
                shape = ModelShape(
                    architecture,
                    width,
                    depth,
                    head_size,
                    arguments.vocabulary_size,
                    arguments.sequence_length,
                )
                row = measure(timed_job(shape, batch_size, text, arguments), arguments.seconds)
                rows.append(row)
                print(
                    f"{row.architecture:12} {row.width:5} {row.depth:5} {row.params:11,} "
                    f"{row.batch_tokens:12,} {row.step_ms:8.2f} {row.passes_ms:10.2f} "
                    f"{row.gigaflops_per_second:8.1f} {row.tokens_per_second:9,.0f}  "
                    f"{'-' if row.peak_bytes is None else f'{row.peak_bytes / 1e6:,.0f}'}"
                    f"/{row.estimated_bytes / 1e6:,.0f}",
                    flush=True,
                )
    if arguments.output:
        machine = {
            "device": torch.cuda.get_device_name(device)
            if device.type == "cuda"
            else platform.processor() or "cpu",
            "torch": torch.__version__,
            "threads": arguments.threads,
            "convention": CONVENTION,
            "sequence_length": arguments.sequence_length,
            "vocabulary_size": arguments.vocabulary_size,
            "compile": arguments.compile,
            "cuda_graph": not arguments.no_cuda_graph,
        }
        arguments.output.write_text(
            json.dumps({"machine": machine, "rows": list(map(asdict, rows))}, indent=1)
        )


if __name__ == "__main__":
    main()
