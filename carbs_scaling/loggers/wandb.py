"""Weights & Biases: project WANDB_PROJECT or carbs-scaling, a group a study; WANDB_MODE=offline works."""

import os
from pathlib import Path

from carbs_scaling.loggers.logger import LoggedRun, Logger


class WeightsAndBiases(Logger):
    """Runs with config, curve and results."""

    package = "wandb"

    def __init__(self, study: str, folder: Path) -> None:
        self._folder = folder

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        """Those of the package."""
        import wandb

        return (wandb.errors.Error,)

    def log(self, run: LoggedRun) -> None:
        """Adds a run to the group."""
        import wandb

        with wandb.init(
            project=os.environ.get("WANDB_PROJECT", "carbs-scaling"),
            group=run.study,
            name=run.name,
            config={**run.config, "trial": run.number},
            dir=str(self._folder),
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
        ) as open_run:
            for step, values in run.curve:
                open_run.log(values, step=step)
            open_run.summary.update({**run.results, "status": run.status, "message": run.message})


LOGGER = WeightsAndBiases
