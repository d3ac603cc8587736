"""What executors with other machines share: attempts at trials, their signs of life, and retries."""

import contextlib
import itertools
import logging
import pickle
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from carbs_scaling.errors import CarbsScalingError
from carbs_scaling.executors.executor import Job
from carbs_scaling.executors.parcel import BEAT, STOP, Parcel, received
from carbs_scaling.executors.processes import SILENT_SECONDS, STOP_SECONDS
from carbs_scaling.trial import MachineFailure, TrialOutcome

logger = logging.getLogger(__name__)

LOOK_SECONDS = 2.0  # between two looks at the signs of life
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Lost:
    """An attempt that ended without a word.

    Args:
        reason: one line.
        goes_on: whether it was sent away and goes on from its checkpoint, such as a preempted one.
    """

    reason: str
    goes_on: bool = False


@dataclass
class Attempt:
    """An attempt at a trial, and those before it.

    Args:
        number: of the trial.
        job: pickled.
        folder: of its files, for this attempt alone.
        handle: what the engine knows it by.
        failed: attempts before it that failed.
        resumed: attempts before it that were sent away and went on.
    """

    number: int
    job: bytes
    folder: Path
    handle: Any = None
    failed: int = 0
    resumed: int = 0
    beat: str = ""
    beaten: float = 0.0  # clock of the last sign of life
    begun: float | None = None  # clock of the first one of this process
    killed: str = ""  # why the coordinator ended it
    notes: dict[str, Any] = field(default_factory=dict)  # of the engine, on this attempt

    def look(self, now: float) -> None:
        """Reads the sign of life; the clock is ours, since those of other machines may differ."""
        try:
            text = (self.folder / BEAT).read_text()
        except OSError:
            return
        if text and text != self.beat:  # empty while it is being written
            if text.split()[:2] != self.beat.split()[:2]:
                self.begun = now
            self.beat, self.beaten = text, now


