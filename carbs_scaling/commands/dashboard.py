"""`carbs-scaling dashboard`: optuna-dashboard on a study, for reading only."""

import logging
import threading

from omegaconf import DictConfig

from carbs_scaling.config_loading import load_config
from carbs_scaling.verb_config import DashboardConfig


def run(composed: DictConfig) -> None:
    """Serves the study until Ctrl-C."""
    config = load_config(DashboardConfig, composed)

    import optuna

    from carbs_scaling.report.terminal import working

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("carbs_scaling").addHandler(logging.NullHandler())
    with working(f"drawing the figures of study {config.study.name}"):
        from carbs_scaling.report.dashboard import Dashboard  # takes its time too

        dashboard = Dashboard(config.study, config.port)
    with dashboard.serving():
        print(f"{config.study.name}, for reading only: {dashboard.url} (Ctrl-C ends it)", flush=True)
        threading.Event().wait()
