"""Worker processes on this machine, one a GPU or core. One that dies takes its trial along, not the search.

Each slot is a process pool of one, so that a dead worker names its trial (a shared pool breaks as a whole).
This module is imported by the workers before torch, whose thread pools read the environment only once.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from carbs_scaling.config import ExecutorConfig
from carbs_scaling.errors import ConfigError
from carbs_scaling.executors.executor import Job, or_machine_failure
from carbs_scaling.trial import MachineFailure, OutOfMemory, TrialOutcome

Heartbeat = Any  # a shared float: the clock of the worker's last sign of life
# Time that a stopped trial has for its checkpoint; `torchrun` and Kubernetes grant as much.
STOP_SECONDS = 30.0
# A worker that says nothing for longer is stopped, or hangs in a call that lets no other thread run.
BEAT_SECONDS, SILENT_SECONDS = 2.0, 300.0
# On a busy machine the coordinator should get its fraction of a second at once: workers yield to it.
WORKER_NICENESS = 10


def _beat_until_parent_ends(heartbeat: Heartbeat) -> None:
    """Says that this worker lives; ends it when the coordinator is gone, however it died."""
    parent = multiprocessing.parent_process()
    while parent is not None:
        heartbeat.value = time.monotonic()
        parent.join(BEAT_SECONDS)
        if not parent.is_alive():
            os._exit(1)


def _start_worker(environment: dict[str, str], heartbeat: Heartbeat) -> None:
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the coordinator's to handle
    with contextlib.suppress(OSError):
        os.nice(WORKER_NICENESS)
    threading.Thread(target=_beat_until_parent_ends, args=(heartbeat,), daemon=True).start()


def _run(job: Job) -> TrialOutcome:
    threads = os.environ.get("OMP_NUM_THREADS", "")
    torch = sys.modules.get("torch")  # imported before the environment was set, where a script imports it
    if torch is not None and threads.isdigit():
        torch.set_num_threads(int(threads))
    # Only while a job runs: an interrupted wait for the next one would print a traceback.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return or_machine_failure(job)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@dataclass(frozen=True)
class ProcessesConfig(ExecutorConfig):
    """The section `executor` of `executor=processes`.

    `trial_minutes`: a trial that takes longer is ended, and begun again as often as `retries` says.
    """

    trials_per_worker: int | None = MISSING
    gpus_per_trial: int = MISSING
    trial_minutes: float | None = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trials_per_worker is not None and self.trials_per_worker < 1:
            raise ConfigError(
                f"executor.trials_per_worker={self.trials_per_worker} must be at least 1 or null"
            )
        if self.gpus_per_trial < 1:
            raise ConfigError(f"executor.gpus_per_trial={self.gpus_per_trial} must be at least 1")
        if self.trial_minutes is not None and not self.trial_minutes > 0:
            raise ConfigError(f"executor.trial_minutes={self.trial_minutes} must be positive or null")


@dataclass
class _Slot:
    """One worker and the trial that it has."""

    environment: dict[str, str]
    pool: ProcessPoolExecutor | None = None
    future: Future[TrialOutcome] | None = None
    number: int = -1
    job: Job | None = None
    attempts: int = 0
    begun: float = 0.0  # clock of the attempt
    heartbeat: Heartbeat = None
    killed: str = ""  # why the coordinator ended the worker


class ProcessExecutor:
    """Runs every job in a worker process of its own slot.

    Args:
        environments: environment variables of each slot's worker; one slot each.
        trials_per_worker: a worker is replaced after so many trials; None for never, but for those that the
            machine failed or that ran out of memory (a fresh process has a fresh GPU context, without holes).
        retries: times that a trial is begun again when its worker died, or the machine failed it.
        trial_minutes: after which a worker is taken to hang; None for no limit.
    """

    config_type = ProcessesConfig

    def __init__(
        self,
        environments: list[dict[str, str]],
        trials_per_worker: int | None,
        retries: int,
        trial_minutes: float | None = None,
    ) -> None:
        self._slots = [_Slot(environment) for environment in environments]
        self._trials_per_worker = trials_per_worker
        self._retries = retries
        self._trial_minutes = trial_minutes
        self._foreign_children = set(multiprocessing.active_children())

    @staticmethod
    def from_config(config: ProcessesConfig, folder: Path) -> "ProcessExecutor":
        """One slot a worker.

        Raises:
            ConfigError: CUDA is asked for and there is none.
        """
        environments = worker_environments(config.device, config.workers, config.gpus_per_trial)
        return ProcessExecutor(environments, config.trials_per_worker, config.retries, config.trial_minutes)

    @property
    def free(self) -> int:
        """Idle slots."""
        return sum(slot.future is None for slot in self._slots)

    def submit(self, number: int, job: Job) -> None:
        """Starts a job in an idle slot."""
        slot = next(slot for slot in self._slots if slot.future is None)
        slot.number, slot.job, slot.attempts = number, job, 0
        self._begin(slot)

    def _begin(self, slot: _Slot) -> None:
        if slot.pool is None:
            context = multiprocessing.get_context("spawn")
            slot.heartbeat = context.Value("d", 0.0, lock=False)
            slot.pool = ProcessPoolExecutor(
                max_workers=1,
                mp_context=context,
                initializer=_start_worker,
                initargs=(slot.environment, slot.heartbeat),
                max_tasks_per_child=self._trials_per_worker,
            )
        slot.attempts += 1
        slot.begun, slot.killed = time.monotonic(), ""
        assert slot.job is not None
        try:
            slot.future = slot.pool.submit(_run, slot.job)
        except BrokenProcessPool:
            # The idle worker was killed since its last trial: that says nothing of this one.
            slot.pool = None
            slot.attempts -= 1
            self._begin(slot)

    def wait(self, timeout: float) -> list[tuple[int, TrialOutcome]]:
        """Outcomes of the trials that ended; see `Executor.wait`.

        What a trial raised waits until the outcomes beside it are told, and is raised by the next call.
        """
        self._end_hanging()
        running = [slot.future for slot in self._slots if slot.future is not None]
        ended, _ = wait(running, timeout=timeout, return_when=FIRST_COMPLETED)
        outcomes = []
        raised: BaseException | None = None
        for slot in self._slots:
            if slot.future is None or slot.future not in ended:
                continue
            error = slot.future.exception()
            if error is not None and not isinstance(error, BrokenProcessPool):
                raised = error
                continue
            outcome = self._collect(slot, slot.future)
            if outcome is not None:
                outcomes.append((slot.number, outcome))
        if raised is not None and not outcomes:
            raise raised
        return outcomes

    def _end_hanging(self) -> None:
        """Kills workers that say nothing any more, or whose trial takes too long; their pools then break."""
        now = time.monotonic()
        for slot in self._slots:
            if slot.future is None or slot.pool is None or slot.killed:
                continue
            if now - max(slot.begun, slot.heartbeat.value) > SILENT_SECONDS:
                slot.killed = f"its worker process gave no sign of life for {SILENT_SECONDS:.0f} s"
            elif self._trial_minutes is not None and now - slot.begun > 60 * self._trial_minutes:
                slot.killed = f"it took longer than executor.trial_minutes={self._trial_minutes:g}"
            if slot.killed:
                for process in list((slot.pool._processes or {}).values()):
                    process.kill()

    def _collect(self, slot: _Slot, future: Future[TrialOutcome]) -> TrialOutcome | None:
        """The slot's outcome; None where its worker died and the trial was begun again."""
        try:
            outcome = future.result()
        except BrokenProcessPool:
            died = f"its worker process died {slot.attempts} times (killed, or out of host memory?)"
            outcome = MachineFailure(message=slot.killed or died)
        if isinstance(outcome, MachineFailure | OutOfMemory) and slot.pool is not None:
            slot.pool.shutdown(wait=False)
            slot.pool = None
        if isinstance(outcome, MachineFailure) and slot.attempts <= self._retries:
            self._begin(slot)
            return None
        slot.future = None
        return outcome

    def close(self) -> None:
        """Stops the workers. Trials that ran stay open in the ledger and are run again on resume.

        They get SIGTERM and `STOP_SECONDS` to keep what they have done; then all that is left is killed.
        """
        children = set(multiprocessing.active_children()) - self._foreign_children
        running = [slot.future for slot in self._slots if slot.future is not None]
        try:
            for child in children:
                child.terminate()
            wait(running, timeout=STOP_SECONDS)
        finally:
            for slot in self._slots:
                if slot.pool is not None:
                    slot.pool.shutdown(wait=False, cancel_futures=True)
            # A pool may have started another one until it was shut down.
            for child in children | (set(multiprocessing.active_children()) - self._foreign_children):
                child.kill()
                child.join()


