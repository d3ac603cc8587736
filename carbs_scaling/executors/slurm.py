"""Trials as jobs of Slurm, by submitit. A job outlives its coordinator, and the next one takes it over."""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from omegaconf import MISSING

from carbs_scaling.config import ExecutorConfig, require
from carbs_scaling.errors import ConfigError
from carbs_scaling.executors.attempts import Attempt, Lost, RemoteExecutor
from carbs_scaling.executors.parcel import STOP, Parcel
from carbs_scaling.executors.queues import Busy, LocalQueue, Queue, SlurmQueue
from carbs_scaling.files import write_atomically

logger = logging.getLogger(__name__)

JOB, RESULT = "job", "result.json"  # files of an attempt
SENT_AWAY = ("PREEMPTED", "TIMEOUT", "NODE_FAIL", "REQUEUED")


@dataclass(frozen=True)
class SlurmConfig(ExecutorConfig):
    """The section `executor` of `executor=slurm`; `conf/executor/slurm.yaml` says what its keys mean."""

    elsewhere: ClassVar[bool] = True

    partition: str | None = MISSING
    account: str | None = MISSING
    nodes: int = MISSING
    gpus_per_trial: int = MISSING
    cpus_per_trial: int = MISSING
    memory: str | None = MISSING
    time_minutes: int = MISSING
    signal_seconds: int = MISSING
    requeues: int = MISSING
    trial_minutes: float | None = MISSING
    setup: list[str] = MISSING
    parameters: dict[str, Any] = MISSING
    local: bool = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.workers is not None, "executor.workers=null: say how many jobs may be queued at once")
        for name in ("nodes", "cpus_per_trial", "time_minutes"):
            require(getattr(self, name) >= 1, f"executor.{name}={getattr(self, name)} must be at least 1")
        for name in ("gpus_per_trial", "signal_seconds", "requeues"):
            require(getattr(self, name) >= 0, f"executor.{name}={getattr(self, name)} must not be negative")
        minutes = self.trial_minutes
        require(minutes is None or minutes > 0, f"executor.trial_minutes={minutes} must be positive or null")

    def sbatch_options(self) -> dict[str, Any]:
        """Options of submitit's Slurm executor."""
        more = {
            "signal": f"B:USR2@{self.signal_seconds}",  # to the batch script, which is the job itself
            "requeue": True,
            **({} if self.memory is None else {"mem": self.memory}),
            **self.parameters,
        }
        options = {
            "partition": self.partition,
            "account": self.account,
            "nodes": self.nodes,
            "cpus_per_task": self.cpus_per_trial,
            "gpus_per_node": None if self.device == "cpu" or not self.gpus_per_trial else self.gpus_per_trial,
            "time": self.time_minutes,
            "setup": list(self.setup) or None,
            "additional_parameters": more,
        }
        return {name: value for name, value in options.items() if value is not None}


@dataclass(frozen=True)
class QueuedTrial:
    """What submitit runs: the trial, and where it is sent away its return to the queue.

    Args:
        parcel: the trial.
        requeues: times that it may go back into the queue.
    """

    parcel: Parcel
    requeues: int

    def __call__(self) -> None:
        """Leaves what the trial sends in `RESULT`, or goes back into the queue."""
        from submitit import JobEnvironment

        # Slurm's word that the time is nearly over, in place of submitit's own handler.
        signal.signal(signal.SIGUSR2, lambda *_: signal.raise_signal(signal.SIGTERM))
        folder = Path(self.parcel.folder)
        result = self.parcel.run()
        if "stopped" not in result:
            write_atomically(folder / RESULT, json.dumps(result).encode())
            _end_here()
        # A job that the coordinator has ended can be requeued, and must not be.
        restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        if folder.is_dir() and not (folder / STOP).exists() and restarts < self.requeues:
            JobEnvironment()._requeue(self.requeues - restarts)
        _end_here()


def _end_here() -> NoReturn:
    """Ends the job before submitit pickles a result, which nobody would read."""
    logging.shutdown()
    os._exit(0)


