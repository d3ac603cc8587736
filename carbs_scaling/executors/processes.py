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
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from omegaconf import MISSING

from carbs_scaling.config import ExecutorConfig
from carbs_scaling.errors import ConfigError
from carbs_scaling.executors.executor import Job, or_machine_failure
from carbs_scaling.trial import MachineFailure, OutOfMemory, TrialOutcome

# Time that a stopped trial has for its checkpoint; `torchrun` and Kubernetes grant as much.
STOP_SECONDS = 30.0
# On a busy machine the coordinator should get its fraction of a second at once: workers yield to it.
WORKER_NICENESS = 10


def _exit_with_parent() -> None:
    """Ends this worker when the coordinator is gone, however it died."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _start_worker(environment: dict[str, str]) -> None:
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the coordinator's to handle
    with contextlib.suppress(OSError):
        os.nice(WORKER_NICENESS)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


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
    """The section `executor` of `executor=processes`."""

    trials_per_worker: int | None = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trials_per_worker is not None and self.trials_per_worker < 1:
            raise ConfigError(
                f"executor.trials_per_worker={self.trials_per_worker} must be at least 1 or null"
            )


@dataclass
class _Slot:
    """One worker and the trial that it has."""

    environment: dict[str, str]
    pool: ProcessPoolExecutor | None = None
    future: Future[TrialOutcome] | None = None
    number: int = -1
    job: Job | None = None
    attempts: int = 0


class ProcessExecutor:
    """Runs every job in a worker process of its own slot.

    Args:
        environments: environment variables of each slot's worker; one slot each.
        trials_per_worker: a worker is replaced after so many trials; None for never, but for those that the
            machine failed or that ran out of memory (a fresh process has a fresh GPU context, without holes).
        retries: times that a trial is begun again when its worker died, or the machine failed it.
    """

    config_type = ProcessesConfig

    def __init__(
        self, environments: list[dict[str, str]], trials_per_worker: int | None, retries: int
    ) -> None:
        self._slots = [_Slot(environment) for environment in environments]
        self._trials_per_worker = trials_per_worker
        self._retries = retries
        self._foreign_children = set(multiprocessing.active_children())

    @staticmethod
    def from_config(config: ProcessesConfig) -> "ProcessExecutor":
        """One slot a worker.

        Raises:
            ConfigError: CUDA is asked for and there is none.
        """
        environments = worker_environments(config.device, config.workers)
        return ProcessExecutor(environments, config.trials_per_worker, config.retries)

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
            slot.pool = ProcessPoolExecutor(
                max_workers=1,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
                initargs=(slot.environment,),
                max_tasks_per_child=self._trials_per_worker,
            )
        slot.attempts += 1
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

    def _collect(self, slot: _Slot, future: Future[TrialOutcome]) -> TrialOutcome | None:
        """The slot's outcome; None where its worker died and the trial was begun again."""
        try:
            outcome = future.result()
        except BrokenProcessPool:
            outcome = MachineFailure(
                message=f"its worker process died {slot.attempts} times (killed, or out of host memory?)"
            )
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
            for child in children:
                child.kill()
                child.join()


def worker_environments(device: str, workers: int | None) -> list[dict[str, str]]:
    """Environment variables of each worker: one a GPU, or one a core with a single thread.

    Args:
        device: `auto`, `cpu` or `cuda`.
        workers: how many; None for one a GPU, or one a core. More workers than GPUs share them in turn.

    Raises:
        ConfigError: CUDA asked for and none there.
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
    return [{"CUDA_VISIBLE_DEVICES": visible[slot % gpus]} for slot in range(workers or gpus)]


EXECUTOR = ProcessExecutor
