"""One trial: a recipe and a text in, a typed outcome out.

Global state is left as it was, except for what `torch.compile` caches: a compiled trial empties it first.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from carbs_scaling.compute.flops import flops_per_token
from carbs_scaling.data.token_files import PreparedText
from carbs_scaling.data.windows import (
    Indices,
    TokenWindows,
    training_order,
    training_windows,
    validation_indices,
    validation_windows,
)
from carbs_scaling.errors import ConfigError
from carbs_scaling.models.build import build_model
from carbs_scaling.models.parametrization import parameter_multipliers
from carbs_scaling.optimizers.optimizer import Hyperparameters, build_optimizer, load_optimizer
from carbs_scaling.training.checkpoint import (
    Checkpoint,
    CheckpointPlan,
    load_checkpoint,
    restore_tensors,
    run_tensors,
    save_checkpoint,
)
from carbs_scaling.training.config import ObjectiveConfig, OptimizerConfig, ScheduleConfig
from carbs_scaling.training.curve import LossCurve, point_interval
from carbs_scaling.training.divergence import DivergenceCheck
from carbs_scaling.training.noise_scale import NoiseMeter
from carbs_scaling.training.recipe import Recipe
from carbs_scaling.training.saved_model import load_tokenizer, save_model
from carbs_scaling.training.schedules import build_scheduler, set_scheduler_step
from carbs_scaling.training.step import (
    GraphedStep,
    TrainingStep,
    accumulate_gradients,
    autocast,
    is_out_of_memory,
    window_loss,
)
from carbs_scaling.trial import Completed, Diverged, OutOfMemory, TrialOutcome

# Steps between two readings of the loss: each waits for the GPU.
CHECK_STEPS = 16
# Most scores held at once in an evaluation, V of them a token: 64 MB on the CPU, 1 GB on a GPU.
EVALUATION_SCORES = {"cpu": 1 << 24, "cuda": 1 << 28}
# Most tokens at once in an evaluation: more do not fit a CPU's caches, fewer do not fill a GPU.
EVALUATION_TOKENS = {"cpu": 1 << 12, "cuda": 1 << 17}
# Tokens that are sent to a GPU together: some milliseconds of reading.
PARCEL_TOKENS = 1 << 17
# A shorter run is not worth a CUDA graph: the capture takes as long as some steps.
LEAST_GRAPHED_STEPS = 20
# Above so many FLOPs a step takes longer to run than to launch: 15 to 27 ms of an H100.
MOST_GRAPHED_FLOPS = 5e12


@dataclass(frozen=True)
class TrainingJob:
    """Everything that a worker process needs for one trial; picklable.

    Args:
        recipe: what to train.
        text: token files.
        optimizer, schedule, objective: settings that are the same in all trials of the search.
        device: `auto`, `cpu`, `cuda` or `cuda:1`.
        compile: run the model through `torch.compile`.
        micro_batch_tokens: tokens in memory at once; None for the whole batch.
        curve_path: where the loss curve is written; None for nowhere.
        cuda_graph: replay the steps of small models as a CUDA graph. Ignored where the noise scale is
            measured: the measured steps would need a second set of activations beside the graph's.
        checkpoints: where the run keeps its state from time to time, and goes on from; None for nowhere.
        model_folder: where the trained model is saved (`training.saved_model`); None for nowhere.
        tokenizer: `data.tokenizer`, saved with the model.
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
    checkpoints: CheckpointPlan | None = None
    model_folder: str | None = None
    tokenizer: str = "bytes"


# Called with the steps done, the seconds so far and the training loss whenever losses are read.
Watch = Callable[[int, float, float], None]


@dataclass
class _Tally:
    """What a run has done so far, also when it ends early."""

    steps: int = 0
    started: float | None = None
    seconds: float = 0.0
    earlier_seconds: float = 0.0
    noise_scale_tokens: float | None = None
    float32_loss: float | None = None

    def seconds_so_far(self) -> float:
        """Of this process and, for a run that goes on from a checkpoint, of those before it."""
        return 0.0 if self.started is None else self.earlier_seconds + time.perf_counter() - self.started


