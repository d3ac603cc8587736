"""TensorBoard: a folder of event files for each trial, `studies/NAME/tensorboard/`."""

from pathlib import Path

from carbs_scaling.loggers.logger import LoggedRun, Logger


class TensorBoard(Logger):
    """Curves as scalars; config and results in the tab of hyperparameters."""

    package = "tensorboard"
    failures = ()

    def __init__(self, study: str, folder: Path) -> None:
        self._folder = folder / "tensorboard"

    def log(self, run: LoggedRun) -> None:
        """Writes the event file of a run."""
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(self._folder / run.name)) as writer:
            for step, values in run.curve:
                for name, value in values.items():
                    writer.add_scalar(f"curve/{name}", value, step)
            results = {f"result/{name}": value for name, value in run.results.items()}
            writer.add_hparams({**run.config, "status": run.status}, results, run_name=".")


LOGGER = TensorBoard