def worker_environments(device: str, workers: int | None, gpus_per_trial: int = 1) -> list[dict[str, str]]:
    """Environment variables of each worker: one a GPU or some, or one a core with a single thread.

    Args:
        device: `auto`, `cpu` or `cuda`.
        workers: how many; None for as many as there are GPUs for, or one a core. More share them in turn.
        gpus_per_trial: GPUs that each worker sees.

    Raises:
        ConfigError: CUDA asked for and none there, or fewer than one trial needs.
    """
    import torch

    gpus = torch.cuda.device_count() if device != "cpu" else 0
    if device == "cuda" and gpus == 0:
        raise ConfigError("executor.device=cuda, but PyTorch sees no CUDA GPU: use executor.device=cpu")
    if gpus == 0:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        count = workers or cores
        return [{"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}] * count
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = named.split(",") if named else [str(index) for index in range(gpus)]
    groups = [visible[i : i + gpus_per_trial] for i in range(0, gpus - gpus_per_trial + 1, gpus_per_trial)]
    if not groups:
        raise ConfigError(f"executor.gpus_per_trial={gpus_per_trial}: there are {gpus} GPUs here")
    slots = range(workers or len(groups))
    return [{"CUDA_VISIBLE_DEVICES": ",".join(groups[slot % len(groups)])} for slot in slots]


EXECUTOR = ProcessExecutor