def train(job: TrainingJob, watch: Watch | None = None) -> TrialOutcome:
    """Train one model and score it on the held-out windows.

    Divergence and lack of memory are outcomes, not exceptions: the search learns from them. With checkpoints
    it goes on from the last one of the same run, and ends as the unbroken run does.

    Raises:
        DataError: the text is too short for one window.
        ConfigError: a GPU is asked for and there is none, there is no such optimizer, or a model is to be
            saved and its tokenizer cannot be loaded.
        OSError: the loss curve or the model cannot be written, or the token files are gone.
        CarbsScalingError: a checkpoint cannot be written.
    """
    device = choose_device(job.device)
    if device.type == "cuda":
        # The next line fails in a process that has not used the GPU yet.
        torch.cuda.init()
        torch.cuda.reset_peak_memory_stats(device)
    tally = _Tally()
    loss: float | None = None
    kind: type[TrialOutcome] = Diverged
    try:
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            loss, trouble = _train_and_score(job, device, tally, watch)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        kind, trouble = OutOfMemory, (str(error).splitlines() or ["out of memory"])[0][:300]
        if tally.started is not None:
            tally.steps = max(tally.steps, 1)  # the first step, which did not fit, was paid for too
        tally.seconds = tally.seconds_so_far()
    common: dict[str, Any] = {
        "seconds": tally.seconds,
        "device": device_name(device),
    }
    if device.type == "cuda":
        common["peak_memory_bytes"] = torch.cuda.max_memory_allocated(device)
        torch.cuda.empty_cache()
    metrics = {}
    if tally.noise_scale_tokens is not None:
        metrics["noise_scale_tokens"] = tally.noise_scale_tokens
    if tally.float32_loss is not None:
        metrics["float32_nats_per_token"] = tally.float32_loss
    if loss is None:
        progress = tally.steps / job.recipe.steps
        return kind(progress=progress, message=trouble, metrics=metrics, **common)
    losses = {"nats_per_token": loss, "bits_per_byte": bits_per_byte(loss, job.text.bytes_per_token)}
    return Completed(loss=losses[job.objective.metric], metrics={**losses, **metrics}, **common)


def choose_device(name: str) -> torch.device:
    """The device called `name`; `auto` is the first GPU, or the CPU where there is none.

    Raises:
        ConfigError: there is no such GPU.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ConfigError(
                f"there is no device {name}: PyTorch sees {count} CUDA GPUs here; use the device cpu or auto"
            )
        return torch.device("cuda", device.index or 0)
    return device


def device_name(device: torch.device) -> str:
    """`cpu`, or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def bits_per_byte(nats_per_token: float, bytes_per_token: float) -> float:
    """Cross-entropy in bits a byte of text, which compares across vocabularies."""
    return nats_per_token / math.log(2) / bytes_per_token


def _train_and_score(
    job: TrainingJob, device: torch.device, tally: _Tally, watch: Watch | None
) -> tuple[float | None, str]:
    """The held-out loss in nats a token and an empty text, or None and why the run diverged."""
    shape = job.recipe.shape
    held_out = validation_windows(job.text, shape.sequence_length)
    # Before the first step: without it, the model could not be saved after the last.
    tokenizer = None if job.model_folder is None else load_tokenizer(job.tokenizer)
    model = build_model(shape, job.recipe.seed, job.recipe.parametrization).to(device)
    checkpoint = None if job.checkpoints is None else load_checkpoint(job.checkpoints)
    with LossCurve(job.curve_path, 0 if checkpoint is None else checkpoint.step) as curve:
        trouble = _Run(model, job, device, tally, curve, watch).train(checkpoint)
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
        if job.model_folder is not None and tokenizer is not None:
            # What the saved model gives where nothing is rounded to bfloat16.
            tally.float32_loss = evaluate(model, held_out, indices, device, in_float32=True)
            save_model(model, tokenizer, job.model_folder)
        return loss, ""


