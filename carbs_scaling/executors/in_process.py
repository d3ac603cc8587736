"""One trial after another in this very process: exactly repeatable."""

from collections import deque

from carbs_scaling.executors import or_machine_failure
from carbs_scaling.training.loop import TrainingJob, train
from carbs_scaling.trial import TrialOutcome


class InProcessExecutor:
    """Runs a submitted job when it is waited for."""

    def __init__(self) -> None:
        self._submitted: deque[tuple[int, TrainingJob]] = deque()

    @property
    def free(self) -> int:
        """One slot."""
        return 1 - len(self._submitted)

    def submit(self, number: int, job: TrainingJob) -> None:
        """Keeps the job until `wait`."""
        self._submitted.append((number, job))

    def wait(self, timeout: float) -> list[tuple[int, TrialOutcome]]:
        """Trains the submitted job to its end, however long that takes."""
        if not self._submitted:
            return []
        number, job = self._submitted.popleft()
        return [(number, or_machine_failure(train, job))]

    def close(self) -> None:
        """Forgets what was not begun."""
        self._submitted.clear()
