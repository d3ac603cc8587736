"""The schema that `conf/` fills: frozen dataclasses that check what they are given.

Every default lives in `conf/`, where a user reads and overrides it; the dataclasses have none, so that a key
missing from a preset is an error and not a silent choice.
"""

import math
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from carbs_scaling.compute.flops import FLOPS_CONVENTIONS
from carbs_scaling.errors import ConfigError
from carbs_scaling.models.family import ModelShape, load_family
from carbs_scaling.optimizers.optimizer import load_optimizer

SCHEDULES = ("cosine", "linear", "constant", "power", "wsd")
DECAY_SHAPES = ("linear", "cosine", "sqrt", "power")
METRICS = ("nats_per_token", "bits_per_byte")
DATA_SOURCES = ("stdlib", "files", "hub")
EXECUTORS = ("processes", "in_process")
DEVICES = ("auto", "cpu", "cuda")
FORMATS = ("table", "csv", "json", "parquet")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    _require(value in choices, f"{name}={value} is not one of {', '.join(choices)}")


@dataclass(frozen=True)
class StudyConfig:
    """Where the ledger is. `storage`: an SQLAlchemy URL, or null for SQLite in the study's folder."""

    name: str = MISSING
    directory: str = MISSING
    storage: str | None = MISSING
    seed: int = MISSING

    def __post_init__(self) -> None:
        bad = (
            not self.name or self.name.startswith(".") or any(c in "/\\:\0" or c.isspace() for c in self.name)
        )
        _require(
            not bad,
            f"study.name={self.name!r} is the name of a folder: use letters, digits, '-', '_' and '.' "
            "(a path goes into study.directory)",
        )

        _require(self.seed >= 0, f"study.seed={self.seed} must not be negative")

    @property
    def folder(self) -> Path:
        """The study's own folder: ledger, loss curves, log, figures."""
        return Path(self.directory).expanduser() / self.name


@dataclass(frozen=True)
class BudgetConfig:
    """How much may be spent, and in which convention it is counted (`carbs_scaling.compute.flops`)."""

    flops: float = MISSING
    max_trial_fraction: float = MISSING
    stop_below_fraction: float = MISSING
    trial_overhead_flops: float = MISSING
    convention: str = MISSING

    def __post_init__(self) -> None:
        _require(0 < self.flops < math.inf, f"budget.flops={self.flops} must be a positive number")
        _require(
            0 < self.max_trial_fraction <= 1,
            f"budget.max_trial_fraction={self.max_trial_fraction} must lie in (0, 1]",
        )
        _require(
            0 <= self.stop_below_fraction < 1,
            f"budget.stop_below_fraction={self.stop_below_fraction} must lie in [0, 1)",
        )
        _require(
            0 <= self.trial_overhead_flops < math.inf,
            f"budget.trial_overhead_flops={self.trial_overhead_flops} must be a number, and not negative",
        )
        _require_choice("budget.convention", self.convention, FLOPS_CONVENTIONS)


@dataclass(frozen=True)
class ModelConfig:
    """The family of models; width and depth are the space's."""

    architecture: str = MISSING
    head_size: int = MISSING
    sequence_length: int = MISSING

    def __post_init__(self) -> None:
        load_family(self.architecture)
        _require(self.head_size >= 1, f"model.head_size={self.head_size} must be at least 1")
        _require(
            self.sequence_length >= 2, f"model.sequence_length={self.sequence_length} must be at least 2"
        )
        # The smallest shape, which the family refuses if it has no model of this head size.
        ModelShape(self.architecture, self.head_size, 1, self.head_size, 1, self.sequence_length)


@dataclass(frozen=True)
class DataConfig:
    """The text. `source` says which of the other fields are read."""

    source: str = MISSING
    paths: list[str] = MISSING
    name: str | None = MISSING
    subset: str | None = MISSING
    split: str = MISSING
    text_column: str = MISSING
    streaming: bool = MISSING
    max_bytes: int | None = MISSING
    tokenizer: str = MISSING
    validation_fraction: float = MISSING
    cache_directory: str | None = MISSING

    def __post_init__(self) -> None:
        _require_choice("data.source", self.source, DATA_SOURCES)
        _require(
            0 < self.validation_fraction < 1,
            f"data.validation_fraction={self.validation_fraction} must lie in (0, 1)",
        )
        if self.source == "files":
            _require(bool(self.paths), "data=files needs data.paths, for example data.paths=[corpus/*.txt]")
        if self.source == "hub":
            _require(bool(self.name), "data=hub needs data.name, for example data.name=allenai/c4")
        if self.max_bytes is not None:
            _require(self.max_bytes > 0, f"data.max_bytes={self.max_bytes} must be positive")


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer's constants; what is searched of them lives in the space."""

    name: str = MISSING
    beta1: float = MISSING
    epsilon: float = MISSING
    gradient_clip_norm: float = MISSING

    def __post_init__(self) -> None:
        load_optimizer(self.name)
        _require(0 <= self.beta1 < 1, f"optimizer.beta1={self.beta1} must lie in [0, 1)")
        _require(self.epsilon > 0, f"optimizer.epsilon={self.epsilon} must be positive")
        _require(
            self.gradient_clip_norm > 0,
            f"optimizer.gradient_clip_norm={self.gradient_clip_norm} must be positive (inf: no clipping)",
        )


