"""The schema that `conf/` fills: frozen dataclasses that check what they are given.

Every default lives in `conf/`, where a user reads and overrides it; the dataclasses have none, so that a key
missing from a preset is an error and not a silent choice.
"""

import math
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from carbs_scaling.errors import ConfigError
from carbs_scaling.optimizers.optimizer import load_optimizer

T = TypeVar("T")

SCHEDULES = ("cosine", "linear", "constant", "power", "wsd")
DECAY_SHAPES = ("linear", "cosine", "sqrt", "power")
METRICS = ("nats_per_token", "bits_per_byte")
DATA_SOURCES = ("stdlib", "files", "hub")
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
    """How much may be spent, in FLOPs as the task counts them."""

    flops: float = MISSING
    max_trial_fraction: float = MISSING
    stop_below_fraction: float = MISSING
    trial_overhead_flops: float = MISSING

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

    @property
    def read(self) -> tuple[str, ...]:
        """The fields that the schedule reads."""
        names = ["name", "final_fraction"]
        if self.name == "wsd":
            names += ["decay_fraction", "decay_shape"]
        return (*names, "decay_exponent") if self.has_power_decay else tuple(names)


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
class TrainingConfig:
    """How a training run uses its device; none of it changes what is trained, but for rounding.

    `micro_batch_tokens`: larger batches are accumulated in pieces of this size; null for whole batches.
    """

    compile: bool = MISSING
    cuda_graph: bool = MISSING
    micro_batch_tokens: int | None = MISSING

    def __post_init__(self) -> None:
        tokens = self.micro_batch_tokens
        _require(
            tokens is None or tokens >= 1, f"training.micro_batch_tokens={tokens} must be at least 1 or null"
        )


@dataclass(frozen=True)
class ExecutorConfig:
    """What every executor is told; one with options of its own extends it.

    `workers`: trials at once; null for one a GPU, or one a core where there is no GPU.
    `memory_bytes`: what a trial may need by estimate; null for most of a GPU's (`executors.memory`).
    """

    name: str = MISSING
    workers: int | None = MISSING
    device: str = MISSING
    memory_bytes: int | None = MISSING

    def __post_init__(self) -> None:
        _require_choice("executor.device", self.device, DEVICES)
        for name in ("workers", "memory_bytes"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"executor.{name}={value} must be at least 1 or null")


@dataclass(frozen=True)
class SearchConfig:
    """What `conf/search.yaml` says beside the sections of its task (`commands.search.load_search`).

    `task` and `sampler` are open mappings with a name, read where they are used.
    """

    study: StudyConfig
    budget: BudgetConfig
    task: dict[str, Any]
    sampler: dict[str, Any]
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
    plain: dict[str, Any] = OmegaConf.to_container(values, resolve=True)  # type: ignore[assignment]
    for name, kind in get_type_hints(section_type).items():
        value = plain.get(name)
        if isinstance(value, float) and value.is_integer() and kind in (int, int | None):
            plain[name] = int(value)
        if isinstance(value, str) and kind == list[str]:
            plain[name] = [value]
    return plain


def load_section(name: str, section_type: type[T], values: DictConfig) -> T:
    """One group of the configuration, `name`, as the checked dataclass `section_type`.

    Raises:
        ConfigError: a key that it does not have, or a value that cannot be.
    """
    schema = OmegaConf.structured(section_type)
    OmegaConf.set_readonly(schema, False)  # a frozen dataclass makes its node read-only, also for the merge
    try:
        section: T = OmegaConf.to_object(  # type: ignore[assignment]
            OmegaConf.merge(schema, _plain(values, section_type))
        )
    except OmegaConfBaseException as error:
        key = f"{name}.{error.full_key}" if error.full_key else name
        raise ConfigError(f"{key}: {str(error).splitlines()[0]}") from error
    return section


def load_config(config_type: type[T], composed: DictConfig, **section_types: type) -> T:
    """The composed Hydra configuration of a verb, or of a task, as its checked, frozen dataclass.

    Args:
        config_type: a dataclass; a field that is a dataclass too is a group.
        composed: what Hydra composed.
        section_types: for a field, a dataclass that extends its type.

    Raises:
        ConfigError: a key that the schema does not have or that is missing, or a value that cannot be.
    """
    kinds = {**get_type_hints(config_type), **section_types}
    for name in composed:
        _require(name in kinds, f"unknown key {name!r}; there are {', '.join(kinds)}")
    values = {}
    for name, kind in kinds.items():
        _require(name in composed, f"the configuration has no {name!r}")
        value = composed[name]
        if isinstance(kind, type) and is_dataclass(kind):
            if not isinstance(value, DictConfig):
                raise ConfigError(f"{name}={value} must be a group, such as {name}=NAME")
            value = load_section(name, kind, value)
        elif isinstance(value, DictConfig | ListConfig):
            value = OmegaConf.to_container(value, resolve=True)
        if kind in (str, bool, str | None, float):
            # Any number is a float to people.
            fits = isinstance(value, (int, float) if kind is float else kind)
            _require(fits, f"{name}={value!r} is not what {name} can be")
        if kind == dict[str, Any]:
            _require(isinstance(value, dict), f"{name}={value} must be a group, such as {name}=NAME")
        values[name] = value
    return config_type(**values)
