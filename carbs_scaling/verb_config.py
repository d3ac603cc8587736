"""The checked configuration of each verb. Of `search`, and of what all share, it is in `config`."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from carbs_scaling.config import FORMATS, EnergyConfig, StudyConfig, require, require_choice
from carbs_scaling.names import require_name


@dataclass(frozen=True)
class FrontConfig:
    """All of `conf/front.yaml`."""

    study: StudyConfig
    format: str
    output: str | None
    plots: bool

    def __post_init__(self) -> None:
        require_choice("format", self.format, FORMATS)
        require(self.output != "", "output= needs a file")
        require(
            self.output is None or self.format != "table",
            f"output={self.output} needs format=csv, json or parquet",
        )


@dataclass(frozen=True)
class StatusConfig:
    """All of `conf/status.yaml`."""

    study: StudyConfig
    format: str

    def __post_init__(self) -> None:
        require_choice("format", self.format, ("table", "json"))


@dataclass(frozen=True)
class StopConfig:
    """All of `conf/stop.yaml`."""

    study: StudyConfig
    now: bool


@dataclass(frozen=True)
class DashboardConfig:
    """All of `conf/dashboard.yaml`."""

    study: StudyConfig
    port: int

    def __post_init__(self) -> None:
        fine = isinstance(self.port, int) and 0 <= self.port < 2**16
        require(fine, f"port={self.port} must be a whole number from 0 to 65535")


@dataclass(frozen=True)
class CheckConfig:
    """All of `conf/check.yaml`."""

    study: StudyConfig
    mend: bool


@dataclass(frozen=True)
class BackupConfig:
    """All of `conf/backup.yaml`."""

    study: StudyConfig
    output: str | None

    def __post_init__(self) -> None:
        require(bool(self.output), "output= needs a file, such as output=mine.zip")


@dataclass(frozen=True)
class RestoreConfig:
    """All of `conf/restore.yaml`."""

    study: StudyConfig
    input: str | None
    rename: str | None

    def __post_init__(self) -> None:
        require(bool(self.input), "input= needs the file of a backup, such as input=mine.zip")
        if self.rename is not None:
            require_name("rename", self.rename, "study.directory")


REPORT_FORMATS = ("html", "pdf", "png")


@dataclass(frozen=True)
class ReportConfig:
    """All of `conf/report.yaml`."""

    study: StudyConfig
    format: str
    output: str | None
    target_flops: float | None
    width: int

    def __post_init__(self) -> None:
        require_choice("format", self.format, REPORT_FORMATS)
        fits = self.output is None or self.output.lower().endswith(f".{self.format}")
        require(fits, f"output={self.output} must end in .{self.format}, or say format=")
        flops = self.target_flops
        require(flops is None or 0 < flops < math.inf, f"target_flops={flops} must be a positive number")
        require(self.width >= 320, f"width={self.width} must be at least 320 pixels")


LAW_FORMATS = ("table", "json")
RECIPE_FORMATS = ("table", "json", "yaml", "training_arguments", "recipe")


@dataclass(frozen=True)
class TargetConfig:
    """What is to be trained: N and D, or FLOPs with at most one; D alone where all runs have one N."""

    params: float | None = MISSING
    tokens: float | None = MISSING
    flops: float | None = MISSING
    sequence_length: int = MISSING
    head_size: int = MISSING
    devices: int = MISSING
    sequences_per_device: int = MISSING

    def __post_init__(self) -> None:
        for name in ("sequence_length", "head_size", "devices", "sequences_per_device"):
            require(getattr(self, name) >= 1, f"target.{name}={getattr(self, name)} must be at least 1")


@dataclass(frozen=True)
class FitConfig:
    """All of `conf/fit.yaml`."""

    study: StudyConfig
    runs: str | None
    columns: dict[str, Any]
    only_optimizer: str | None
    prior: list[str]
    format: str
    plots: bool
    output: str | None

    def __post_init__(self) -> None:
        require_choice("format", self.format, LAW_FORMATS)


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
        require_choice("format", self.format, LAW_FORMATS)
        require(0 < self.rate_share <= 1, f"rate_share={self.rate_share} must lie in (0, 1]")
        require(
            isinstance(self.draws, int) and self.draws >= 20,
            f"draws={self.draws} must be a whole number, at least 20",
        )
        levels = self.levels
        fine = levels is None or (
            isinstance(levels, list) and levels and all(isinstance(x, int | float) and x > 0 for x in levels)
        )
        require(bool(fine), f"levels={levels} must be losses, such as [2.4,2.2], or null")


COMPARE_FORMATS = ("table", "csv", "json")


@dataclass(frozen=True)
class CompareConfig:
    """All of `conf/compare.yaml`. A study of `studies` is a name in `study.directory`, or a folder's path."""

    study: StudyConfig
    studies: list[str]
    by: str
    format: str
    plots: bool
    output: str | None

    def __post_init__(self) -> None:
        require_choice("format", self.format, COMPARE_FORMATS)
        require_choice("by", self.by, ("study", "sampler"))
        named = isinstance(self.studies, list) and all(isinstance(name, str | int) for name in self.studies)
        several = named and (len(self.studies) >= 2 or any("*" in str(name) for name in self.studies))
        require(
            several,
            f"studies={self.studies} must be two studies or more, such as 'studies=[mine,grid]'",
        )
        twice = [name for name in self.studies if self.studies.count(name) > 1]
        require(not twice, f"studies={self.studies} names {twice[0] if twice else ''} twice")
        require(self.output != "", "output= needs a file")
        require(
            self.output is None or self.format != "table",
            f"output={self.output} needs format=csv or json",
        )


