"""MLflow: an experiment a study, at MLFLOW_TRACKING_URI, else in `studies/NAME/mlflow.db`."""

import os
import time
from pathlib import Path
from typing import Any

from carbs_scaling.loggers.logger import LoggedRun, Logger

MOST_METRICS = 1000  # of one call, by MLflow's own limit
LONGEST_PARAM = 6000  # characters, likewise


class MLflow(Logger):
    """Runs with params, curve and results."""

    package = "mlflow"

    def __init__(self, study: str, folder: Path) -> None:
        self._study = study
        self._uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{(folder / 'mlflow.db').resolve()}")
        self._client: Any = None

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        """Those of the package."""
        from mlflow.exceptions import MlflowException

        return (MlflowException,)

    def log(self, run: LoggedRun) -> None:
        """Adds a run to the experiment."""
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        if self._client is None:
            self._client = MlflowClient(self._uri)
        found = self._client.get_experiment_by_name(self._study)
        experiment = self._client.create_experiment(self._study) if found is None else found.experiment_id
        tags = {"status": run.status, "message": run.message, "trial": str(run.number)}
        opened = self._client.create_run(experiment, run_name=run.name, tags=tags).info.run_id
        now = int(time.time() * 1000)
        points = [*run.curve, (run.curve[-1][0] + 1 if run.curve else 0, run.results)]
        metrics = [Metric(name, v, now, step) for step, values in points for name, v in values.items()]
        params = [Param(name, str(value)[:LONGEST_PARAM]) for name, value in run.config.items()]
        self._client.log_batch(opened, params=params)
        for start in range(0, len(metrics), MOST_METRICS):
            self._client.log_batch(opened, metrics=metrics[start : start + MOST_METRICS])
        self._client.set_terminated(opened, "FINISHED" if run.completed else "FAILED")


LOGGER = MLflow
