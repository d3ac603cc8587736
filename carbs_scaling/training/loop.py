"""One trial: a recipe and a text in, a typed outcome out.

Global state is left alone, but for what `torch.compile` keeps: a compiled trial begins by emptying it.
"""

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from carbs_scaling.compute.flops import flops_per_token
from carbs_scaling.config import ObjectiveConfig, OptimizerConfig, ScheduleConfig
from carbs_scaling.data.token_files import PreparedText
from carbs_scaling.data.windows import (
    TokenWindows,
    training_order,
    training_windows,
    validation_indices,
    validation_windows,
)
from carbs_scaling.errors import ConfigError
from carbs_scaling.models.build import build_model
from carbs_scaling.optimizers.build import build_optimizer
from carbs_scaling.training.curve import LossCurve, point_interval
from carbs_scaling.training.divergence import DivergenceCheck
from carbs_scaling.training.noise_scale import NoiseMeter
from carbs_scaling.training.recipe import Recipe
from carbs_scaling.training.schedules import build_scheduler
from carbs_scaling.training.step import (
    GraphedStep,
    TrainingStep,
    accumulate_gradients,
    autocast,
    is_out_of_memory,
    window_loss,
)
from carbs_scaling.trial import Completed, Diverged, OutOfMemory, TrialOutcome

# Steps between two looks at the loss: each look waits for the GPU.
CHECK_STEPS = 16
# Scores held at once while evaluating, V a token: 64 MB on the CPU, 1 GB on a GPU. And tokens at once: more
# would leave the caches of a CPU, fewer would not fill a GPU.
EVALUATION_SCORES = {"cpu": 1 << 24, "cuda": 1 << 28}
EVALUATION_TOKENS = {"cpu": 1 << 12, "cuda": 1 << 17}
# Tokens that are sent to a GPU together: some milliseconds of reading.
PARCEL_TOKENS = 1 << 17
# A CUDA graph takes as long to capture as some steps.
LEAST_GRAPHED_STEPS = 20
# FLOPs of a step above which the GPU takes the time and not its launching: 15 to 27 ms of an H100.
MOST_GRAPHED_FLOPS = 5e12


@dataclass(frozen=True)
class TrainingJob:
    """All that a worker process needs for one trial; picklable.

    Args:
        recipe: what to train.
        text: token files.
        optimizer, schedule, objective: the constants of the search.
        device: `auto`, `cpu`, `cuda` or `cuda:1`.
        compile: run the model through `torch.compile`.
        micro_batch_tokens: tokens in memory at once; None for the whole batch.
        curve_path: where the loss curve is written; None for nowhere.
        cuda_graph: replay the steps of small models as a CUDA graph. Not where the noise scale is measured:
            those steps would need a second set of activations beside the graph's.
    """

    recipe: Recipe
    text: PreparedText
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    objective: ObjectiveConfig
    device: str
    compile: bool
    micro_batch_tokens: int | None
    curve_path: str | None
    cuda_graph: bool = True


@dataclass
class _Tally:
    """What a run has done so far, still known when it ends early."""

    steps: int = 0
    started: float | None = None
    seconds: float = 0.0
    noise_scale_tokens: float | None = None

    def seconds_so_far(self) -> float:
        return 0.0 if self.started is None else time.perf_counter() - self.started


