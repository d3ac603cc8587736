"""Jobs for tests of faults; light, since every attempt imports this module in a process of its own."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from carbs_scaling.trial import Completed, TrialOutcome


@dataclass(frozen=True)
class FirstAttempt:
    """A job whose first attempt meets some fault, and whose second one completes.

    Args:
        act: `die`, `stop` (as SIGSTOP does), `wait` (until it is interrupted) or `sleep` (for a second).
        log: gets a line for each attempt, with its process, and one where it is interrupted.
    """

    act: str
    log: Path

    def __call__(self) -> TrialOutcome:
        with self.log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        if len(attempts(self.log)) == 1:
            self._meet()
        return Completed(loss=7.0)

    def _meet(self) -> None:
        if self.act == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.act == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        if self.act == "sleep":
            time.sleep(1)
        if self.act == "wait":
            try:
                time.sleep(600)
            except KeyboardInterrupt:
                with self.log.open("a") as file:
                    file.write("kept\n")
                raise


def attempts(log: Path) -> list[int]:
    """Processes of the attempts so far."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [int(line) for line in lines if line.isdigit()]


def kept(log: Path) -> bool:
    """Whether an attempt was interrupted, and could keep its state."""
    return log.exists() and "kept" in log.read_text()
