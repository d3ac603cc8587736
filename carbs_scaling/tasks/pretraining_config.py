"""The sections of the configuration that pretraining reads."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from carbs_scaling.compute.flops import FLOPS_CONVENTIONS
from carbs_scaling.data.config import DataConfig
from carbs_scaling.errors import ConfigError
from carbs_scaling.models.family import ModelShape, load_family
from carbs_scaling.models.parametrization import Parametrization
from carbs_scaling.training.config import ObjectiveConfig, OptimizerConfig, ScheduleConfig, TrainingConfig


@dataclass(frozen=True)
class ModelConfig:
    """The family of models, and how its FLOPs are counted (`compute.flops`); width and depth are searched.

    `parametrization`, `base_width` and `base_depth`: see `models.parametrization`.
    """

    architecture: str = MISSING
    head_size: int = MISSING
    sequence_length: int = MISSING
    flops_convention: str = MISSING
    parametrization: str = "standard"
    base_width: int = 64
    base_depth: int = 2

    def __post_init__(self) -> None:
        load_family(self.architecture)
        Parametrization(self.parametrization, self.base_width, self.base_depth)
        if self.flops_convention not in FLOPS_CONVENTIONS:
            known = ", ".join(FLOPS_CONVENTIONS)
            raise ConfigError(f"model.flops_convention={self.flops_convention} is not one of {known}")
        for name, least in (("head_size", 1), ("sequence_length", 2)):
            value = getattr(self, name)
            if value < least:
                raise ConfigError(f"model.{name}={value} must be at least {least}")
        # The smallest shape, which the family refuses if it has no model of this head size.
        ModelShape(self.architecture, self.head_size, 1, self.head_size, 1, self.sequence_length)


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
