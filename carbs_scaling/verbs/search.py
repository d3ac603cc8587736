"""`carbs-scaling search`."""

import dataclasses
import logging
import warnings

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from carbs_scaling.config import SearchConfig, load_config


def run(composed: DictConfig) -> None:
    """Runs or goes on with a study, then prints and writes its front."""
    config = _named_by_sweep(load_config(SearchConfig, composed))

    import optuna
    from rich.console import Console

    from carbs_scaling.report.live import SearchDisplay
    from carbs_scaling.report.numbers import METRIC_UNITS
    from carbs_scaling.search import Search
    from carbs_scaling.verbs.front import show_front

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    config.study.folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(config.study.folder / "search.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    package = logging.getLogger("carbs_scaling")
    package.setLevel(logging.INFO)
    package.propagate = False
    package.addHandler(handler)
    console = Console()
    try:
        display = SearchDisplay(
            config.study.name, config.budget.flops, METRIC_UNITS[config.objective.metric], console=console
        )
        study = Search(config, display).run()
        show_front(study, config.study.folder, console=console)
    finally:
        package.removeHandler(handler)
        handler.close()


def _named_by_sweep(config: SearchConfig) -> SearchConfig:
    """In a multirun every job is a study of its own, named after what it overrides."""
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN or not hydra.job.override_dirname:
        return config
    if any(override.startswith("study.name=") for override in hydra.overrides.task):
        return config
    swept = [part for part in hydra.overrides.task if not part.startswith("+experiment=")]
    suffix = "".join(c if c.isalnum() or c in "=.,-_+" else "-" for c in ",".join(swept))
    study = dataclasses.replace(config.study, name=f"{config.study.name}-{suffix}")
    return dataclasses.replace(config, study=study)
