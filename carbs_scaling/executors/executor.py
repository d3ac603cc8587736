"""The door to where trials run: jobs go in, outcomes come out. An executor knows nothing of studies."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from carbs_scaling.config import ExecutorConfig
from carbs_scaling.trial import MachineFailure, TrialOutcome

logger = logging.getLogger(__name__)

# One trial, such as `task.Job`. Executors with other processes pickle it.
Job = Callable[[], TrialOutcome]


class Executor(Protocol):
    """Runs jobs. Not thread-safe: one coordinator calls it."""

    @property
    def free(self) -> int:
        """Slots that a job can be submitted to now."""
        ...

    def submit(self, number: int, job: Job) -> None:
        """Starts a job under its trial number."""
        ...

    def wait(self, timeout: float) -> list[tuple[int, TrialOutcome]]:
        """Trials that ended, as soon as one does; empty after `timeout` seconds.

        Raises:
            OSError, CarbsScalingError: what a trial raised instead of ending: nothing about its point.
        """
        ...

    def close(self) -> None:
        """Stops at once whatever runs."""
        ...


class ExecutorEntry(Protocol):
    """`EXECUTOR` of a module in `carbs_scaling.executors`: how it is made from its configuration.

    Attributes:
        config_type: the type of its `executor` section.
    """

    config_type: type[ExecutorConfig]

    def from_config(self, config: Any, folder: Path) -> Executor:
        """The executor of a checked configuration.

        Args:
            config: of the type `config_type`.
            folder: where it may keep files of its own, such as what says which jobs run elsewhere.

        Raises:
            ConfigError: it cannot run here.
        """
        ...


def or_machine_failure(job: Job) -> TrialOutcome:
    """Runs a job; a RuntimeError becomes a failure of the machine.

    cuBLAS, cuDNN, the compiler and lost GPU contexts all speak through RuntimeError. They are retried, and a
    few in a row stop the search with their message.
    """
    try:
        return job()
    except RuntimeError as error:
        logger.exception("a trial was lost to the machine")
        return MachineFailure(message=(str(error).splitlines() or [type(error).__name__])[0][:300])
