"""The sections of the configuration that pretraining reads."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from carbs_scaling.compute.flops import FLOPS_CONVENTIONS
from carbs_scaling.config import require_choice
from carbs_scaling.config_loading import load_section
from carbs_scaling.data.config import DataConfig
from carbs_scaling.data.example_encoding import InputForm
from carbs_scaling.data.examples_config import ExamplesConfig
from carbs_scaling.data.rows import RowsConfig
from carbs_scaling.errors import ConfigError
from carbs_scaling.models.family import ModelFamily, ModelShape, checked_options, load_family
from carbs_scaling.models.parametrization import Parametrization
from carbs_scaling.training.config import (
    SCORES,
    ObjectiveConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
)


@dataclass(frozen=True)
class ModelConfig:
    """The family of models, and how its FLOPs are counted (`compute.flops`); width and depth are searched.

    `parametrization`, `base_width` and `base_depth`: see `models.parametrization`. `options` are what the
    family asks for beyond that: the other keys of the group `model`.
    """

    architecture: str = MISSING
    head_size: int = MISSING
    sequence_length: int = MISSING
    flops_convention: str = MISSING
    options: Any = None
    parametrization: str = "standard"
    base_width: int = 64
    base_depth: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", checked_options(self.family, self.options))
        self.scaling.check(self.family)
        fixed = self.fixed_sizes
        for name in ("head_size", "sequence_length"):
            if name in fixed:
                object.__setattr__(self, name, fixed[name])
        if self.flops_convention not in FLOPS_CONVENTIONS:
            known = ", ".join(FLOPS_CONVENTIONS)
            raise ConfigError(f"model.flops_convention={self.flops_convention} is not one of {known}")
        for name, least in (("head_size", 1), ("sequence_length", 2)):
            value = getattr(self, name)
            if value < least:
                raise ConfigError(f"model.{name}={value} must be at least {least}")
        # The smallest shape, which the family refuses if it has no model of this head size.
        smallest = {"width": self.width_step, "depth": 1, "vocabulary_size": 1} | fixed
        self.shape(smallest["width"], smallest["depth"], smallest["vocabulary_size"])

    @property
    def scaling(self) -> Parametrization:
        """How initial weights and rates change with the shape."""
        return Parametrization(self.parametrization, self.base_width, self.base_depth)

    @property
    def family(self) -> ModelFamily:
        """The family of all models."""
        return load_family(self.architecture)

    @property
    def fixed_sizes(self) -> dict[str, int]:
        """Sizes that the options decide, by name; see `ModelFamily.fixed_sizes`."""
        return self.family.fixed_sizes(self.options)

    @property
    def width_step(self) -> int:
        """What widths are multiples of."""
        return self.family.width_step(self.options, self.head_size)

    def shape(
        self, width: int, depth: int, vocabulary_size: int, classes: int | None = None, **changes: Any
    ) -> ModelShape:
        """A model of these sizes; a trained one may have room for more tokens than its tokenizer has.

        Args:
            width, depth, vocabulary_size, classes: see `ModelShape`.
            changes: of the options.

        Raises:
            ConfigError: the family has none.
        """
        own = self.family.fixed_sizes(self.options).get("vocabulary_size", 0)
        vocabulary_size = max(own, vocabulary_size)
        return ModelShape(
            self.architecture, width, depth, self.head_size, vocabulary_size, self.sequence_length,
            replace(self.options, **changes) if changes else self.options, classes,
        )  # fmt: skip

    def plain(self) -> dict[str, Any]:
        """As the keys of the group `model`."""
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "options"}
        return own | asdict(self.options)

    @classmethod
    def from_section(cls, values: DictConfig) -> "ModelConfig":
        """The group `model` of a configuration.

        Raises:
            ConfigError: a key that neither this nor the family has, or a value that cannot be.
        """
        own = [field.name for field in fields(cls) if field.name != "options"]
        rest = [str(name) for name in values if name not in own]
        options: Any = None
        if OmegaConf.is_missing(values, "architecture") or "architecture" not in values:
            raise ConfigError("model.architecture is missing: choose a family, such as model=NAME")
        if isinstance(values.architecture, str):
            kind = load_family(values.architecture).options_type
            options = load_section("model", kind, OmegaConf.masked_copy(values, rest))
        config = load_section("model", _Sizes, OmegaConf.masked_copy(values, own))
        return cls(**vars(config), options=options)


@dataclass(frozen=True)
class _Sizes:
    """The keys of the group `model` that every family has."""

    architecture: str = MISSING
    head_size: int = MISSING
    sequence_length: int = MISSING
    flops_convention: str = MISSING
    parametrization: str = MISSING
    base_width: int = MISSING
    base_depth: int = MISSING


@dataclass(frozen=True)
class TrainedModelConfig:
    """The sections that all tasks with our training loop have. `space` is read by `PretrainingSpace`."""

    space: dict[str, Any]
    model: ModelConfig
    data: Any
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    objective: ObjectiveConfig
    training: TrainingConfig

    @property
    def metrics(self) -> tuple[str, ...]:
        """Objectives that the task knows."""
        return ("nats_per_token", "bits_per_byte")

    @property
    def inputs(self) -> tuple[str, ...]:
        """What its models read."""
        return ("tokens",)

    def __post_init__(self) -> None:
        require_choice("objective.metric", self.objective.metric, self.metrics)
        if self.model.family.inputs not in self.inputs:
            raise ConfigError(f"model={self.model.architecture} reads images: use task=classification")
        own = self.model.family.tokenizer(self.model.options)
        if own is None or self.data.tokenizer == own:
            return
        if self.data.tokenizer != "bytes":
            raise ConfigError(
                f"data.tokenizer={self.data.tokenizer}: this model was trained with the tokenizer {own}; "
                "leave data.tokenizer out"
            )
        object.__setattr__(self, "data", replace(self.data, tokenizer=own))


@dataclass(frozen=True)
class PretrainingConfig(TrainedModelConfig):
    """All sections of `task=pretraining`.

    A model that comes with a tokenizer is trained with that one.
    """

    data: DataConfig


@dataclass(frozen=True)
class ClassificationConfig(TrainedModelConfig):
    """All sections of `task=classification`."""

    data: ExamplesConfig

    @property
    def metrics(self) -> tuple[str, ...]:
        """Objectives that the task knows."""
        return ("nats_per_label", *SCORES)

    @property
    def inputs(self) -> tuple[str, ...]:
        """What its models read."""
        return ("tokens", "images")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model.family.classifies:
            raise ConfigError(f"model={self.model.architecture} has no head for classes: choose another")
        if not self.model.scaling.is_standard:
            raise ConfigError("task=classification knows model.parametrization=standard alone")

    @property
    def form(self) -> InputForm:
        """What the model reads."""
        if self.model.family.inputs == "images":
            options = self.model.options
            return InputForm(self.model.sequence_length, options.image_size, options.channels)
        return InputForm(self.model.sequence_length)


@dataclass(frozen=True)
class FinetuningConfig(TrainedModelConfig):
    """All sections of `task=finetuning`."""

    data: RowsConfig

    @property
    def metrics(self) -> tuple[str, ...]:
        """Objectives that the task knows."""
        return ("nats_per_token",)

    def __post_init__(self) -> None:
        if self.model.family.tokenizer(self.model.options) is None:
            raise ConfigError("task=finetuning goes on from a trained model: model=pretrained model.path=...")
        super().__post_init__()