@dataclass(frozen=True)
class RecommendConfig:
    """All of `conf/recommend.yaml`."""

    study: StudyConfig
    runs: str | None
    law: str | None
    columns: dict[str, Any]
    only_optimizer: str | None
    prior: list[str]
    target: TargetConfig
    level: float
    format: str
    output: str | None

    def __post_init__(self) -> None:
        require_choice("format", self.format, RECIPE_FORMATS)
        require(0 < self.level < 1, f"level={self.level} must lie in (0, 1)")
        require(
            self.law is None or self.runs is None, "set law (a fitted law's JSON) or runs (a table), not both"
        )
        require(
            self.law is None or not self.prior,
            "a prior enters where a law is fitted, and law=FILE is fitted already",
        )
        require(
            self.format != "recipe" or self.runs is None,
            "format=recipe takes its constants from a study's runs, which a table does not have: give "
            "study.name (and law=FILE for its law), or use format=training_arguments",
        )


# Names of `law` and of the classes in `laws.schedules.law`.
SCHEDULE_LAWS = {
    "tissue": "TissueLaw",
    "multi_power": "MultiPowerLaw",
    "functional": "FunctionalLaw",
    "noise": "NoiseLaw",
}


@dataclass(frozen=True)
class ScheduleTargetConfig:
    """The section `target` of `conf/schedules.yaml`."""

    steps: int | None
    peak: float | None
    warmup_fraction: float

    def __post_init__(self) -> None:
        fine = self.steps is None or 10 <= self.steps <= 100_000_000
        require(fine, f"target.steps={self.steps} must lie between 10 and 1e8, or be null")
        fine = self.peak is None or self.peak > 0
        require(fine, f"target.peak={self.peak} must be a positive number, or null")
        fine = 0 <= self.warmup_fraction < 1
        require(fine, f"target.warmup_fraction={self.warmup_fraction} must lie in [0, 1)")


@dataclass(frozen=True)
class SchedulesConfig:
    """All of `conf/schedules.yaml`."""

    study: StudyConfig
    curves: list[str] | None
    target: ScheduleTargetConfig
    law: str | None
    check: bool
    format: str
    output: str | None

    def __post_init__(self) -> None:
        require_choice("format", self.format, LAW_FORMATS)
        if self.law is not None:
            require_choice("law", self.law, tuple(SCHEDULE_LAWS))
        require(self.curves != [], "curves=[] names no file")

    @property
    def law_type(self) -> Any:
        """The class of `law`; None where it is to be chosen."""
        from carbs_scaling.laws.schedules import law

        return None if self.law is None else getattr(law, SCHEDULE_LAWS[self.law])


@dataclass(frozen=True)
class ModelFolderConfig:
    """The section `train` of `conf/train.yaml`: where the model goes, and on what it is trained."""

    name: str | None = MISSING
    directory: str = MISSING
    device: str = MISSING
    seed: int | None = MISSING
    processes: int | None = MISSING
    parallel: str = MISSING
    any_text: bool = MISSING

    def __post_init__(self) -> None:
        require_choice("train.parallel", self.parallel, ("ddp", "fsdp"))
        fine = self.processes is None or self.processes >= 1
        require(fine, f"train.processes={self.processes} must be at least 1, or null")
        if self.name is not None:
            require_name("train.name", self.name, "train.directory")
        require(
            re.fullmatch("auto|cpu|cuda(:[0-9]+)?", self.device) is not None,
            f"train.device={self.device} is not one of auto, cpu, cuda, cuda:0, cuda:1 and so on",
        )
        require(self.seed is None or self.seed >= 0, f"train.seed={self.seed} must not be negative")

    @property
    def directory_path(self) -> Path:
        """The folder of the models' folders."""
        return Path(self.directory).expanduser()


@dataclass(frozen=True)
class TrainConfig:
    """What `conf/train.yaml` says beside the sections of pretraining."""

    study: StudyConfig
    recipe: str | None
    trial: int | None
    train: ModelFolderConfig
    energy: EnergyConfig

    def __post_init__(self) -> None:
        require(self.recipe is None or self.trial is None, "set recipe=FILE or trial=NUMBER, not both")
        fine = self.trial is None or (isinstance(self.trial, int) and self.trial >= 0)
        require(fine, f"trial={self.trial} must be the number of a trial")


@dataclass(frozen=True)
class PlanConfig:
    """All of `conf/plan.yaml`. `model` and `optimizer` are the groups of the search."""

    study: StudyConfig
    model: dict[str, Any]
    optimizer: dict[str, Any]
    gpus: int
    gpu: str
    hours: float | None
    flops: float | None
    share_for_search: float
    utilization: float
    probe: bool
    vocabulary_size: int
    format: str
    output: str | None
    search: str | None

    def __post_init__(self) -> None:
        require_choice("format", self.format, LAW_FORMATS)
        require(
            [self.hours, self.flops, self.search].count(None) == 2,
            "say what there is: gpus=8 gpu=h100 hours=72, or flops=1e21, not both; or search=default for "
            "the time that a search takes here",
        )
        for name in ("gpus", "hours", "flops", "vocabulary_size"):
            value = getattr(self, name)
            fits = value is None or (isinstance(value, int | float) and 0 < value < math.inf)
            require(fits, f"{name}={value} must be a positive number")
        for name in ("gpus", "vocabulary_size"):
            value = getattr(self, name)
            require(value == int(value), f"{name}={value} must be a whole number")
        for name in ("share_for_search", "utilization"):
            value = getattr(self, name)
            require(0 < value < 1, f"{name}={value} must lie in (0, 1)")