def train(job: TrainingJob) -> TrialOutcome:
    """Trains one model and scores it on the held-out windows.

    Divergence and lack of memory are outcomes, not exceptions: they say something about the recipe.

    Raises:
        DataError: the text is too short for one window.
        ConfigError: a GPU is asked for and there is none.
        OSError: the loss curve cannot be written, or the token files are gone.
    """
    device = choose_device(job.device)
    if device.type == "cuda":
        torch.cuda.init()  # the next line fails in a process that has not used the GPU yet
        torch.cuda.reset_peak_memory_stats(device)
    tally = _Tally()
    loss: float | None = None
    kind: type[TrialOutcome] = Diverged
    try:
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            loss, trouble = _train_and_score(job, device, tally)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        kind, trouble = OutOfMemory, (str(error).splitlines() or ["out of memory"])[0][:300]
        if tally.started is not None:
            tally.steps = max(tally.steps, 1)  # the first step, which did not fit, was paid for too
        tally.seconds = tally.seconds_so_far()
    common: dict[str, Any] = {
        "seconds": tally.seconds,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }
    if device.type == "cuda":
        common["peak_memory_bytes"] = torch.cuda.max_memory_allocated(device)
        torch.cuda.empty_cache()
    metrics = {}
    if tally.noise_scale_tokens is not None:
        metrics["noise_scale_tokens"] = tally.noise_scale_tokens
    if loss is None:
        progress = tally.steps / job.recipe.steps
        return kind(progress=progress, message=trouble, metrics=metrics, **common)
    losses = {"nats_per_token": loss, "bits_per_byte": bits_per_byte(loss, job.text.bytes_per_token)}
    return Completed(loss=losses[job.objective.metric], metrics={**losses, **metrics}, **common)


def choose_device(name: str) -> torch.device:
    """`auto` is the first GPU where there is one."""
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ConfigError(
                f"executor.device={name}: PyTorch sees {count} CUDA GPUs here; use executor.device=cpu"
            )
        return torch.device("cuda", device.index or 0)
    return device


def bits_per_byte(nats_per_token: float, bytes_per_token: float) -> float:
    """Cross-entropy in bits a byte of text, which compares across vocabularies."""
    return nats_per_token / math.log(2) / bytes_per_token


def _train_and_score(job: TrainingJob, device: torch.device, tally: _Tally) -> tuple[float | None, str]:
    """The held-out loss in nats a token, or None and why the run is lost."""
    shape = job.recipe.shape
    held_out = validation_windows(job.text, shape.sequence_length)
    model = build_model(shape, job.recipe.seed).to(device)
    with LossCurve(job.curve_path) as curve:
        trouble = _train_model(model, job, device, tally, curve)
        if trouble:
            return None, trouble
        indices = validation_indices(len(held_out), shape.sequence_length, job.objective.validation_tokens)
        loss = evaluate(model, held_out, indices, device)
        if not math.isfinite(loss):
            return None, f"held-out loss became {loss}"
        tokens = tally.steps * job.recipe.batch_tokens
        curve.add(progress=1.0, step=tally.steps, tokens=tokens, validation_loss=loss)
        uniform = math.log(shape.vocabulary_size)
        if loss > uniform:
            return None, f"held-out loss {loss:.2f} is worse than a uniform guess, {uniform:.2f}"
        return loss, ""


def _train_model(
    model: nn.Module, job: TrainingJob, device: torch.device, tally: _Tally, curve: LossCurve
) -> str:
    """All steps of the recipe; returns why the run is lost, or an empty string."""
    recipe = job.recipe
    windows = training_windows(job.text, recipe.shape.sequence_length)
    order = training_order(len(windows), recipe.batch_size, recipe.steps, recipe.seed)
    forward = _compiled(model) if job.compile else model
    optimizer = build_optimizer(model, recipe, job.optimizer)
    scheduler = build_scheduler(optimizer, job.schedule, recipe.warmup_fraction, recipe.steps)
    step = _build_step(forward, optimizer, job, device)
    divergence = DivergenceCheck(recipe.steps)
    every = point_interval(recipe.steps)
    noise = NoiseMeter(step.parameters, recipe) if job.objective.gradient_noise_scale else None
    unread: list[torch.Tensor] = []
    since_point: list[float] = []

    model.train()
    tally.started = time.perf_counter()
    for batch in device_batches(windows, order, device):
        if noise is not None and noise.due(tally.steps):
            optimizer.zero_grad(set_to_none=True)
            part = noise.part_size(step.micro_batch)
            unread.append(accumulate_gradients(forward, batch, part, noise.take_part))
            noise.end_step(tally.steps)
            step.update()
        else:
            unread.append(step(batch))
        tally.steps += 1
        at_point = tally.steps % every == 0 or tally.steps == recipe.steps
        learning_rate = float(optimizer.param_groups[0]["lr"]) if at_point else None
        scheduler.step()
        if not at_point and len(unread) < CHECK_STEPS:
            continue
        losses = torch.stack(unread).tolist()
        unread.clear()
        since_point += losses
        tally.seconds = tally.seconds_so_far()
        if trouble := divergence.reason(losses):
            return trouble
        if at_point:
            curve.add(
                progress=tally.steps / recipe.steps,
                step=tally.steps,
                tokens=tally.steps * recipe.batch_tokens,
                seconds=round(tally.seconds, 4),
                train_loss=sum(since_point) / len(since_point),
                learning_rate=learning_rate,
                **({} if noise is None else noise.read()),
            )
            since_point.clear()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    tally.seconds = tally.seconds_so_far()
    tally.noise_scale_tokens = None if noise is None else noise.noise_scale_tokens()
    return ""


