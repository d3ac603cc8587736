"""Where submitit puts jobs: Slurm's queue, or processes of this machine. Both name a job by a text.

Slurm is asked by its own commands: submitit asks `sacct`, which many clusters lack, and would then wait for
ever for a job that was killed.
"""

import contextlib
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from carbs_scaling.errors import CarbsScalingError, ConfigError

logger = logging.getLogger(__name__)

COMMAND_SECONDS = 60.0  # for one of Slurm's commands
# What sbatch says while the controller restarts or is busy: it is asked again.
BUSY = re.compile(r"contact slurm controller|timed out|temporarily|try again|not responding", re.IGNORECASE)
KILL_SECONDS = 3.0  # between SIGINT to submitit's controller, which kills its job, and SIGKILL


class Busy(CarbsScalingError):
    """The queue takes no job just now."""


class Queue(Protocol):
    """Takes jobs.

    Attributes:
        look_seconds: between two questions which jobs are alive.
        file_seconds: in which a file that a job has left is seen here, by way of a network file system.
    """

    look_seconds: ClassVar[float]
    file_seconds: ClassVar[float]

    def submit(self, folder: Path, name: str, function: Callable[[], None]) -> str:
        """Puts a function into the queue; gives the job's id.

        Args:
            folder: for submitit's files of this job.
            name: of the job.
            function: pickled by submitit.

        Raises:
            Busy: it takes none now.
            ConfigError: it takes none of this kind.
        """
        ...

    def alive(self, jobs: Collection[str]) -> dict[str, str] | None:
        """State of each job that waits or runs, by id; None while nobody knows."""
        ...

    def ending(self, job: str) -> str:
        """How a job ended, such as PREEMPTED; UNKNOWN where nobody knows."""
        ...

    def cancel(self, jobs: Collection[str]) -> None:
        """Ends jobs: SIGTERM, and SIGKILL after a while."""
        ...

    def cancel_named(self, name: str) -> None:
        """Ends the jobs of this name, if there are any."""
        ...

    def close(self) -> None:
        """Waits for what is left of jobs that have ended."""
        ...


@dataclass(frozen=True)
class SlurmQueue:
    """Slurm's queue.

    Args:
        options: of submitit's Slurm executor, by sbatch's names.
    """

    look_seconds: ClassVar[float] = 10.0
    file_seconds: ClassVar[float] = 60.0

    options: dict[str, Any]

    def submit(self, folder: Path, name: str, function: Callable[[], None]) -> str:
        """See `Queue.submit`. The job is the batch script itself, so that its command may call `srun`."""
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        executor = SlurmExecutor(folder=folder, python=f"exec {shlex.quote(sys.executable)}")
        try:
            executor.update_parameters(job_name=name, use_srun=False, **self.options)
            return str(executor.submit(function).job_id)
        except (FailedJobError, FailedSubmissionError, ValueError) as error:
            said = " ".join(str(error).split())[:300]
            raise (Busy if BUSY.search(said) else ConfigError)(f"executor=slurm: {said}") from error

    def alive(self, jobs: Collection[str]) -> dict[str, str] | None:
        """By `squeue`."""
        listed = _asked("squeue", "-h", "-u", str(os.getuid()), "-o", "%i %T")
        if listed is None:
            return None
        states = dict(line.split(maxsplit=1) for line in listed.splitlines() if " " in line.strip())
        return {job: states[job] for job in jobs if job in states}

    def ending(self, job: str) -> str:
        """By `scontrol`, which knows a job for some minutes after its end."""
        said = re.search(r"\bJobState=(\w+)", _asked("scontrol", "show", "job", "-o", job) or "")
        return said[1] if said else "UNKNOWN"

    def cancel(self, jobs: Collection[str]) -> None:
        """By `scancel`."""
        if jobs:
            _asked("scancel", *jobs)

    def cancel_named(self, name: str) -> None:
        """By `scancel`."""
        _asked("scancel", f"--name={name}", f"--user={os.getuid()}")

    def close(self) -> None:
        """Nothing is left here."""


def _asked(*command: str) -> str | None:
    """What one of Slurm's commands prints; None where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        logger.warning("%s did not answer for %.0f s", command[0], COMMAND_SECONDS)
        return None
    if done.returncode:
        logger.warning("%s: %s", " ".join(command)[:200], " ".join(done.stderr.split())[:200])
        return None
    return done.stdout


@dataclass
class LocalQueue:
    """Processes of this machine by submitit's local executor: to try what a cluster will do, without one.

    A job's id is that of submitit's process, which watches over the job's own.

    Args:
        minutes: that a job may take; it is told `signal_seconds` before the end.
    """

    look_seconds: ClassVar[float] = 0.2
    file_seconds: ClassVar[float] = 0.0

    minutes: float
    signal_seconds: int
    jobs: dict[str, Any] = field(default_factory=dict)

    def submit(self, folder: Path, name: str, function: Callable[[], None]) -> str:
        """See `Queue.submit`."""
        from submitit import LocalExecutor

        executor = LocalExecutor(folder=folder)
        executor.update_parameters(timeout_min=self.minutes, signal_delay_s=self.signal_seconds)
        job = executor.submit(function)
        self.jobs[job.job_id] = job
        return str(job.job_id)

    def alive(self, jobs: Collection[str]) -> dict[str, str] | None:
        """By the processes themselves."""
        return {job: "RUNNING" for job in jobs if self._runs(job)}

    def ending(self, job: str) -> str:
        """Not known."""
        return "UNKNOWN"

    def cancel(self, jobs: Collection[str]) -> None:
        """Kills the job, which may be stopped and deaf to anything else, and ends submitit's process."""
        for ending in (signal.SIGINT, signal.SIGKILL):
            for job in jobs:
                with contextlib.suppress(OSError):
                    if self._runs(job):
                        for child in Path(f"/proc/{job}/task/{job}/children").read_text().split():
                            os.kill(int(child), signal.SIGKILL)
                        os.kill(int(job), ending)
            self._until_ended(jobs)

    def cancel_named(self, name: str) -> None:
        """No job outlives its submission's record by more than the time to write it."""

    def close(self) -> None:
        """Waits for submitit's processes."""
        self._until_ended(self.jobs)
        self.jobs.clear()

    def _until_ended(self, jobs: Collection[str]) -> None:
        deadline = time.monotonic() + KILL_SECONDS
        while any(self._runs(job) for job in jobs) and time.monotonic() < deadline:
            time.sleep(0.05)

    def _runs(self, job: str) -> bool:
        if job in self.jobs:
            return bool(self.jobs[job].get_info()["jobState"] == "RUNNING")
        try:  # of an earlier coordinator
            return b"submitit.local._local" in Path(f"/proc/{job}/cmdline").read_bytes()
        except OSError:
            return False