@dataclass(frozen=True)
class ScheduleConfig:
    """The shape of the learning rate after warmup, down to `final_fraction` of its peak.

    `decay_fraction` and `decay_shape` are read, and checked, by `wsd` only; `decay_exponent` where a decay
    has the shape `power`.
    """

    name: str = MISSING
    final_fraction: float = MISSING
    decay_fraction: float = MISSING
    decay_shape: str = MISSING
    decay_exponent: float = MISSING

    def __post_init__(self) -> None:
        _require_choice("schedule.name", self.name, SCHEDULES)
        _require(
            0 <= self.final_fraction <= 1, f"schedule.final_fraction={self.final_fraction} must lie in [0, 1]"
        )
        _require(
            0 < self.decay_fraction <= 1, f"schedule.decay_fraction={self.decay_fraction} must lie in (0, 1]"
        )
        if self.name == "wsd":
            _require_choice("schedule.decay_shape", self.decay_shape, DECAY_SHAPES)
        if self.has_power_decay:
            _require(
                0 < self.decay_exponent < math.inf,
                f"schedule.decay_exponent={self.decay_exponent} must be a positive number",
            )

    @property
    def has_power_decay(self) -> bool:
        """Whether `decay_exponent` is read."""
        return self.name == "power" or (self.name == "wsd" and self.decay_shape == "power")


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is minimised: the held-out loss over the same `validation_tokens` tokens for every trial.

    `gradient_noise_scale` says whether trials measure it along the way (`training.noise_scale`).
    """

    metric: str = MISSING
    validation_tokens: int = MISSING
    gradient_noise_scale: bool = MISSING

    def __post_init__(self) -> None:
        _require_choice("objective.metric", self.metric, METRICS)
        _require(
            self.validation_tokens >= 1,
            f"objective.validation_tokens={self.validation_tokens} must be at least 1",
        )


@dataclass(frozen=True)
class ExecutorConfig:
    """Where trials run. `workers` null means one a GPU, or one a core where there is no GPU.

    `memory_bytes` is what a trial may need by estimate (`executors.memory`); null means most of a GPU's.
    """

    name: str = MISSING
    workers: int | None = MISSING
    device: str = MISSING
    trials_per_worker: int | None = MISSING
    retries: int = MISSING
    compile: bool = MISSING
    cuda_graph: bool = MISSING
    micro_batch_tokens: int | None = MISSING
    memory_bytes: int | None = MISSING

    def __post_init__(self) -> None:
        _require_choice("executor.name", self.name, EXECUTORS)
        _require_choice("executor.device", self.device, DEVICES)
        for name in ("workers", "trials_per_worker", "micro_batch_tokens", "memory_bytes"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"executor.{name}={value} must be at least 1 or null")
        _require(self.retries >= 0, f"executor.retries={self.retries} must not be negative")


@dataclass(frozen=True)
class SearchConfig:
    """All of `conf/search.yaml`. `space` and `sampler` are open mappings, read where they are used."""

    study: StudyConfig
    budget: BudgetConfig
    space: dict[str, Any]
    sampler: dict[str, Any]
    model: ModelConfig
    data: DataConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    objective: ObjectiveConfig
    executor: ExecutorConfig


@dataclass(frozen=True)
class FrontConfig:
    """All of `conf/front.yaml`."""

    study: StudyConfig
    format: str
    output: str | None
    plots: bool

    def __post_init__(self) -> None:
        _require_choice("format", self.format, FORMATS)
        _require(self.output != "", "output= needs a file")
        _require(
            self.output is None or self.format != "table",
            f"output={self.output} needs format=csv, json or parquet",
        )


LAW_FORMATS = ("table", "json")
RECIPE_FORMATS = ("table", "json", "yaml", "training_arguments")


@dataclass(frozen=True)
class TargetConfig:
    """What is to be trained: N and D, or FLOPs with at most one of them; and how it will be run."""

    params: float | None = MISSING
    tokens: float | None = MISSING
    flops: float | None = MISSING
    sequence_length: int = MISSING
    head_size: int = MISSING
    devices: int = MISSING
    sequences_per_device: int = MISSING

    def __post_init__(self) -> None:
        for name in ("sequence_length", "head_size", "devices", "sequences_per_device"):
            _require(getattr(self, name) >= 1, f"target.{name}={getattr(self, name)} must be at least 1")


@dataclass(frozen=True)
class FitConfig:
    """All of `conf/fit.yaml`."""

    study: StudyConfig
    runs: str | None
    only_optimizer: str | None
    prior: list[str]
    format: str
    plots: bool
    output: str | None

    def __post_init__(self) -> None:
        _require_choice("format", self.format, LAW_FORMATS)


@dataclass(frozen=True)
class CurvesConfig:
    """All of `conf/curves.yaml`."""

    study: StudyConfig
    levels: list[float] | None
    rate_share: float
    draws: int
    format: str
    plots: bool
    output: str | None

    def __post_init__(self) -> None:
        _require_choice("format", self.format, LAW_FORMATS)
        _require(0 < self.rate_share <= 1, f"rate_share={self.rate_share} must lie in (0, 1]")
        _require(
            isinstance(self.draws, int) and self.draws >= 20,
            f"draws={self.draws} must be a whole number, at least 20",
        )
        levels = self.levels
        fine = levels is None or (
            isinstance(levels, list) and levels and all(isinstance(x, int | float) and x > 0 for x in levels)
        )
        _require(bool(fine), f"levels={levels} must be losses, such as [2.4,2.2], or null")


COMPARE_FORMATS = ("table", "csv", "json")


@dataclass(frozen=True)
class CompareConfig:
    """All of `conf/compare.yaml`. A study of `studies` is a name in `study.directory`, or a folder's path."""

    study: StudyConfig
    studies: list[str]
    format: str
    plots: bool
    output: str | None

    def __post_init__(self) -> None:
        _require_choice("format", self.format, COMPARE_FORMATS)
        named = isinstance(self.studies, list) and all(isinstance(name, str | int) for name in self.studies)
        _require(
            named and len(self.studies) >= 2,
            f"studies={self.studies} must be two studies or more, such as 'studies=[mine,grid]'",
        )
        twice = [name for name in self.studies if self.studies.count(name) > 1]
        _require(not twice, f"studies={self.studies} names {twice[0] if twice else ''} twice")
        _require(self.output != "", "output= needs a file")
        _require(
            self.output is None or self.format != "table",
            f"output={self.output} needs format=csv or json",
        )


