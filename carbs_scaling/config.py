"""The schema that `conf/` fills: frozen dataclasses that check what they are given.

Every default lives in `conf/`, where a user reads and overrides it; the dataclasses have none, so that a key
missing from a preset is an error and not a silent choice.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import MISSING

from carbs_scaling.carbon import GRAMS_PER_KWH, intensity_source
from carbs_scaling.errors import ConfigError
from carbs_scaling.names import require_name

DEVICES = ("auto", "cpu", "cuda")
FORMATS = ("table", "csv", "json", "parquet")
TRIALS, STOPPING = ("fresh", "continued"), ("none", "law")


def require(condition: bool, message: str) -> None:
    """Refuse a value.

    Raises:
        ConfigError: the condition does not hold.
    """
    if not condition:
        raise ConfigError(message)


def require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a value that is none of the choices.

    Raises:
        ConfigError: it is none.
    """
    require(value in choices, f"{name}={value} is not one of {', '.join(choices)}")


def require_names(name: str, value: Any, kind: str) -> None:
    """Refuse what is no list of names.

    Raises:
        ConfigError: says what was given.
    """
    fine = isinstance(value, list) and all(isinstance(part, str | int) for part in value)
    require(fine, f"{name}={value} must be a list, such as '{name}=[{kind}]'")


@dataclass(frozen=True)
class StudyConfig:
    """Where the ledger is. `storage`: an SQLAlchemy URL, or null for SQLite in the study's folder."""

    name: str = MISSING
    directory: str = MISSING
    storage: str | None = MISSING
    seed: int = MISSING

    def __post_init__(self) -> None:
        require_name("study.name", self.name, "study.directory")
        require(self.seed >= 0, f"study.seed={self.seed} must not be negative")

    @property
    def folder(self) -> Path:
        """The study's own folder: ledger, loss curves, log, figures."""
        return Path(self.directory).expanduser() / self.name

    def other(self, name: str) -> "StudyConfig":
        """Where a study called `name` is: in the same directory or database, or in a folder of its own.

        Raises:
            ConfigError: the name cannot be a study's.
        """
        if self.storage is None and "/" in name:
            folder = Path(name).expanduser()
            return replace(self, name=folder.name, directory=str(folder.parent))
        return replace(self, name=name)


@dataclass(frozen=True)
class BudgetConfig:
    """How much a study may spend: FLOPs as its task counts them; the others are null for no limit.

    `hours`: wall time. `gpu_hours`: wall time times the GPUs in use. `trials`: those that ended.
    """

    flops: float = MISSING
    max_trial_fraction: float = MISSING
    min_trial_fraction: float = MISSING
    stop_below_fraction: float = MISSING
    trial_overhead_flops: float = MISSING
    hours: float | None = MISSING
    gpu_hours: float | None = MISSING
    trials: int | None = MISSING

    def __post_init__(self) -> None:
        require(0 < self.flops < math.inf, f"budget.flops={self.flops} must be a positive number")
        require(
            0 < self.max_trial_fraction <= 1,
            f"budget.max_trial_fraction={self.max_trial_fraction} must lie in (0, 1]",
        )
        require(
            0 <= self.min_trial_fraction < self.max_trial_fraction,
            f"budget.min_trial_fraction={self.min_trial_fraction} must lie in [0, budget.max_trial_fraction)",
        )
        require(
            0 <= self.stop_below_fraction < 1,
            f"budget.stop_below_fraction={self.stop_below_fraction} must lie in [0, 1)",
        )
        require(
            0 <= self.trial_overhead_flops < math.inf,
            f"budget.trial_overhead_flops={self.trial_overhead_flops} must be a number, and not negative",
        )
        for name in ("hours", "gpu_hours", "trials"):
            value = getattr(self, name)
            require(
                value is None or 0 < value < math.inf,
                f"budget.{name}={value} must be above 0, or null for no limit",
            )


