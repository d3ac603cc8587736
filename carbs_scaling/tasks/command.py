"""Somebody's own training program: each trial is a run of a command with the point's values in it."""

import shutil
from collections.abc import Collection
from typing import Any

from carbs_scaling.config import FRESH, TrialsConfig
from carbs_scaling.errors import ConfigError
from carbs_scaling.formula import Value
from carbs_scaling.task import Limits
from carbs_scaling.tasks.programs.config import CommandConfig, CommandSection
from carbs_scaling.tasks.programs.space import OF_A_TRIAL
from carbs_scaling.tasks.programs.task import ProgramTask
from carbs_scaling.tasks.programs.words import OPEN, Words


class Command(ProgramTask):
    """Runs `task.command` at each point.

    Raises:
        ConfigError: a command that cannot be run, or see `ProgramTask`.
    """

    config_type = CommandConfig
    name = "command"

    def __init__(self, space: dict[str, Any], section: CommandSection, trials: TrialsConfig = FRESH) -> None:
        super().__init__(space, section, trials)
        self._words = Words(section.command, "task.command", self.points.known | set(OF_A_TRIAL))
        program = self._words.words[0]
        if OPEN not in program and shutil.which(program) is None:
            raise ConfigError(f"task.command: there is no program {program!r}; no shell reads the command")
        self.description = f"command: {section.command}"

    @classmethod
    def from_config(cls, config: CommandConfig, limits: Limits) -> "Command":
        """The task; the limits on cost are the search's to keep."""
        return cls(config.space, config.task, limits.trials)

    def words(self, values: dict[str, Value], absent: Collection[str]) -> list[str]:
        """The words of the command, filled."""
        return self._words.filled(values, frozenset(absent))


TASK = Command