@dataclass(frozen=True)
class RecommendConfig:
    """All of `conf/recommend.yaml`."""

    study: StudyConfig
    runs: str | None
    law: str | None
    only_optimizer: str | None
    prior: list[str]
    target: TargetConfig
    level: float
    format: str
    output: str | None

    def __post_init__(self) -> None:
        _require_choice("format", self.format, RECIPE_FORMATS)
        _require(0 < self.level < 1, f"level={self.level} must lie in (0, 1)")
        _require(
            self.law is None or self.runs is None, "set law (a fitted law's JSON) or runs (a table), not both"
        )
        _require(
            self.law is None or not self.prior,
            "a prior enters where a law is fitted, and law=FILE is fitted already",
        )


def _plain(values: DictConfig, section_type: type) -> dict[str, Any]:
    """What people write and OmegaConf refuses: 1e6 for a whole number, one path for a list of them."""
    plain = OmegaConf.to_container(values, resolve=True)
    for field in fields(section_type):
        value = plain.get(field.name)
        if isinstance(value, float) and value.is_integer() and field.type in (int, int | None):
            plain[field.name] = int(value)
        if isinstance(value, str) and field.type == list[str]:
            plain[field.name] = [value]
    return plain


def load_section(name: str, section_type: type, values: DictConfig) -> Any:
    """One group of the configuration, `name`, as the checked dataclass `section_type`.

    Raises:
        ConfigError: a key that it does not have, or a value that cannot be.
    """
    schema = OmegaConf.structured(section_type)
    OmegaConf.set_readonly(schema, False)  # a frozen dataclass makes its node read-only, also for the merge
    try:
        return OmegaConf.to_object(OmegaConf.merge(schema, _plain(values, section_type)))
    except OmegaConfBaseException as error:
        key = f"{name}.{error.full_key}" if error.full_key else name
        raise ConfigError(f"{key}: {str(error).splitlines()[0]}") from error


def load_config(config_type: type, composed: DictConfig) -> Any:
    """The composed Hydra configuration as a checked, frozen `SearchConfig` or `FrontConfig`.

    Raises:
        ConfigError: a key that the schema does not have or that is missing, or a value that cannot be.
    """
    known = [field.name for field in fields(config_type)]
    for name in composed:
        _require(name in known, f"unknown key {name!r}; there are {', '.join(known)}")
    values = {}
    for field in fields(config_type):
        _require(field.name in composed, f"the configuration has no {field.name!r}")
        value = composed[field.name]
        if is_dataclass(field.type):
            _require(
                isinstance(value, DictConfig),
                f"{field.name}={value} must be a group, such as {field.name}=NAME",
            )
            value = load_section(field.name, field.type, value)
        elif isinstance(value, DictConfig | ListConfig):
            value = OmegaConf.to_container(value, resolve=True)
        if not is_dataclass(field.type) and field.type in (str, bool, str | None, float):
            kind = str | None if field.type == str | None else field.type
            right = isinstance(value, kind) or (kind is float and isinstance(value, int | float))
            _require(right, f"{field.name}={value!r} is not what {field.name} can be")
        values[field.name] = value
    return config_type(**values)


def to_dict(config: SearchConfig) -> dict[str, Any]:
    """As plain JSON types, for the ledger."""
    return asdict(config)
