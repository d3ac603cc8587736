"""Trials as tasks of a Ray cluster, or of a Ray that is started on this machine."""

import contextlib
import logging
import math
import os
import shutil
import signal
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import MISSING

from carbs_scaling.config import ExecutorConfig, require
from carbs_scaling.errors import CarbsScalingError, ConfigError
from carbs_scaling.executors.attempts import Attempt, Lost, RemoteExecutor
from carbs_scaling.executors.parcel import BEAT, Parcel

logger = logging.getLogger(__name__)

KILL_SECONDS = 10.0  # for workers to be killed when the search ends
OBJECT_STORE_BYTES = 100_000_000  # of a Ray of our own: a trial's outcome is a few kB


@dataclass(frozen=True)
class RayConfig(ExecutorConfig):
    """The section `executor` of `executor=ray`.

    `address`: of a cluster; null for a Ray of this machine. `resources`: others that a trial needs, by name.
    `gpus_per_trial`: may be a share of one; null for one where the cluster has GPUs.
    """

    elsewhere: ClassVar[bool] = True

    address: str | None = MISSING
    cpus_per_trial: float = MISSING
    gpus_per_trial: float | None = MISSING
    resources: dict[str, float] = MISSING
    trial_minutes: float | None = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.cpus_per_trial > 0, f"executor.cpus_per_trial={self.cpus_per_trial} must be above 0")
        gpus = self.gpus_per_trial
        require(
            gpus is None or 0 <= gpus <= 1 or gpus == int(gpus),
            f"executor.gpus_per_trial={gpus} must be a whole number, a share of 1, or null",
        )
        minutes = self.trial_minutes
        require(minutes is None or minutes > 0, f"executor.trial_minutes={minutes} must be positive or null")
        require(
            all(value > 0 for value in self.resources.values()),
            f"executor.resources={self.resources} must be above 0",
        )


def _run(parcel: Parcel) -> dict[str, Any]:
    """Runs a job in a worker of Ray."""
    import ray

    if not ray.get_gpu_ids():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    return parcel.run(ray.get_runtime_context().get_node_id())


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class RayExecutor(RemoteExecutor):
    """Runs every job as a Ray task. A node or worker that is lost takes its trials along, not the search.

    Args:
        config: address, and what a trial needs.
        folder: for signs of life, which all nodes see.

    Raises:
        ConfigError: there is no Ray, no cluster at the address, or too little in it for one trial.
    """

    config_type = RayConfig

    def __init__(self, config: RayConfig, folder: Path) -> None:
        self._temporary: Path | None = None
        self._ray = self._connected(config)
        there: dict[str, float] = self._ray.cluster_resources()
        gpus = 0.0 if config.device == "cpu" else config.gpus_per_trial
        if gpus is None:
            gpus = 1.0 if there.get("GPU") else 0.0
        needs = {"CPU": config.cpus_per_trial, "GPU": gpus, **config.resources}
        fits = min(there.get(name, 0.0) / value for name, value in needs.items() if value)
        if math.floor(fits + 1e-9) < 1:
            self._disconnect([])
            raise ConfigError(f"executor=ray: a trial needs {needs}, and the cluster has {there}")
        super().__init__(
            config.workers or math.floor(fits + 1e-9),
            config.retries,
            config.trial_minutes,
            folder,
            {"OMP_NUM_THREADS": str(max(int(config.cpus_per_trial), 1))},
        )
        self._task = self._ray.remote(
            num_cpus=config.cpus_per_trial, num_gpus=gpus, resources=dict(config.resources), max_retries=0
        )(_run)

    @staticmethod
    def from_config(config: RayConfig, folder: Path) -> "RayExecutor":
        """As many slots as `workers`, or as the cluster has room for.

        Raises:
            ConfigError: see the class.
        """
        return RayExecutor(config, folder)

    def _connected(self, config: RayConfig) -> Any:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError:
            raise ConfigError("executor=ray needs Ray: pip install 'carbs-scaling[ray]'") from None
        self._begun_here = not ray.is_initialized()
        if not self._begun_here:  # by the program that calls us
            return ray
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if config.address is not None:
            options["address"] = config.address
        else:
            # Ray lets everybody into its folder, which therefore lies in one of ours.
            self._temporary = Path(
                tempfile.mkdtemp(prefix="carbs-", dir="/tmp" if os.name == "posix" else None)
            )
            cores = os.cpu_count() or 1
            options |= {
                "address": "local",
                "num_cpus": max(cores, math.ceil((config.workers or 1) * config.cpus_per_trial)),
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE_BYTES,
                "resources": {k: v * (config.workers or 1) for k, v in config.resources.items()},
                "_temp_dir": str(self._temporary / "ray"),
            }
        logging.getLogger("ray").setLevel(logging.ERROR)  # it announces itself before it reads the level
        try:
            ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            self._remove_temporary()
            place = "this machine" if config.address is None else f"executor.address={config.address}"
            raise ConfigError(f"no Ray at {place}: {' '.join(str(error).split())[:300]}") from error
        return ray

    def _start(self, attempt: Attempt, parcel: Parcel) -> None:
        attempt.handle = self._task.remote(parcel)

    def _ended(self, timeout: float) -> list[tuple[Attempt, Mapping[str, Any] | Lost]]:
        by_reference = {attempt.handle: attempt for attempt in self._running.values()}
        ready, _ = self._ray.wait(list(by_reference), num_returns=1, timeout=timeout)
        if ready:  # whatever else has ended by now
            ready, _ = self._ray.wait(list(by_reference), num_returns=len(by_reference), timeout=0)
        return [(by_reference[reference], self._result(reference)) for reference in ready]

    def _result(self, reference: Any) -> Mapping[str, Any] | Lost:
        exceptions = self._ray.exceptions
        try:
            result: dict[str, Any] = self._ray.get(reference)
        except (
            exceptions.RayTaskError
        ) as error:  # before its worker could run our code, such as a lost module
            raise CarbsScalingError(f"a Ray worker cannot run trials: {_first_line(error.cause)}") from error
        except (exceptions.RaySystemError, exceptions.RpcError) as error:
            raise CarbsScalingError(f"the connection to Ray is lost: {_first_line(error)}") from error
        except exceptions.RayError as error:
            return Lost(f"{type(error).__name__}: {_first_line(error)}")
        return result

    def _end(self, attempt: Attempt) -> None:
        """Kills the worker from its own node: one that hangs would not answer Ray."""
        try:
            node, pid = (attempt.folder / BEAT).read_text().split()[:2]
        except (OSError, ValueError):  # it has not begun
            self._ray.cancel(attempt.handle, force=True)
            return
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(node, soft=False)
        kill = self._ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(_kill)
        attempt.notes["kill"] = kill.remote(int(pid))  # the task ends where its result is forgotten

    def _drop_waiting(self, attempts: list[Attempt]) -> None:
        for attempt in attempts:
            if not (attempt.folder / BEAT).exists():
                self._ray.cancel(attempt.handle, force=True)

    def _disconnect(self, killed: list[Attempt]) -> None:
        if self._begun_here:
            kills = [attempt.notes["kill"] for attempt in killed if "kill" in attempt.notes]
            if kills:
                self._ray.wait(kills, num_returns=len(kills), timeout=KILL_SECONDS)
            self._ray.shutdown()
        self._remove_temporary()

    def _remove_temporary(self) -> None:
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


EXECUTOR = RayExecutor
