"""The section `task` of tasks that run somebody's own program."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from carbs_scaling.config import require, require_choice
from carbs_scaling.tasks.programs.readings import SourceConfig
from carbs_scaling.tasks.programs.space import RolesConfig, ShapeConfig

GOALS, TAKES, KEEPS = ("minimize", "maximize"), ("last", "best"), ("all", "front", "none")


@dataclass(frozen=True)
class MetricConfig(SourceConfig):
    """Where the metric is read, and what is done with it.

    `take`: the last value, or the best of all. `unit`: for headings.
    """

    goal: str = MISSING
    take: str = MISSING
    unit: str = MISSING

    def __post_init__(self) -> None:
        require_choice("task.metric.goal", self.goal, GOALS)
        require_choice("task.metric.take", self.take, TAKES)


@dataclass(frozen=True)
class FailureConfig:
    """What says how a run failed: patterns on a line of output, and exit codes."""

    diverged: list[str] = MISSING
    out_of_memory: list[str] = MISSING
    diverged_codes: list[int] = MISSING
    out_of_memory_codes: list[int] = MISSING


@dataclass(frozen=True)
class ContinuedConfig:
    """Which runs of the program may go on from which others, with `trials=continued`.

    `dimension`: the one in which both may differ, and the later is larger. `share`: of the FLOPs of the run
    that is gone on from, those that need not be paid again.
    """

    dimension: str | None = MISSING
    share: float = MISSING

    def __post_init__(self) -> None:
        require(0 < self.share <= 1, f"task.continued.share={self.share} must lie in (0, 1]")


@dataclass(frozen=True)
class ProgramConfig:
    """What `task=command` and `task=function` have in common.

    `steps`: a formula of the training steps of a run, for the share that is done. `keep`: whose folders.
    `continues`: whether a trial that is run again finds what its first attempt left in its folder.
    """

    name: str = MISSING
    flops: Any = MISSING
    roles: RolesConfig = MISSING
    shape: ShapeConfig = MISSING
    allowed: str | None = MISSING
    steps: Any = MISSING
    metric: MetricConfig = MISSING
    curve: SourceConfig = MISSING
    failure: FailureConfig = MISSING
    time_limit_seconds: float | None = MISSING
    silence_limit_seconds: float | None = MISSING
    output_bytes: int = MISSING
    keep: str = MISSING
    continues: bool = MISSING
    continued: ContinuedConfig = MISSING
    environment: dict[str, str] = MISSING
    working_directory: str | None = MISSING

    def __post_init__(self) -> None:
        require_choice("task.keep", self.keep, KEEPS)
        require(self.output_bytes >= 0, f"task.output_bytes={self.output_bytes} must not be negative")
        for name in ("time_limit_seconds", "silence_limit_seconds"):
            value = getattr(self, name)
            require(value is None or value > 0, f"task.{name}={value} must be above 0, or null for no limit")
        for name, value in self.environment.items():
            fine = name and "=" not in name and "\0" not in name + value
            require(bool(fine), f"task.environment.{name} is no name of a variable")


@dataclass(frozen=True)
class CommandSection(ProgramConfig):
    """The section `task` of `task=command`."""

    command: str = MISSING


@dataclass(frozen=True)
class FunctionSection(ProgramConfig):
    """The section `task` of `task=function`."""

    function: str = MISSING


@dataclass(frozen=True)
class CommandConfig:
    """All sections of `task=command`."""

    space: dict[str, Any]
    task: CommandSection


@dataclass(frozen=True)
class FunctionConfig:
    """All sections of `task=function`."""

    space: dict[str, Any]
    task: FunctionSection
