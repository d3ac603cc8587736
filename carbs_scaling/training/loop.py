"""One trial: a recipe and a text in, a typed outcome out.

Global state is left as it was, except for what `torch.compile` caches: a compiled trial empties it first.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from carbs_scaling.data.windows import Indices, validation_indices
from carbs_scaling.errors import ConfigError
from carbs_scaling.models.build import build_model
from carbs_scaling.models.parametrization import parameter_multipliers
from carbs_scaling.optimizers.optimizer import build_optimizer, load_optimizer
from carbs_scaling.training.batches import device_batches
from carbs_scaling.training.checkpoint import (
    Checkpoint,
    CheckpointPlan,
    TrunkLost,
    begun_by_parent,
    restore_tensors,
    run_tensors,
    save_checkpoint,
)
from carbs_scaling.training.config import SCORES
from carbs_scaling.training.curve import LossCurve, point_interval, points_to
from carbs_scaling.training.device import choose_device, device_name
from carbs_scaling.training.distributed import Ranks
from carbs_scaling.training.divergence import DivergenceCheck
from carbs_scaling.training.evaluation import evaluate
from carbs_scaling.training.interruption import StopRequest, stop_after_a_step
from carbs_scaling.training.job import TrainingJob, hyperparameters, micro_batch_size
from carbs_scaling.training.learning import Learning, learning, objective_value
from carbs_scaling.training.losses import ResponseLosses
from carbs_scaling.training.noise_scale import NoiseMeter
from carbs_scaling.training.schedules import build_scheduler, set_scheduler_step, trunk_steps
from carbs_scaling.training.step import is_out_of_memory, precision
from carbs_scaling.training.step_building import build_step, compiled_model, is_compiled, measured_step
from carbs_scaling.trial import Completed, Diverged, OutOfMemory, ParentLost, Stopped, TrialOutcome

# Steps between two readings of the loss: each waits for the GPU.
CHECK_STEPS = 16


# Called with the steps done, the seconds so far and the training loss whenever losses are read.
Watch = Callable[[int, float, float], None]


@dataclass
class _Tally:
    """What a run has done so far, also when it ends early; `stopped`: by its rule."""

    steps: int = 0
    started: float | None = None
    seconds: float = 0.0
    earlier_seconds: float = 0.0
    noise_scale_tokens: float | None = None
    float32_loss: float | None = None
    measured: dict[str, float] = field(default_factory=dict)
    epochs: float | None = None
    stopped: bool = False

    def seconds_so_far(self) -> float:
        """Of this process and, for a run that goes on from a checkpoint, of those before it."""
        return 0.0 if self.started is None else self.earlier_seconds + time.perf_counter() - self.started


def train(job: TrainingJob, watch: Watch | None = None, ranks: Ranks | None = None) -> TrialOutcome:
    """Train one model and score it on the held-out windows.

    Divergence and lack of memory are outcomes, not exceptions: the search learns from them. With checkpoints
    it goes on from the last one of the same run, and ends as the unbroken run does. The outcome is
    `ParentLost` where the state that it begins with is gone.

    Args:
        job: the same in all processes of a run.
        watch: see `Watch`; None for nobody.
        ranks: the processes that train it together; None for this one alone.

    Raises:
        DataError: the text is too short for one window.
        ConfigError: a GPU is asked for and there is none, there is no such optimizer, or a model is to be
            saved and its tokenizer cannot be loaded.
        OSError: the loss curve or the model cannot be written, or the token files are gone.
        CarbsScalingError: a checkpoint cannot be written.
        KeyboardInterrupt: Ctrl-C or SIGTERM; with checkpoints, once one of the last step is written.
    """
    device = choose_device(job.device)
    if device.type == "cuda":
        # The next line fails in a process that has not used the GPU yet.
        torch.cuda.init()
        torch.cuda.reset_peak_memory_stats(device)
    tally = _Tally()
    ranks = ranks or Ranks(device=device)
    loss: float | None = None
    kind: type[TrialOutcome] = Diverged
    try:
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            loss, trouble = _train_and_score(job, device, tally, watch, ranks)
    except TrunkLost as lost:
        return ParentLost(message=str(lost))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error) or ranks.size > 1:
            raise
        kind, trouble = OutOfMemory, (str(error).splitlines() or ["out of memory"])[0][:300]
        if tally.started is not None:
            tally.steps = max(tally.steps, 1)  # the first step, which did not fit, was paid for too
        tally.seconds = tally.seconds_so_far()
    common: dict[str, Any] = {
        "seconds": tally.seconds,
        "device": ranks.device_name(device_name(device)),
        "precision": precision(device),
        "recomputation": "none",
    }
    if device.type == "cuda":
        common["peak_memory_bytes"] = torch.cuda.max_memory_allocated(device)
        torch.cuda.empty_cache()
    metrics = {}
    if tally.noise_scale_tokens is not None:
        metrics["noise_scale_tokens"] = tally.noise_scale_tokens
    if tally.float32_loss is not None:
        metrics[f"float32_{next(iter(tally.measured))}"] = tally.float32_loss
    if tally.epochs is not None:
        metrics["epochs"] = tally.epochs
    if loss is None:
        progress = tally.steps / job.recipe.steps
        if tally.stopped:
            bound = None if job.stop_rule is None else job.stop_rule.at_least
            return Stopped(progress=progress, message=trouble, metrics=metrics, at_least=bound, **common)
        return kind(progress=progress, message=trouble, metrics=metrics, **common)
    value = objective_value(job.objective.metric, tally.measured)
    of_laws = loss if job.objective.metric in SCORES else None
    return Completed(loss=value, loss_of_laws=of_laws, metrics={**tally.measured, **metrics}, **common)


def _train_and_score(
    job: TrainingJob, device: torch.device, tally: _Tally, watch: Watch | None, ranks: Ranks
) -> tuple[float | None, str]:
    """The held-out loss in nats a token and an empty text, or None and why the run diverged."""
    shape = job.recipe.shape
    learnt = learning(job.text, shape.sequence_length)
    if ranks.size > 1 and isinstance(learnt.losses, ResponseLosses):
        raise ConfigError("rows of responses are trained by one process: leave train.processes out")
    held_out = learnt.held_out
    # Before the first step: without its tokenizer, the model could not be saved after the last.
    save = None if job.model_folder is None else learnt.saver(job.tokenizer)

    def build() -> nn.Module:
        return learnt.fit(build_model(shape, job.recipe.seed, job.recipe.parametrization))

    model = ranks.place(build(), device)
    checkpoint = None if job.checkpoints is None else ranks.load(job.checkpoints)
    inherited: list[dict[str, float]] = []
    if checkpoint is None and job.goes_on_from is not None:
        checkpoint = begun_by_parent(job.goes_on_from, ranks.load(job.goes_on_from))
        inherited = [
            {**point, "progress": point["step"] / job.recipe.steps, "seconds": 0.0}
            for point in checkpoint.state["curve"]
        ]
    curve_path = job.curve_path if ranks.first else None
    with LossCurve(curve_path, 0 if checkpoint is None else checkpoint.step, inherited) as curve:
        run = _Run(model, job, learnt, device, tally, curve, watch, ranks)
        if trouble := run.train(checkpoint):
            return None, trouble
        with run.kept_if_interrupted():
            indices = validation_indices(
                len(held_out), shape.sequence_length, job.objective.validation_tokens
            )

            def score(some: Indices, in_float32: bool = False) -> float:
                return evaluate(model, held_out, some, device, in_float32, learnt.losses)

            loss = ranks.mean_loss(score, indices)
            if not math.isfinite(loss):
                return None, f"held-out loss became {loss}"
            tokens = tally.steps * job.recipe.batch_tokens
            curve.add(progress=1.0, step=tally.steps, tokens=tokens, validation_loss=loss)
            # A trained model may know less of new text than a uniform guess: its own start counts.
            trained = shape.architecture == "pretrained"
            if loss > learnt.most_loss and not (trained and loss <= run.most_loss):
                return None, f"held-out loss {loss:.2f} is worse than a uniform guess, {learnt.most_loss:.2f}"
            tally.measured = learnt.measured(loss, model, indices, device)
            if job.model_folder is not None and save is not None:
                # What the saved model gives where nothing is rounded to bfloat16.
                tally.float32_loss = ranks.mean_loss(partial(score, in_float32=True), indices)
                ranks.on_first(partial(save, ranks.gathered(model, build), job.model_folder))
            return loss, ""


class _Run:
    """The steps of a recipe, with all that a checkpoint must hold.

    Args:
        model: on its device.
        learnt: what it learns from, and its loss.
        job, device, tally, curve: of the run.
        watch: see `Watch`; None for nobody.
        ranks: the processes of the run.
    """

    def __init__(
        self,
        model: nn.Module,
        job: TrainingJob,
        learnt: Learning,
        device: torch.device,
        tally: _Tally,
        curve: LossCurve,
        watch: Watch | None,
        ranks: Ranks,
    ) -> None:
        recipe = job.recipe
        self._model, self._job, self._device = model, job, device
        self._tally, self._curve, self._watch, self._ranks = tally, curve, watch, ranks
        forward = model
        if is_compiled(job, device, ranks):
            forward = compiled_model(
                model, micro_batch_size(recipe, job.micro_batch_tokens) * recipe.shape.sequence_length
            )
        kind = load_optimizer(job.optimizer.name)
        multipliers = parameter_multipliers(
            model, recipe.shape, recipe.parametrization, kind.rule, kind.hidden_rule
        )
        self._optimizer = build_optimizer(kind.name, model, hyperparameters(job), multipliers)
        self._scheduler = build_scheduler(self._optimizer, job.schedule, recipe.warmup_fraction, recipe.steps)
        self._step = build_step(forward, self._optimizer, job, device, ranks, learnt.losses)
        self._divergence = DivergenceCheck(recipe.steps)
        measured = job.objective.gradient_noise_scale
        self._noise = NoiseMeter(self._step.parameters, recipe) if measured else None
        self._windows = learnt.train
        self._since_point: list[float] = []
        self._has_saved = False
        self._leaves_at = 0 if job.trunk is None else trunk_steps(job.schedule, recipe.steps)
        self._ruled_share, self._since_rule = 0.0, [0.0, 0]  # sum and count of losses since the last look

    @property
    def most_loss(self) -> float:
        """See `DivergenceCheck.most_loss`."""
        return self._divergence.most_loss

    def train(self, checkpoint: Checkpoint | None) -> str:
        """Run the steps that are left; returns why the run diverged, or an empty text."""
        recipe, tally = self._job.recipe, self._tally
        if checkpoint is not None:
            self._go_on_from(checkpoint)
        windows = self._windows
        own = map(self._ranks.share, windows.order(recipe.batch_size, recipe.steps, recipe.seed, tally.steps))
        every = point_interval(recipe.steps)
        unread: list[torch.Tensor] = []
        self._model.train()
        tally.started = self._saved_at = time.perf_counter()
        with stop_after_a_step(self._job.checkpoints is not None) as stop:
            for batch in device_batches(windows, own, self._device):
                unread.append(self._take_step(batch))
                tally.steps += 1
                at_point = tally.steps % every == 0 or tally.steps == recipe.steps
                # Several processes read after the same steps, whichever was asked to stop.
                at_stop = stop.asked and self._ranks.size == 1
                at_end_of_trunk = tally.steps == self._leaves_at
                was_read = at_point or len(unread) == CHECK_STEPS or at_stop or at_end_of_trunk
                if was_read:
                    losses = self._ranks.mean(torch.stack(unread))
                    unread.clear()
                    if trouble := self._take_losses(losses):
                        return trouble
                if at_point:
                    self._add_point()
                self._scheduler.step()
                if at_end_of_trunk:
                    self._leave_trunk()
                if was_read and (reason := self._reason_to_stop()):
                    return reason
                if was_read:
                    self._save_if_due(stop)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        tally.seconds = tally.seconds_so_far()
        tally.noise_scale_tokens = None if self._noise is None else self._noise.noise_scale_tokens()
        return ""

    def _take_step(self, batch: torch.Tensor) -> torch.Tensor:
        if self._noise is not None and self._noise.due(self._tally.steps):
            return measured_step(self._step, self._noise, batch, self._tally.steps)
        return self._step(batch)

    def _take_losses(self, losses: list[float]) -> str:
        """Why the run has diverged after these further losses; empty if it has not."""
        tally = self._tally
        self._since_point += losses
        self._since_rule = [self._since_rule[0] + sum(losses), self._since_rule[1] + len(losses)]
        tally.seconds = tally.seconds_so_far()
        tally.epochs = self._windows.repeats(tally.steps * self._job.recipe.batch_size)
        trouble = self._divergence.reason(losses)
        if self._watch is not None and not trouble:
            self._watch(tally.steps, tally.seconds, sum(losses) / len(losses))
        return trouble

    def _reason_to_stop(self) -> str:
        """Why the rule ends the run here, with a trunk where there is one to leave; empty if it does not."""
        rule, tally = self._job.stop_rule, self._tally
        share = tally.steps / self._job.recipe.steps
        if rule is None or share == 1 or not rule.passes(self._ruled_share, share):
            return ""
        loss = self._since_rule[0] / max(1, self._since_rule[1])
        stops = rule.stops(self._ruled_share, share, loss)
        self._ruled_share, self._since_rule = share, [0.0, 0]
        if not stops:
            return ""
        if tally.steps < self._leaves_at:
            self._leave_trunk()
        tally.stopped, tally.seconds = True, tally.seconds_so_far()
        return f"it would hardly have come below {rule.at_least:.4g}, the front at its FLOPs"

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

    @contextmanager
    def kept_if_interrupted(self) -> Iterator[None]:
        """Write a checkpoint of all steps where scoring and saving the model are interrupted.

        Several processes are interrupted at different places, and keep what was written before.
        """
        try:
            yield
        except KeyboardInterrupt:
            if self._job.checkpoints is not None and self._ranks.size == 1:
                self._save(self._job.checkpoints)
            raise

    def _save_if_due(self, stop: StopRequest) -> None:
        """Write a checkpoint when its time has come or a stop was asked for; a stop ends the run then."""
        plan = self._job.checkpoints
        if plan is None:
            return
        if self._tally.steps == self._job.recipe.steps:
            due = self._has_saved  # such a run is long, and its scoring may be broken off too
        else:
            due = time.perf_counter() - self._saved_at >= 60 * plan.minutes
        due, stopping = self._ranks.any(due, stop.asked or self._ranks.orphaned)
        if due or stopping:
            self._save(plan)
        if stopping:
            raise KeyboardInterrupt

    def _leave_trunk(self) -> None:
        """Writes the state that longer runs of the recipe go on from."""
        if self._job.trunk is not None:
            self._write(self._job.trunk, {"curve": points_to(self._job.curve_path, self._tally.steps)})

    def _save(self, plan: CheckpointPlan) -> None:
        self._write(plan, {"has_saved": True, "rule": [self._ruled_share, *self._since_rule]})
        self._saved_at, self._has_saved = time.perf_counter(), True

    def _write(self, plan: CheckpointPlan, more: dict[str, Any]) -> None:
        state = {
            **more,
            "seconds": self._tally.seconds,
            "since_point": self._since_point,
            "divergence": self._divergence.state(),
            "noise": None if self._noise is None else self._noise.state(),
            "micro_batch": self._step.micro_batch,
            "text": self._windows.place(self._tally.steps * self._job.recipe.batch_size),
        }
        tensors = self._ranks.whole(run_tensors(self._model, self._optimizer))
        self._ranks.on_first(partial(save_checkpoint, plan, Checkpoint(self._tally.steps, state, tensors)))

    def _go_on_from(self, checkpoint: Checkpoint) -> None:
        state, self._has_saved = checkpoint.state, checkpoint.state["has_saved"]
        self._ruled_share, *self._since_rule = state.get(
            "rule", [checkpoint.step / self._job.recipe.steps, 0.0, 0]
        )
        tensors = self._ranks.laid_out(checkpoint.tensors, self._model, self._optimizer)
        restore_tensors(self._model, self._optimizer, tensors)
        set_scheduler_step(self._scheduler, checkpoint.step)
        self._windows.restore(state["text"])
        self._tally.steps, self._tally.earlier_seconds = checkpoint.step, state["seconds"]
        self._since_point = list(state["since_point"])
        self._divergence.restore(state["divergence"])
        # What did not fit then does not fit now; a smaller setting of today holds too.
        self._step.micro_batch = min(self._step.micro_batch, state["micro_batch"])
        if self._noise is not None:
            self._noise.restore(state["noise"])