def _compiled(model: nn.Module) -> nn.Module:
    """`torch.compile`, for this trial alone.

    Dynamo keeps what it compiled by function, not by model, and leaves a function as it is after eight
    shapes: a process that has trained eight models would quietly train all others uncompiled.
    """
    torch.compiler.reset()
    return torch.compile(model, dynamic=False)


def _build_step(
    forward: nn.Module, optimizer: torch.optim.Optimizer, job: TrainingJob, device: torch.device
) -> TrainingStep:
    """A step of the job; as a CUDA graph where launching takes longer than running."""
    recipe = job.recipe
    step_flops = flops_per_token(recipe.shape, "6N+head") * recipe.batch_tokens
    is_short = recipe.steps < LEAST_GRAPHED_STEPS or step_flops > MOST_GRAPHED_FLOPS
    replays = job.cuda_graph and not is_short and not job.objective.gradient_noise_scale
    kind = GraphedStep if device.type == "cuda" and replays else TrainingStep
    micro_batch = micro_batch_size(recipe, job.micro_batch_tokens)
    return kind(forward, optimizer, micro_batch, job.optimizer.gradient_clip_norm)


def micro_batch_size(recipe: Recipe, micro_batch_tokens: int | None) -> int:
    """Sequences in memory at once: at least one, at most the batch."""
    if micro_batch_tokens is None:
        return recipe.batch_size
    return max(1, min(recipe.batch_size, micro_batch_tokens // recipe.shape.sequence_length))


def device_batches(
    windows: TokenWindows, order: Iterator[np.ndarray], device: torch.device
) -> Iterator[torch.Tensor]:
    """Batches on the device, int64 [b, T + 1], read and sent while the GPU works on those before.

    Several small batches travel together: a copy takes its time however little it holds.
    """
    if device.type != "cuda":
        yield from (windows.read(indices) for indices in order)
        return
    ahead: tuple[torch.Tensor, ...] = ()
    for together in _parcels(order, PARCEL_TOKENS // windows.sequence_length):
        ids = windows.read(np.concatenate(together)).pin_memory().to(device, non_blocking=True)
        yield from ahead
        ahead = ids.split([len(indices) for indices in together])
    yield from ahead


def _parcels(order: Iterator[np.ndarray], most_windows: int) -> Iterator[list[np.ndarray]]:
    """Consecutive batches that hold so many windows together, or one that alone holds more."""
    parcel: list[np.ndarray] = []
    for indices in order:
        if parcel and sum(map(len, parcel)) + len(indices) > most_windows:
            yield parcel
            parcel = []
        parcel.append(indices)
    if parcel:
        yield parcel


@torch.inference_mode()
def evaluate(model: nn.Module, windows: TokenWindows, indices: np.ndarray, device: torch.device) -> float:
    """Mean loss of the windows `indices`, in nats a token."""
    model.eval()
    scores = EVALUATION_SCORES[device.type] // model.config.vocab_size
    batch_size = max(1, min(scores, EVALUATION_TOKENS[device.type]) // windows.sequence_length)
    total = torch.zeros((), dtype=torch.float64, device=device)
    chunks = (indices[start : start + batch_size] for start in range(0, len(indices), batch_size))
    for batch in device_batches(windows, chunks, device):
        with autocast(device):
            total += window_loss(model, batch, reduction="sum")
    return total.item() / (len(indices) * windows.sequence_length)
