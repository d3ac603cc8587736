"""Trackio: a project a study, kept where TRACKIO_DIR says."""

from pathlib import Path

from carbs_scaling.loggers.logger import LoggedRun, Logger


class Trackio(Logger):
    """Runs with config and curve; the results are their last point."""

    package = "trackio"
    failures = (RuntimeError, ValueError)

    def __init__(self, study: str, folder: Path) -> None:
        self._study = study

    def log(self, run: LoggedRun) -> None:
        """Adds a run to the project."""
        import contextlib
        import io

        import trackio

        with contextlib.redirect_stdout(io.StringIO()):  # it prints how to open its page, for each run
            trackio.init(
                project=self._study,
                name=run.name,
                group=run.study,
                config={**run.config, "status": run.status},
                embed=False,
                auto_log_gpu=False,
                resume="allow",
            )
            for step, values in run.curve:
                trackio.log(values, step=step)
            last = run.curve[-1][0] + 1 if run.curve else 0
            trackio.log(run.results, step=last)
            trackio.finish()


LOGGER = Trackio