@dataclass(frozen=True)
class TrialsConfig:
    """How a trial begins and ends.

    `name`: `fresh`, or `continued` from the states that others left. `disk_bytes`: of those states.
    `stopping`: `law` ends a run when the probability to reach the front at its cost falls below `stop_below`.
    """

    name: str = MISSING
    disk_bytes: float = MISSING
    stopping: str = MISSING
    stop_below: float = MISSING

    def __post_init__(self) -> None:
        require_choice("trials.name", self.name, TRIALS)
        require_choice("trials.stopping", self.stopping, STOPPING)
        require(self.disk_bytes >= 0, f"trials.disk_bytes={self.disk_bytes} must not be negative")
        require(0 < self.stop_below < 1, f"trials.stop_below={self.stop_below} must lie in (0, 1)")

    @property
    def continued(self) -> bool:
        """Whether trials may go on from others."""
        return self.name == "continued"


FRESH = TrialsConfig("fresh", 0.0, "none", 0.01)


@dataclass(frozen=True)
class ExecutorConfig:
    """What every executor is told; one with options of its own extends it.

    `workers`: trials at once; null for one a GPU, or one a core where there is no GPU.
    `memory_bytes`: what a trial may need by estimate; null for most of a GPU's (`executors.memory`).
    `retries`: times that a trial is begun again that the machine failed.

    Attributes:
        elsewhere: whether trials run on machines whose devices this process does not see.
    """

    elsewhere: ClassVar[bool] = False

    name: str = MISSING
    workers: int | None = MISSING
    device: str = MISSING
    memory_bytes: int | None = MISSING
    retries: int = MISSING

    def __post_init__(self) -> None:
        require_choice("executor.device", self.device, DEVICES)
        require(self.retries >= 0, f"executor.retries={self.retries} must not be negative")
        for name in ("workers", "memory_bytes"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"executor.{name}={value} must be at least 1 or null")


@dataclass(frozen=True)
class EnergyConfig:
    """How the energy and the CO2 of a trial are found (`compute.energy`).

    `watts`: of a GPU or a busy core, for an estimate; null for a table's. `country`: a key of `carbon`.
    """

    measure: bool = MISSING
    watts: float | None = MISSING
    country: str = MISSING
    grams_per_kwh: float | None = MISSING

    def __post_init__(self) -> None:
        for name in ("watts", "grams_per_kwh"):
            value = getattr(self, name)
            require(
                value is None or 0 <= value < math.inf,
                f"energy.{name}={value} must be a number, and not negative, or null",
            )
        require(
            self.grams_per_kwh is not None or self.country in GRAMS_PER_KWH,
            f"energy.country={self.country} is not in the table: set energy.grams_per_kwh, or choose one of "
            f"{', '.join(GRAMS_PER_KWH)}",
        )

    @property
    def intensity(self) -> float:
        """Grams of CO2 a kWh."""
        return GRAMS_PER_KWH[self.country] if self.grams_per_kwh is None else self.grams_per_kwh

    @property
    def intensity_source(self) -> str:
        """Where `intensity` is from."""
        return "as given" if self.grams_per_kwh is not None else intensity_source(self.country)


@dataclass(frozen=True)
class SearchConfig:
    """What `conf/search.yaml` says beside the sections of its task (`commands.search.load_search`).

    `task` and `sampler` are open mappings with a name, read where they are used. `warm_start`: studies whose
    runs are learnt from. `first`: points of a person's own, run first. `logger`: trackers that are told of
    each trial.
    """

    study: StudyConfig
    budget: BudgetConfig
    task: dict[str, Any]
    sampler: dict[str, Any]
    executor: ExecutorConfig
    energy: EnergyConfig
    warm_start: list[str]
    first: list[dict[str, Any]]
    logger: list[str]
    trials: TrialsConfig = FRESH

    def __post_init__(self) -> None:
        points = isinstance(self.first, list) and all(isinstance(p, dict) and p for p in self.first)
        require(points, f"first={self.first} must be a list of points, such as 'first=[{{width: 32}}]'")
        require_names("warm_start", self.warm_start, "study")
        require_names("logger", self.logger, "tensorboard")


@dataclass(frozen=True)
class ImportConfig:
    """What `conf/import.yaml` says beside the sections of a search.

    `columns`: for a dimension, or `loss` or `diverged`, the column of another name, or a formula of columns.
    """

    runs: str
    columns: dict[str, Any]
