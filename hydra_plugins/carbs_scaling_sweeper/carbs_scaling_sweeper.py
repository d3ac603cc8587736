"""The sweeper's class. Light: Hydra imports it at the start of every app."""

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

# Registers the options.
from hydra_plugins.carbs_scaling_sweeper import config as _config  # noqa: F401


class CarbsScalingSweeper(Sweeper):
    """Searches the space that the overrides of a multirun describe.

    Args:
        options: of `config.CarbsScalingSweeperConf`.
    """

    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Takes the app's configuration and makes its launcher."""
        from hydra.core.plugins import Plugins

        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Runs jobs until the budget is spent and writes `optimization_results.yaml`; gives batches of jobs.

        Where nothing is swept one job is run, and there is no study.
        """
        from pathlib import Path

        from hydra.core.override_parser.overrides_parser import OverridesParser
        from omegaconf import OmegaConf

        from carbs_scaling.passwords import cleaned, remember

        remember(str(self.options["storage"]))
        folder = Path(str(self.config.hydra.sweep.dir))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "multirun.yaml").write_text(cleaned(OmegaConf.to_yaml(self.config)), encoding="utf-8")
        given = OverridesParser.create().parse_overrides(arguments)
        if not self.options["params"] and not any(override.is_sweep_override() for override in given):
            return [self.launcher.launch([arguments], initial_job_idx=0)]
        from hydra_plugins.carbs_scaling_sweeper._search import sweep

        return sweep(self, arguments)
