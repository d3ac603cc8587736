"""How a candidate is trained: the schemas of `conf/optimizer`, `schedule`, `objective` and `training`."""

import math
from dataclasses import dataclass

from omegaconf import MISSING

from carbs_scaling.config import require, require_choice
from carbs_scaling.optimizers.optimizer import load_optimizer

SCHEDULES = ("cosine", "linear", "constant", "power", "wsd")
DECAY_SHAPES = ("linear", "cosine", "sqrt", "power")
KEPT_MODELS = ("front", "all", "none")
# Objectives that are shares of right answers: what is minimised is what they lack of 1.
SCORES = ("accuracy", "f1", "matthews")
METRICS = ("nats_per_token", "bits_per_byte", "nats_per_label", *SCORES)


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and those of its constants that are not in the space."""

    name: str = MISSING
    nesterov: bool = MISSING
    decoupled_weight_decay: bool = MISSING
    gradient_clip_norm: float = MISSING

    def __post_init__(self) -> None:
        load_optimizer(self.name)
        require(
            self.gradient_clip_norm > 0,
            f"optimizer.gradient_clip_norm={self.gradient_clip_norm} must be positive (inf: no clipping)",
        )


@dataclass(frozen=True)
class ScheduleConfig:
    """The shape of the learning rate after warmup, down to `final_fraction` of its peak.

    `decay_fraction` and `decay_shape` are read, and checked, by `wsd` only; `decay_exponent` where a decay
    has the shape `power`. `warmup_steps`: of every run, in place of its recipe's `warmup_fraction`.
    """

    name: str = MISSING
    final_fraction: float = MISSING
    decay_fraction: float = MISSING
    decay_shape: str = MISSING
    decay_exponent: float = MISSING
    warmup_steps: int | None = None

    def __post_init__(self) -> None:
        require_choice("schedule.name", self.name, SCHEDULES)
        require(
            0 <= self.final_fraction <= 1, f"schedule.final_fraction={self.final_fraction} must lie in [0, 1]"
        )
        require(
            0 < self.decay_fraction <= 1, f"schedule.decay_fraction={self.decay_fraction} must lie in (0, 1]"
        )
        require(
            self.warmup_steps is None or self.warmup_steps >= 0,
            f"schedule.warmup_steps={self.warmup_steps} must not be negative, or null",
        )
        if self.name == "wsd":
            require_choice("schedule.decay_shape", self.decay_shape, DECAY_SHAPES)
        if self.has_power_decay:
            require(
                0 < self.decay_exponent < math.inf,
                f"schedule.decay_exponent={self.decay_exponent} must be a positive number",
            )

    @property
    def has_power_decay(self) -> bool:
        """Whether `decay_exponent` is read."""
        return self.name == "power" or (self.name == "wsd" and self.decay_shape == "power")

    @property
    def read(self) -> tuple[str, ...]:
        """The fields that the schedule reads."""
        names = ["name", "final_fraction"]
        if self.name == "wsd":
            names += ["decay_fraction", "decay_shape"]
        if self.warmup_steps is not None:
            names.append("warmup_steps")
        return (*names, "decay_exponent") if self.has_power_decay else tuple(names)


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is minimised: the held-out loss over the same `validation_tokens` tokens for every trial, or what
    a share of right answers lacks of 1.

    `gradient_noise_scale` says whether trials measure it along the way (`training.noise_scale`).
    """

    metric: str = MISSING
    validation_tokens: int = MISSING
    gradient_noise_scale: bool = MISSING

    def __post_init__(self) -> None:
        require_choice("objective.metric", self.metric, METRICS)
        require(
            self.validation_tokens >= 1,
            f"objective.validation_tokens={self.validation_tokens} must be at least 1",
        )


@dataclass(frozen=True)
class TrainingConfig:
    """How a training run uses its device; none of it changes what is trained, but for rounding.

    `compile`: through `torch.compile`; null for long runs of large models on a GPU.
    `micro_batch_tokens`: larger batches are accumulated in pieces of this size; null for whole batches.
    `checkpoint_minutes`: between two checkpoints of a run; null for none.
    `keep_models`: which trials of a search leave their model in the study's folder.
    """

    compile: bool | None = MISSING
    cuda_graph: bool = MISSING
    micro_batch_tokens: int | None = MISSING
    checkpoint_minutes: float | None = MISSING
    keep_models: str = MISSING

    def __post_init__(self) -> None:
        tokens = self.micro_batch_tokens
        require(
            tokens is None or tokens >= 1, f"training.micro_batch_tokens={tokens} must be at least 1 or null"
        )
        minutes = self.checkpoint_minutes
        require(
            minutes is None or 0 <= minutes < math.inf,
            f"training.checkpoint_minutes={minutes} must not be negative, or null",
        )
        require_choice("training.keep_models", self.keep_models, KEPT_MODELS)