class RemoteExecutor(ABC):
    """Runs jobs by an engine that starts them on other machines.

    Args:
        slots: trials at once.
        retries: times that a trial is begun again when the machine failed it.
        resumes: times that one goes on that was sent away.
        trial_minutes: after which a job is taken to hang; None for no limit.
        folder: for files of its own, which all machines see.
        environment: variables of each job.
    """

    def __init__(
        self,
        slots: int,
        retries: int,
        trial_minutes: float | None,
        folder: Path,
        environment: Mapping[str, str],
        resumes: int = 0,
    ) -> None:
        self._slots, self._retries, self._resumes = slots, retries, resumes
        self._trial_minutes, self._folder, self._environment = trial_minutes, folder.resolve(), environment
        self._running: dict[int, Attempt] = {}
        self._looked = 0.0
        self._raised: Exception | None = None

    @property
    def free(self) -> int:
        """Slots that have no trial."""
        return self._slots - len(self._running)

    def submit(self, number: int, job: Job) -> None:
        """Starts a job, or takes over the one that an earlier coordinator started for this trial."""
        attempt = Attempt(number, pickle.dumps(job), self._folder)
        self._running[number] = attempt
        if not self._adopt(attempt):
            self._begin(attempt)

    def wait(self, timeout: float) -> list[tuple[int, TrialOutcome]]:
        """Outcomes of the trials that ended; see `Executor.wait`.

        What a trial raised waits until the outcomes beside it are told, and is raised by the next call.
        """
        deadline = time.monotonic() + timeout
        outcomes: list[tuple[int, TrialOutcome]] = []
        while True:
            if self._raised is not None and not outcomes:
                raised, self._raised = self._raised, None
                raise raised
            left = deadline - time.monotonic()
            if outcomes or not self._running or left <= 0:
                return outcomes
            self._end_hanging()
            for attempt, result in self._ended(min(left, POLL_SECONDS)):
                outcome = self._judged(attempt, result)
                if outcome is not None:
                    outcomes.append((attempt.number, outcome))

    def close(self) -> None:
        """Stops the jobs. They have `STOP_SECONDS` to keep what they have done; then they are ended."""
        running = list(self._running.values())
        try:
            for attempt in running:
                self._tell_to_stop(attempt)
            for attempt in [attempt for attempt in running if attempt.handle is None]:  # never handed over
                self._forget(attempt)
            running = list(self._running.values())
            self._drop_waiting(running)
            deadline = time.monotonic() + STOP_SECONDS
            while running and time.monotonic() < deadline:
                ended = [attempt.number for attempt, _ in self._ended(POLL_SECONDS)]
                running = [attempt for attempt in running if attempt.number not in ended]
                for number in ended:
                    self._forget(self._running[number])
        finally:
            for attempt in running:
                self._end(attempt)
            self._disconnect(running)
            for attempt in running:
                self._forget(attempt)

    @abstractmethod
    def _start(self, attempt: Attempt, parcel: Parcel) -> None:
        """Hands a job to the engine."""

    @abstractmethod
    def _ended(self, timeout: float) -> Iterable[tuple[Attempt, Mapping[str, Any] | Lost]]:
        """Those of `_running` that ended, with what they sent; none after `timeout` seconds."""

    @abstractmethod
    def _end(self, attempt: Attempt) -> None:
        """Has the engine kill a job."""

    def _has_begun(self, attempt: Attempt) -> bool:
        """Whether the engine says of a job without any sign of life yet that it is no longer in a queue."""
        return False

    def _is_at_work(self, attempt: Attempt) -> bool:
        """Whether the engine says of a silent job that it runs."""
        return True

    def _adopt(self, attempt: Attempt) -> bool:
        """Takes over the job that another coordinator started for the trial; False where there is none."""
        return False

    @abstractmethod
    def _drop_waiting(self, attempts: list[Attempt]) -> None:
        """Ends jobs that have not begun."""

    @abstractmethod
    def _disconnect(self, killed: list[Attempt]) -> None:
        """Leaves the engine."""

    def _begin(self, attempt: Attempt) -> None:
        for count in itertools.count():
            before = attempt.failed + attempt.resumed + count
            attempt.folder = self._folder / f"{attempt.number:05d}-{before}"
            try:
                self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._folder.chmod(0o700)
                attempt.folder.mkdir(mode=0o700)
                break
            except (
                FileExistsError
            ):  # an attempt that failed under an earlier coordinator, kept for its output
                continue
            except OSError as error:
                raise CarbsScalingError(
                    f"cannot write {attempt.folder}: {error.strerror or error}"
                ) from error
        attempt.beat, attempt.begun, attempt.killed, attempt.handle = "", None, "", None
        attempt.notes.clear()
        self._start(attempt, Parcel.of(attempt.job, attempt.folder, self._environment))

    def _end_hanging(self) -> None:
        """Ends jobs that say nothing any more, or whose trial takes too long."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        for attempt in self._running.values():
            attempt.look(now)
            if attempt.begun is None and self._has_begun(attempt):
                attempt.begun = attempt.beaten = now
            if attempt.begun is None or attempt.killed:
                continue
            if self._trial_minutes is not None and now - attempt.begun > 60 * self._trial_minutes:
                attempt.killed = f"it took longer than executor.trial_minutes={self._trial_minutes:g}"
            elif now - attempt.beaten > SILENT_SECONDS:
                if not self._is_at_work(attempt):
                    attempt.beaten = now  # it waits in a queue again
                    continue
                attempt.killed = f"its job gave no sign of life for {SILENT_SECONDS:.0f} s"
            if attempt.killed:
                self._tell_to_stop(attempt)  # else a cancelled job may put itself into the queue again
                self._end(attempt)

    def _tell_to_stop(self, attempt: Attempt) -> None:
        with contextlib.suppress(OSError):
            (attempt.folder / STOP).touch()

    def _judged(self, attempt: Attempt, result: Mapping[str, Any] | Lost) -> TrialOutcome | None:
        """The trial's outcome; None where it was begun again, or has raised."""
        goes_on = False
        if isinstance(result, Lost) or "stopped" in result:
            lost = result if isinstance(result, Lost) else Lost("it was interrupted")
            goes_on = lost.goes_on and not attempt.killed
            outcome: TrialOutcome = MachineFailure(message=attempt.killed or lost.reason)
        else:
            said = received(result)
            if isinstance(said, Exception):
                self._forget(attempt)
                self._raised = said
                return None
            outcome = said
        if not isinstance(outcome, MachineFailure):
            self._forget(attempt)
            return outcome
        again = attempt.resumed < self._resumes if goes_on else attempt.failed < self._retries
        logger.warning("trial %d: %s; files in %s", attempt.number, outcome.message, attempt.folder)
        if not again:
            self._forget(attempt, keep=True)
            return outcome
        attempt.resumed += goes_on
        attempt.failed += not goes_on
        self._begin(attempt)
        return None

    def _forget(self, attempt: Attempt, keep: bool = False) -> None:
        self._running.pop(attempt.number, None)
        if not keep:
            shutil.rmtree(attempt.folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # others are in it
                self._folder.rmdir()