class SlurmExecutor(RemoteExecutor):
    """Runs every job as a batch job of its own.

    Args:
        config: what a job asks for.
        folder: for the files of jobs, which all machines see.

    Raises:
        ConfigError: there is no submitit or no Slurm.
    """

    config_type = SlurmConfig

    def __init__(self, config: SlurmConfig, folder: Path) -> None:
        try:
            import submitit  # noqa: F401
        except ImportError:
            raise ConfigError("executor=slurm needs submitit: pip install 'carbs-scaling[slurm]'") from None
        if not config.local and shutil.which("sbatch") is None:
            raise ConfigError("executor=slurm: there is no sbatch here; start the search on a login node")
        assert config.workers is not None
        threads = {"OMP_NUM_THREADS": str(config.cpus_per_trial)}
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if config.device == "cpu" else {}
        super().__init__(
            config.workers, config.retries, config.trial_minutes, folder, threads | hidden, config.requeues
        )
        self._requeues = config.requeues
        self._queue: Queue = (
            LocalQueue(config.time_minutes, config.signal_seconds)
            if config.local
            else SlurmQueue(config.sbatch_options())
        )
        place = hashlib.sha256(str(self._folder).encode()).hexdigest()[:8]
        self._prefix = f"{self._folder.parent.name}-{place}"
        self._asked = 0.0  # clock of the last look at the queue
        self._look_seconds = self._queue.look_seconds

    @staticmethod
    def from_config(config: SlurmConfig, folder: Path) -> "SlurmExecutor":
        """`workers` jobs at once.

        Raises:
            ConfigError: see the class.
        """
        return SlurmExecutor(config, folder)

    def _start(self, attempt: Attempt, parcel: Parcel) -> None:
        trial = QueuedTrial(parcel, self._requeues)
        try:
            attempt.handle = self._queue.submit(attempt.folder, self._name(attempt.folder), trial)
        except Busy as busy:
            if "waits" not in attempt.notes:
                logger.warning("%s; it is asked again", busy)
            attempt.notes["waits"] = parcel
            return
        except ConfigError:
            self._forget(attempt)
            raise
        attempt.notes.pop("waits", None)
        write_atomically(attempt.folder / JOB, attempt.handle.encode())

    def _name(self, folder: Path) -> str:
        """A job's name, by which it is found again where the coordinator died before it knew the id."""
        return f"{self._prefix}-{folder.name}"

    def _adopt(self, attempt: Attempt) -> bool:
        for folder in sorted(self._folder.glob(f"{attempt.number:05d}-*"), reverse=True):
            job = (folder / JOB).read_text() if (folder / JOB).exists() else ""
            alive = bool(job and not (folder / STOP).exists() and self._queue.alive([job]) != {})
            if (folder / RESULT).exists() or alive:
                logger.info("trial %d: its job %s is taken over", attempt.number, job)
                attempt.folder, attempt.handle = folder, job
                return True
            self._queue.cancel_named(self._name(folder))
            self._queue.cancel([job] if job else [])
            shutil.rmtree(folder, ignore_errors=True)  # a job that still starts finds nothing to run
        return False

    def _ended(self, timeout: float) -> list[tuple[Attempt, Mapping[str, Any] | Lost]]:
        ended: list[tuple[Attempt, Mapping[str, Any] | Lost]] = []
        self._look_at_queue()
        now = time.monotonic()
        for attempt in self._running.values():
            if attempt.handle is None:
                continue
            if (attempt.folder / RESULT).exists():
                ended.append((attempt, json.loads((attempt.folder / RESULT).read_text())))
            elif "gone" in attempt.notes and now - attempt.notes["gone"] >= self._patience(attempt):
                ended.append((attempt, self._lost(attempt)))
        if not ended:
            time.sleep(timeout)
        return ended

    def _patience(self, attempt: Attempt) -> float:
        """Seconds in which a job that is gone may still be found to have left its result."""
        ended = attempt.killed or (attempt.folder / STOP).exists()
        return 0.0 if ended else self._queue.file_seconds

    def _look_at_queue(self) -> None:
        """Asks which jobs are alive, and hands over those that the queue would not take."""
        now = time.monotonic()
        if now - self._asked < self._look_seconds:
            return
        self._asked = now
        for attempt in list(self._running.values()):
            if "waits" in attempt.notes:
                self._start(attempt, attempt.notes["waits"])
        jobs = [attempt.handle for attempt in self._running.values() if attempt.handle is not None]
        alive = self._queue.alive(jobs)
        if alive is None:
            return
        for attempt in self._running.values():
            if attempt.handle in alive:
                attempt.notes.pop("gone", None)
                attempt.notes["state"] = alive[attempt.handle]
            elif attempt.handle is not None:
                attempt.notes.setdefault("gone", now)
                with contextlib.suppress(OSError):  # has a network file system look again
                    attempt.folder.chmod(0o700)

    def _lost(self, attempt: Attempt) -> Mapping[str, Any] | Lost:
        state = self._queue.ending(attempt.handle)
        if state == "OUT_OF_MEMORY":
            message = f"its job {attempt.handle} needed more than executor.memory"
            return {"outcome": {"status": "out_of_memory", "progress": 0.0, "message": message}}
        return Lost(f"its job {attempt.handle} was lost ({state})", goes_on=state in SENT_AWAY)

    def _end(self, attempt: Attempt) -> None:
        if attempt.handle is not None:
            self._queue.cancel([attempt.handle])

    def _has_begun(self, attempt: Attempt) -> bool:
        return attempt.notes.get("state") == "RUNNING"

    def _is_at_work(self, attempt: Attempt) -> bool:
        alive = self._queue.alive([attempt.handle])
        return alive is None or alive.get(attempt.handle, "RUNNING") == "RUNNING"

    def _drop_waiting(self, attempts: list[Attempt]) -> None:
        """Jobs in the queue are cancelled at once; those that run find that they shall stop."""
        jobs = [attempt.handle for attempt in attempts if attempt.handle is not None]
        alive = self._queue.alive(jobs) or {}
        self._queue.cancel([job for job, state in alive.items() if state != "RUNNING"])
        self._look_seconds = min(self._look_seconds, 1.0)

    def _disconnect(self, killed: list[Attempt]) -> None:
        """Ends what earlier coordinators left, too."""
        others = [folder for folder in self._folder.glob("*-*") if (folder / JOB).exists()]
        for folder in others:
            with contextlib.suppress(OSError):
                (folder / STOP).touch()
        jobs = [(folder / JOB).read_text() for folder in others]
        if jobs:
            self._queue.cancel(list(self._queue.alive(jobs) or ()))
        self._queue.close()


EXECUTOR = SlurmExecutor
