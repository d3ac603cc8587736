"""Where trials run. An executor takes jobs and gives outcomes back; it knows nothing of studies."""

import logging
from collections.abc import Callable
from typing import Protocol

from carbs_scaling.trial import Status, TrialOutcome

logger = logging.getLogger(__name__)


def machine_failure(message: str) -> TrialOutcome:
    """The outcome of a trial that the machine lost, which says nothing about its recipe."""
    return TrialOutcome(Status.MACHINE, steps=0, tokens=0, seconds=0.0, device="unknown", message=message)


def or_machine_failure(train: Callable[[object], TrialOutcome], job: object) -> TrialOutcome:
    """Trains; a RuntimeError of PyTorch that is no lack of memory becomes a failure of the machine.

    cuBLAS, cuDNN, the compiler and lost GPU contexts all speak through RuntimeError. They are retried, and a
    few in a row stop the search with their message.
    """
    try:
        return train(job)
    except RuntimeError as error:
        logger.exception("a trial was lost to the machine")
        hint = "; try executor.compile=false" if getattr(job, "compile", False) else ""
        return machine_failure((str(error).splitlines() or [type(error).__name__])[0][:300] + hint)


class Executor(Protocol):
    """The one door to the machines. Not thread-safe: one coordinator calls it."""

    @property
    def free(self) -> int:
        """Slots that a job can be submitted to now."""
        ...

    def submit(self, number: int, job: object) -> None:
        """Starts a `TrainingJob` under its trial number."""
        ...

    def wait(self, timeout: float) -> list[tuple[int, TrialOutcome]]:
        """Trials that ended, as soon as one does; empty after `timeout` seconds.

        Raises:
            OSError, CarbsScalingError: what a trial raised instead of ending: nothing about its recipe.
        """
        ...

    def close(self) -> None:
        """Stops at once whatever runs."""
        ...
