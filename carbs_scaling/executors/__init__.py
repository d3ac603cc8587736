"""Where trials run. An executor takes jobs and gives outcomes back; it knows nothing of studies."""

from typing import Protocol

from carbs_scaling.training.outcome import TrialOutcome


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
