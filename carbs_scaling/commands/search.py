"""`carbs-scaling search`."""

import dataclasses
import json
import os
import warnings
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from carbs_scaling.config import SearchConfig
from carbs_scaling.config_loading import load_config
from carbs_scaling.errors import ConfigError
from carbs_scaling.executors import EXECUTORS
from carbs_scaling.names import OVERRIDES, as_name
from carbs_scaling.task import TRIALS, Task, TaskEntry
from carbs_scaling.tasks import TASKS


def run(composed: DictConfig) -> None:
    """Runs or goes on with a study, then prints and writes its front."""
    config, task_config = load_search(composed)
    config = _named_by_sweep(config)

    from carbs_scaling.report.terminal import console, working

    with working("loading PyTorch and BoTorch"):
        import optuna

        from carbs_scaling.commands.front import show_front
        from carbs_scaling.executors.memory import require_device
        from carbs_scaling.report.live import SearchDisplay
        from carbs_scaling.search import Search

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    require_device(config.executor)  # before a text is prepared for it
    task = build_task(config, task_config)
    config = counted_in_trials(config, task)
    out = console()
    # Searches beside each other on one terminal would redraw each other's screens.
    plain = True if HydraConfig.get().runtime.choices.get("hydra/launcher") != "basic" else None
    display = SearchDisplay(config.study.name, config.budget.flops, task.metric, out, plain)
    study = Search(config, task, display).run()
    show_front(study, config.study.folder, out)


def load_search(composed: DictConfig) -> tuple[SearchConfig, Any]:
    """The checked configuration of the search, and that of its task.

    Raises:
        ConfigError: an unknown task or executor, a key that there is not, or a value that cannot be.
    """
    entry = _task_entry(_name(composed, "task"))
    executor = EXECUTORS.load(_name(composed, "executor"))
    own = [field.name for field in dataclasses.fields(SearchConfig)]
    of_task = [field.name for field in dataclasses.fields(entry.config_type)]
    # What belongs to neither is an unknown key of the task.
    rest = [str(name) for name in composed if name not in own or name in of_task]
    return (
        load_config(SearchConfig, OmegaConf.masked_copy(composed, own), executor=executor.config_type),
        load_config(entry.config_type, OmegaConf.masked_copy(composed, rest)),
    )


def build_task(config: SearchConfig, task_config: Any) -> Task:
    """The task that the configuration names.

    Raises:
        CarbsScalingError: it cannot be run; one line says why.
    """
    from carbs_scaling.search import trial_limits

    return _task_entry(config.task["name"]).from_config(task_config, trial_limits(config))


def counted_in_trials(config: SearchConfig, task: Task) -> SearchConfig:
    """The configuration for a task whose runs have no FLOPs: each costs 1, and `budget.trials` is the budget.

    Raises:
        ConfigError: there is no such budget.
    """
    if task.flops_convention != TRIALS:
        return config
    trials = config.budget.trials
    if trials is None:
        raise ConfigError(
            "nothing says what a run costs, so each costs 1: set budget.trials, or task.flops, or roles "
            "for params and tokens"
        )
    budget = dataclasses.replace(
        config.budget,
        flops=float(trials),
        max_trial_fraction=1.0,
        min_trial_fraction=0.0,
        stop_below_fraction=0.0,
        trial_overhead_flops=0.0,
    )
    return dataclasses.replace(config, budget=budget)


def _task_entry(name: str) -> TaskEntry:
    entry: TaskEntry = TASKS.load(name)
    return entry


def _name(composed: DictConfig, group: str) -> str:
    chosen = composed.get(group)
    if not isinstance(chosen, DictConfig) or not isinstance(chosen.get("name"), str):
        raise ConfigError(f"{group}={chosen} must be a group, such as {group}=NAME")
    return str(chosen.name)


def _is_multirun() -> bool:
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


def _named_by_sweep(config: SearchConfig) -> SearchConfig:
    """In a multirun every job is a study of its own, named after the values that are swept."""
    if not _is_multirun():
        return config
    hydra = HydraConfig.get()
    words = json.loads(os.environ[OVERRIDES])
    given = OverridesParser.create().parse_overrides(
        [text for text in words if "=" in text and not text.startswith("-")]
    )
    swept = {str(override.input_line).split("=")[0] for override in given if override.is_sweep_override()}
    if "study.name" in swept:
        return config
    # No URL, with its password, becomes part of a name.
    parts = [
        text.lstrip("+") for text in hydra.overrides.task if text.split("=")[0] in swept and "://" not in text
    ]
    if not parts:
        return config
    study = dataclasses.replace(config.study, name=as_name("-".join((config.study.name, *parts))))
    return dataclasses.replace(config, study=study)