class _Run:
    """The steps of a recipe, with all that a checkpoint must hold.

    Args:
        model: on its device.
        job, device, tally, curve: of the run.
        watch: see `Watch`; None for nobody.
    """

    def __init__(
        self,
        model: nn.Module,
        job: TrainingJob,
        device: torch.device,
        tally: _Tally,
        curve: LossCurve,
        watch: Watch | None,
    ) -> None:
        recipe = job.recipe
        self._model, self._job, self._device = model, job, device
        self._tally, self._curve, self._watch = tally, curve, watch
        forward = _compiled(model) if job.compile else model
        kind = load_optimizer(job.optimizer.name)
        multipliers = parameter_multipliers(
            model, recipe.shape, recipe.parametrization, kind.rule, kind.hidden_rule
        )
        self._optimizer = build_optimizer(kind.name, model, _hyperparameters(job), multipliers)
        self._scheduler = build_scheduler(self._optimizer, job.schedule, recipe.warmup_fraction, recipe.steps)
        self._step = _build_step(forward, self._optimizer, job, device)
        self._divergence = DivergenceCheck(recipe.steps)
        measured = job.objective.gradient_noise_scale
        self._noise = NoiseMeter(self._step.parameters, recipe) if measured else None
        self._since_point: list[float] = []

    def train(self, checkpoint: Checkpoint | None) -> str:
        """Run the steps that are left; returns why the run diverged, or an empty text."""
        recipe, tally = self._job.recipe, self._tally
        if checkpoint is not None:
            self._go_on_from(checkpoint)
        windows = training_windows(self._job.text, recipe.shape.sequence_length)
        order = training_order(len(windows), recipe.batch_size, recipe.steps, recipe.seed)
        every = point_interval(recipe.steps)
        unread: list[torch.Tensor] = []
        self._model.train()
        tally.started = self._saved_at = time.perf_counter()
        for batch in device_batches(windows, islice(order, tally.steps, None), self._device):
            unread.append(self._take_step(batch))
            tally.steps += 1
            at_point = tally.steps % every == 0 or tally.steps == recipe.steps
            was_read = at_point or len(unread) == CHECK_STEPS
            if was_read:
                losses: list[float] = torch.stack(unread).tolist()
                unread.clear()
                if trouble := self._take_losses(losses):
                    return trouble
            if at_point:
                self._add_point()
            self._scheduler.step()
            if was_read and tally.steps < recipe.steps:
                self._save_if_due()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        tally.seconds = tally.seconds_so_far()
        tally.noise_scale_tokens = None if self._noise is None else self._noise.noise_scale_tokens()
        return ""

    def _take_step(self, batch: torch.Tensor) -> torch.Tensor:
        if self._noise is not None and self._noise.due(self._tally.steps):
            return _measured_step(self._step, self._noise, batch, self._tally.steps)
        return self._step(batch)

    def _take_losses(self, losses: list[float]) -> str:
        """Why the run has diverged after these further losses; empty if it has not."""
        tally = self._tally
        self._since_point += losses
        tally.seconds = tally.seconds_so_far()
        trouble = self._divergence.reason(losses)
        if self._watch is not None and not trouble:
            self._watch(tally.steps, tally.seconds, sum(losses) / len(losses))
        return trouble

    def _add_point(self) -> None:
        recipe, tally = self._job.recipe, self._tally
        self._curve.add(
            progress=tally.steps / recipe.steps,
            step=tally.steps,
            tokens=tally.steps * recipe.batch_tokens,
            seconds=round(tally.seconds, 4),
            train_loss=sum(self._since_point) / len(self._since_point),
            learning_rate=recipe.learning_rate * self._scheduler.lr_lambdas[0](self._scheduler.last_epoch),
            **({} if self._noise is None else self._noise.read()),
        )
        self._since_point.clear()

    def _save_if_due(self) -> None:
        plan, tally = self._job.checkpoints, self._tally
        if plan is None or time.perf_counter() - self._saved_at < 60 * plan.minutes:
            return
        state = {
            "seconds": tally.seconds,
            "since_point": self._since_point,
            "divergence": self._divergence.state(),
            "noise": None if self._noise is None else self._noise.state(),
            "micro_batch": self._step.micro_batch,
        }
        tensors = run_tensors(self._model, self._optimizer)
        save_checkpoint(plan, Checkpoint(tally.steps, state, tensors))
        self._saved_at = time.perf_counter()

    def _go_on_from(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.state
        restore_tensors(self._model, self._optimizer, checkpoint.tensors)
        set_scheduler_step(self._scheduler, checkpoint.step)
        self._tally.steps, self._tally.earlier_seconds = checkpoint.step, state["seconds"]
        self._since_point = list(state["since_point"])
        self._divergence.restore(state["divergence"])
        # What did not fit then does not fit now; a smaller setting of today holds too.
        self._step.micro_batch = min(self._step.micro_batch, state["micro_batch"])
        if self._noise is not None:
            self._noise.restore(state["noise"])


def _measured_step(step: TrainingStep, noise: NoiseMeter, batch: torch.Tensor, number: int) -> torch.Tensor:
    """One step in parts, whose gradients the noise meter sees; returns its mean loss, [] on the device."""

    def passes() -> torch.Tensor:
        step.optimizer.zero_grad(set_to_none=True)
        noise.drop_parts()
        return accumulate_gradients(step.model, batch, noise.part_size(step.micro_batch), noise.take_part)

    loss = step.fitting(passes)
    noise.end_step(number)
    step.update()
    return loss


def _hyperparameters(job: TrainingJob) -> Hyperparameters:
    """What the optimizer may read, from the recipe and from the settings of the search."""
    recipe = job.recipe
    return Hyperparameters(
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        beta1=recipe.beta1,
        beta2=recipe.beta2,
        epsilon=recipe.epsilon,
        adamw_rate_ratio=recipe.adamw_rate_ratio,
        nesterov=job.optimizer.nesterov,
        decoupled_weight_decay=job.optimizer.decoupled_weight_decay,
    )


def _compiled(model: nn.Module) -> nn.Module:
    """The model compiled for this trial alone.

    Dynamo caches by function, not by model, and gives up on a function after eight shapes: a process that has
    trained eight models would train all others uncompiled, without a warning.
    """
    torch.compiler.reset()
    return cast(nn.Module, torch.compile(model, dynamic=False))


def _build_step(
    forward: nn.Module, optimizer: torch.optim.Optimizer, job: TrainingJob, device: torch.device
) -> TrainingStep:
    """A step of the job; as a CUDA graph where launching takes longer than running."""
    recipe = job.recipe
    step_flops = flops_per_token(recipe.shape, "6N+head") * recipe.batch_tokens
    is_short = recipe.steps < LEAST_GRAPHED_STEPS or step_flops > MOST_GRAPHED_FLOPS
    capturable = load_optimizer(job.optimizer.name).capturable
    replays = job.cuda_graph and capturable and not is_short and not job.objective.gradient_noise_scale
    kind = GraphedStep if device.type == "cuda" and replays else TrainingStep
    micro_batch = micro_batch_size(recipe, job.micro_batch_tokens)
    return kind(forward, optimizer, micro_batch, job.optimizer.gradient_clip_norm)


def micro_batch_size(recipe: Recipe, micro_batch_tokens: int | None) -> int:
    """Sequences in memory at once: at least one, at most the batch."""
    if micro_batch_tokens is None:
        return recipe.batch_size
    return max(1, min(recipe.batch_size, micro_batch_tokens // recipe.shape.sequence_length))


def device_batches(
    windows: TokenWindows, order: Iterable[Indices], device: torch.device
) -> Iterator[torch.Tensor]:
    """Batches on the device, int64 [b, T + 1], read and sent while the GPU works on earlier ones.

    Several small batches are sent together: each copy has a fixed cost.
    """
    if device.type != "cuda":
        yield from (windows.read(indices) for indices in order)
        return
    ahead: tuple[torch.Tensor, ...] = ()
    for together in _parcels(order, PARCEL_TOKENS // windows.sequence_length):
        ids = windows.read(np.concatenate(together)).pin_memory().to(device, non_blocking=True)
        yield from ahead
        ahead = torch.split(ids, [len(indices) for indices in together])
    yield from ahead


def _parcels(order: Iterable[Indices], most_windows: int) -> Iterator[list[Indices]]:
    """Consecutive batches of at most `most_windows` windows together, or one batch that alone has more."""
    parcel: list[Indices] = []
    for indices in order:
        if parcel and sum(map(len, parcel)) + len(indices) > most_windows:
            yield parcel
            parcel = []
        parcel.append(indices)
    if parcel:
        yield parcel


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    windows: TokenWindows,
    indices: Indices,
    device: torch.device,
    in_float32: bool = False,
) -> float:
    """Mean loss of the windows `indices`, int64 [n], in nats a token; in float32, or as it is trained."""
    model.eval()
    most_tokens = min(
        EVALUATION_SCORES[device.type] // windows.vocabulary_size, EVALUATION_TOKENS[device.type]
    )
    batch_size = max(1, most_tokens // windows.sequence_length)
    total = torch.zeros((), dtype=torch.float64, device=device)
    chunks = (indices[start : start + batch_size] for start in range(0, len(indices), batch_size))
    for batch in device_batches(windows, chunks, device):
        with nullcontext() if in_float32 else autocast(device):
            total += window_loss(model, batch, reduction="sum")
    return total.item() / (len(indices) * windows.sequence_length)
