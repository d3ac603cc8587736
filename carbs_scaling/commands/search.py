"""`carbs-scaling search`."""

import dataclasses
import sys
import warnings

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig

from carbs_scaling.config import SearchConfig, load_config


def run(composed: DictConfig) -> None:
    """Runs or goes on with a study, then prints and writes its front."""
    config = _named_by_sweep(load_config(SearchConfig, composed))

    import optuna
    from rich.console import Console

    from carbs_scaling.commands.front import show_front
    from carbs_scaling.numbers import METRIC_UNITS
    from carbs_scaling.report.live import SearchDisplay
    from carbs_scaling.search import Search

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    console = Console()
    display = SearchDisplay(
        config.study.name, config.budget.flops, METRIC_UNITS[config.objective.metric], console=console
    )
    study = Search(config, display).run()
    show_front(study, config.study.folder, console=console)


def _named_by_sweep(config: SearchConfig) -> SearchConfig:
    """In a multirun every job is a study of its own, named after the values that are swept."""
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        return config
    given = OverridesParser.create().parse_overrides([text for text in sys.argv[1:] if "=" in text])
    swept = {override.input_line.split("=")[0] for override in given if override.is_sweep_override()}
    if "study.name" in swept:
        return config
    parts = [text.lstrip("+") for text in hydra.overrides.task if text.split("=")[0] in swept]
    suffix = "".join(c if c.isalnum() or c in "=.,-_" else "-" for c in ",".join(parts))
    if not suffix:
        return config
    study = dataclasses.replace(config.study, name=f"{config.study.name}-{suffix}")
    return dataclasses.replace(config, study=study)
