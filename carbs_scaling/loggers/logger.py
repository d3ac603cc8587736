"""The door of an experiment tracker: a study is a group, a trial that ended is a run of it."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from carbs_scaling.errors import ConfigError
from carbs_scaling.ledger.curves import curve_path, read_curve
from carbs_scaling.ledger.identity import flatten
from carbs_scaling.ledger.record import TrialRecord, ended
from carbs_scaling.loggers import LOGGERS
from carbs_scaling.trial import Completed

logger = logging.getLogger(__name__)

Plain = bool | int | float | str


@dataclass(frozen=True)
class LoggedRun:
    """One trial that ended, in plain values.

    Args:
        study: its group.
        number: of the trial.
        config: dimensions, roles and details.
        results: `flops` that were charged, `loss` where there is one, `seconds`, and what else was measured.
        status: how it ended.
        message: why there is no loss; empty where there is one.
        curve: (step, values by name) of its loss curve.
    """

    study: str
    number: int
    config: dict[str, Plain]
    results: dict[str, float]
    status: str
    message: str
    curve: Sequence[tuple[int, dict[str, float]]]

    @property
    def name(self) -> str:
        """Name of the run, such as `mine-00012`: the study's, and the number of the trial."""
        return f"{self.study}-{self.number:05d}"

    @property
    def completed(self) -> bool:
        """Whether it has a loss."""
        return "loss" in self.results


class Logger(Protocol):
    """One tracker. Its settings are its own: environment variables and files that it reads itself.

    Attributes:
        package: that must be installed; its name for pip stands in the extra of the logger's name.
    """

    package: str

    def __init__(self, study: str, folder: Path) -> None:
        """Begins or goes on with a group.

        Args:
            study: its name.
            folder: of the study, for what is kept on this machine.
        """
        ...

    def log(self, run: LoggedRun) -> None:
        """Adds a run.

        Raises:
            OSError: or an error of `failures`: the tracker cannot be reached.
        """
        ...

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        """What the tracker's own package raises where it cannot do its work."""
        ...


class Loggers:
    """Tells several trackers; one that fails is left out from then on, and the search goes on.

    Args:
        names: of `LOGGERS`.
        study: name of the study.
        folder: of the study.

    Raises:
        ConfigError: an unknown name, or one whose package is not installed.
    """

    def __init__(self, names: Sequence[str], study: str, folder: Path) -> None:
        self._loggers: dict[str, Logger] = {}
        kinds: dict[str, Callable[[str, Path], Logger]] = {name: LOGGERS.load(name) for name in names}
        for name, kind in kinds.items():
            require_installed(name, kind)
        self._kinds, self._place = kinds, (study, folder)
        self._begun = False

    def log(self, run: LoggedRun) -> list[str]:
        """Tells all of them of a run; returns a line for each that failed."""
        if not self._begun:  # not before there is something to tell
            self._begun = True
            self._loggers = {name: kind(*self._place) for name, kind in self._kinds.items()}
        lines = []
        for name, one in list(self._loggers.items()):
            failures: tuple[type[Exception], ...] = (OSError, *one.failures)
            try:
                one.log(run)
            except failures as error:
                logger.exception("logger %s failed", name)
                del self._loggers[name]
                reason = (str(error) or type(error).__name__).splitlines()[0]
                lines.append(f"logger {name} is left out from here on: {reason}")
        return lines


def require_installed(name: str, kind: Any) -> None:
    """Refuse a logger whose package is absent.

    Raises:
        ConfigError: how to install it.
    """
    if find_spec(kind.package) is None:
        raise ConfigError(f"logger={name} needs a package: pip install 'carbs-scaling[{name}]'")


def logged_run(study: str, record: TrialRecord, curves: Path) -> LoggedRun:
    """A trial that ended, as trackers take it."""
    outcome = ended(record)
    results = {**outcome.metrics, "flops": record.flops, "seconds": outcome.seconds}
    if isinstance(outcome, Completed):
        results["loss"] = outcome.loss
    points = []
    for index, point in enumerate(read_curve(curve_path(curves, record.number))):
        values = {k: float(v) for k, v in point.items() if k != "step" and isinstance(v, int | float)}
        points.append((int(point.get("step", index)), values))
    config = {k: v for k, v in flatten(record.values).items() if isinstance(v, bool | int | float | str)}
    return LoggedRun(
        study,
        record.number,
        {**config, "seed": record.seed},
        results,
        str(outcome.status),
        outcome.message,
        points,
    )
