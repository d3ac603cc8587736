"""One trial after another in this very process: exactly repeatable."""

from collections import deque
from dataclasses import dataclass
from pathlib import Path

from carbs_scaling.config import ExecutorConfig
from carbs_scaling.errors import ConfigError
from carbs_scaling.executors.executor import Job, or_machine_failure
from carbs_scaling.trial import MachineFailure, TrialOutcome


@dataclass(frozen=True)
class InProcessConfig(ExecutorConfig):
    """The section `executor` of `executor=in_process`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workers not in (None, 1):
            raise ConfigError(
                f"executor.workers={self.workers}: in_process runs one at a time; use executor=processes"
            )


class InProcessExecutor:
    """Runs a submitted job when it is waited for.

    Args:
        retries: times that a trial is begun again when the machine failed it.
    """

    config_type = InProcessConfig

    def __init__(self, retries: int) -> None:
        self._retries = retries
        self._submitted: deque[tuple[int, Job]] = deque()

    @staticmethod
    def from_config(config: InProcessConfig, folder: Path) -> "InProcessExecutor":
        """One slot, whatever the device."""
        return InProcessExecutor(config.retries)

    @property
    def free(self) -> int:
        """One slot."""
        return 1 - len(self._submitted)

    def submit(self, number: int, job: Job) -> None:
        """Keeps the job until `wait`."""
        self._submitted.append((number, job))

    def wait(self, timeout: float) -> list[tuple[int, TrialOutcome]]:
        """Runs the submitted job to its end, however long that takes."""
        if not self._submitted:
            return []
        number, job = self._submitted.popleft()
        outcome = or_machine_failure(job)
        for _ in range(self._retries):
            if not isinstance(outcome, MachineFailure):
                break
            outcome = or_machine_failure(job)
        return [(number, outcome)]

    def close(self) -> None:
        """Forgets what was not begun."""
        self._submitted.clear()


EXECUTOR = InProcessExecutor
