"""Somebody's own training function: each trial is a call of it, in a process of its own."""

import json
import sys
from collections.abc import Collection
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from carbs_scaling.config import FRESH, TrialsConfig
from carbs_scaling.errors import ConfigError
from carbs_scaling.formula import Value
from carbs_scaling.task import Limits
from carbs_scaling.tasks.programs.config import FunctionConfig, FunctionSection
from carbs_scaling.tasks.programs.space import OF_A_TRIAL
from carbs_scaling.tasks.programs.task import ProgramTask

CALLER = "carbs_scaling.tasks.programs.call_function"


class Function(ProgramTask):
    """Calls `task.function` with each point and a `programs.call_function.Context`.

    Raises:
        ConfigError: no such module, or see `ProgramTask`.
    """

    config_type = FunctionConfig
    name = "function"

    def __init__(self, space: dict[str, Any], section: FunctionSection, trials: TrialsConfig = FRESH) -> None:
        super().__init__(space, section, trials)
        module, _, function = section.function.partition(":")
        if not (function.isidentifier() and all(part.isidentifier() for part in module.split("."))):
            raise ConfigError(f"task.function={section.function} must be package.module:function")
        top = module.split(".")[0]
        places = [str(Path(section.working_directory or ".").resolve()), *sys.path]
        python_path = section.environment.get("PYTHONPATH")
        places += python_path.split(":") if python_path else []
        if PathFinder.find_spec(top, places) is None:
            raise ConfigError(f"task.function={section.function}: there is no module {top!r} here")
        self.description = f"function: {section.function}"

    @classmethod
    def from_config(cls, config: FunctionConfig, limits: Limits) -> "Function":
        """The task; the limits on cost are the search's to keep."""
        return cls(config.space, config.task, limits.trials)

    def words(self, values: dict[str, Value], absent: Collection[str]) -> list[str]:
        """The call, as a program that writes the files which `conf/task/function.yaml` names."""
        assert isinstance(self.section, FunctionSection)
        hidden = {*OF_A_TRIAL, *absent}
        point = {name: value for name, value in values.items() if name not in hidden}
        return [sys.executable, "-m", CALLER, self.section.function, json.dumps(point)]


TASK = Function
