"""Counters of the energy that a machine has used: NVML for NVIDIA's GPUs, RAPL for Intel's and AMD's CPUs."""

import importlib
import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

logger = logging.getLogger(__name__)

POWERCAP = Path("/sys/class/powercap")
PROC_STAT = Path("/proc/stat")
# RAPL's 32 bits of some microjoules begin anew after 262 kJ or less: 11 minutes of 400 W.
READ_SECONDS = 60.0


class EnergyCounter(Protocol):
    """Joules of a part of the machine that were used for this process, since the counter was made.

    Attributes:
        name: for the record.
    """

    name: str

    def joules(self) -> float:
        """Joules so far.

        Raises:
            OSError: it can be read no more.
        """
        ...

    def close(self) -> None:
        """Reads it no more."""
        ...


class NvmlCounter:
    """GPUs that this process has, for itself or with others.

    Args:
        nvml: the module `pynvml`, initialised.
        handles: of the GPUs.
        sharing: processes that use them at a time; each counts an equal part.

    Raises:
        OSError: they have no such counter, as those before Volta and the slices of MIG.
    """

    name = "NVML"

    def __init__(self, nvml: Any, handles: list[Any], sharing: int) -> None:
        self._nvml, self._handles, self._sharing = nvml, handles, sharing
        self._begun = self._read()

    def _read(self) -> float:
        try:
            counts = [self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in self._handles]
        except self._nvml.NVMLError as error:
            raise OSError(f"NVML: {error}") from error
        return sum(counts) / 1e3

    def joules(self) -> float:
        """Joules that all the GPUs drew since the beginning, or this trial's share of them."""
        return (self._read() - self._begun) / self._sharing

    def close(self) -> None:
        """Leaves NVML as it is: others of this process may use it."""


def nvml_counter(gpus: Sequence[int], sharing: int) -> NvmlCounter | None:
    """The counter of these GPUs, by their place among the visible ones; None where NVML is not there.

    `CUDA_VISIBLE_DEVICES` names them by number, in NVML's order, or by UUID.
    """
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = [str(i) for i in range(nvml.nvmlDeviceGetCount())] if named is None else named.split(",")
        handles = [
            nvml.nvmlDeviceGetHandleByIndex(int(name))
            if name.strip().isdecimal()
            else nvml.nvmlDeviceGetHandleByUUID(name.strip())
            for name in (names[gpu] for gpu in gpus)
        ]
        return NvmlCounter(nvml, handles, sharing)
    except (nvml.NVMLError, OSError, IndexError) as error:
        logger.warning("the GPU's energy is estimated, not measured: %s", error)
        return None


class RaplCounter:
    """CPU packages and their memory, by the share that this process has in the busy time of all cores.

    Children of the process count once they have ended.

    Args:
        folder: of the kernel's power capping.
        stat: the kernel's file of the cores' times.

    Raises:
        OSError: there is no readable counter; Linux lets root alone read it, unless told otherwise.
    """

    name = "RAPL"

    def __init__(self, folder: Path = POWERCAP, stat: Path = PROC_STAT) -> None:
        self._stat = stat
        zones = [zone for zone in sorted(folder.glob("intel-rapl:*")) if _is_counted(zone)]
        if not zones:
            raise OSError(f"no RAPL counter in {folder}")
        self._ranges = {zone / "energy_uj": int((zone / "max_energy_range_uj").read_text()) for zone in zones}
        self._last = {path: int(path.read_text()) for path in self._ranges}
        self._microjoules = 0
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._own, self._busy = _process_seconds(), self._busy_seconds()
        threading.Thread(target=self._keep_reading, daemon=True).start()

    def _keep_reading(self) -> None:
        while not self._closed.wait(READ_SECONDS):
            self._read()

    def _read(self) -> None:
        with self._lock:
            for path, most in self._ranges.items():
                now = int(path.read_text())
                # The counter began anew where it has fallen.
                self._microjoules += now - self._last[path] + (most if now < self._last[path] else 0)
                self._last[path] = now

    def _busy_seconds(self) -> float:
        """Busy time of all cores since the machine started: user, nice, system, interrupts."""
        fields = [int(word) for word in self._stat.read_text().splitlines()[0].split()[1:8]]
        idle = fields[3] + fields[4]
        return (sum(fields) - idle) / os.sysconf("SC_CLK_TCK")

    def joules(self) -> float:
        """Joules that the CPU packages drew, times this process's share of their busy time."""
        self._read()
        own, busy = _process_seconds() - self._own, self._busy_seconds() - self._busy
        # The kernel's clock ticks in hundredths: a short process may seem busier than the machine.
        share = min(1.0, own / busy) if busy > 0 else 1.0
        return self._microjoules / 1e6 * share

    def close(self) -> None:
        """Ends the reading."""
        self._closed.set()


def rapl_counter() -> RaplCounter | None:
    """The counter of this machine; None where it has none that this process may read."""
    try:
        return RaplCounter()
    except OSError:
        return None


def _is_counted(zone: Path) -> bool:
    """Packages, and the memory beside them: cores and the whole platform would be counted twice."""
    name = (zone / "name").read_text().strip()
    return name.startswith("package") or name == "dram"


def _process_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
