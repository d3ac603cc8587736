"""The sections of the configuration that pretraining reads."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from carbs_scaling.compute.flops import ARCHITECTURES, FLOPS_CONVENTIONS
from carbs_scaling.config import (
    DataConfig,
    ObjectiveConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
)
from carbs_scaling.errors import ConfigError


@dataclass(frozen=True)
class ModelConfig:
    """The family of models, and how its FLOPs are counted (`compute.flops`); width and depth are searched."""

    architecture: str = MISSING
    head_size: int = MISSING
    sequence_length: int = MISSING
    flops_convention: str = MISSING

    def __post_init__(self) -> None:
        for name, choices in (("architecture", ARCHITECTURES), ("flops_convention", FLOPS_CONVENTIONS)):
            value = getattr(self, name)
            if value not in choices:
                raise ConfigError(f"model.{name}={value} is not one of {', '.join(choices)}")
        for name, least in (("head_size", 1), ("sequence_length", 2)):
            value = getattr(self, name)
            if value < least:
                raise ConfigError(f"model.{name}={value} must be at least {least}")
        if self.architecture == "llama" and self.head_size % 2:
            raise ConfigError(
                f"model.head_size={self.head_size} must be even: rotary positions turn pairs of coordinates"
            )


@dataclass(frozen=True)
class PretrainingConfig:
    """All sections of `task=pretraining`. `space` is read by `PretrainingSpace`."""

    space: dict[str, Any]
    model: ModelConfig
    data: DataConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    objective: ObjectiveConfig
    training: TrainingConfig
