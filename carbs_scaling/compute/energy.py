"""Joules and grams of CO2 of a piece of work: measured where the machine has counters, else estimated.

    joules = watts x seconds,   grams of CO2 = joules / 3.6e6 x grams a kWh

An estimate takes the watts of a GPU from its data sheet, and `CORE_WATTS` for each busy core of a CPU.
"""

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from carbs_scaling.compute.energy_counters import EnergyCounter, nvml_counter, rapl_counter
from carbs_scaling.compute.throughput import device_named
from carbs_scaling.config import EnergyConfig
from carbs_scaling.trial import Energy, TrialOutcome

logger = logging.getLogger(__name__)

JOULES_PER_KWH = 3.6e6
# A busy core of a server: the thermal design power over the cores of AMD's EPYC 7763 (280 W, 64) is 4.4 W, of
# Intel's Xeon Platinum 8380 (270 W, 40) 6.8 W.
CORE_WATTS = 6.0


def co2_grams(joules: float, grams_per_kwh: float) -> float:
    """Grams of CO2 of so many joules."""
    return joules / JOULES_PER_KWH * grams_per_kwh


class EnergyMeter:
    """Measures what this process uses from now on, or estimates it.

    Args:
        config: how.
        gpus: that it uses, by their place among the visible ones; none on the CPU.
        sharing: processes that use these GPUs at a time; each counts an equal part.
    """

    def __init__(self, config: EnergyConfig, gpus: Sequence[int], sharing: int = 1) -> None:
        self._config, self._gpus, self._sharing = config, gpus, sharing
        self._counters: list[EnergyCounter] = []
        if config.measure:
            of_gpus = nvml_counter(gpus, sharing) if gpus else None
            # Without the GPU's counter that of the CPU beside it would be the small part of a whole.
            if of_gpus is not None or not gpus:
                found = (of_gpus, rapl_counter())
                self._counters = [counter for counter in found if counter is not None]
        self._begun, self._cpu_begun = time.monotonic(), _cpu_seconds()

    def close(self) -> None:
        """Ends the measurement."""
        for counter in self._counters:
            counter.close()

    def energy(self, device: str, seconds: float = 0.0, processes: int = 1) -> Energy | None:
        """What was used so far; None where nothing is known of the device.

        Args:
            device: PyTorch's name of it, such as `NVIDIA H100 80GB HBM3`.
            seconds: of the whole run. Where it is longer than this process measured, since it went on from
                a checkpoint, the part before counts with the same power.
            processes: that do the same work, each on a device of its own.
        """
        own = max(time.monotonic() - self._begun, 1e-9)
        joules, source = self._measured() or self._estimated(device, own)
        if joules is None:
            return None
        joules *= processes * max(seconds, own) / own
        return Energy(joules, co2_grams(joules, self._config.intensity), source)

    def _measured(self) -> tuple[float, str] | None:
        if not self._counters:
            return None
        try:
            joules = sum(counter.joules() for counter in self._counters)
        except OSError as error:
            logger.warning("energy is estimated, not measured: %s", error)
            return None
        return joules, "measured: " + " + ".join(counter.name for counter in self._counters)

    def _estimated(self, device: str, seconds: float) -> tuple[float | None, str]:
        if not self._gpus:
            busy = _cpu_seconds() - self._cpu_begun
            watts = CORE_WATTS if self._config.watts is None else self._config.watts
            return watts * busy, f"estimated: {watts:g} W a busy core"
        each = self._config.watts
        if each is None:
            known = device_named(device)
            if known is None:
                return None, ""
            each = known.watts
        return each * len(self._gpus) / self._sharing * seconds, f"estimated: {each:g} W a GPU"


def _cpu_seconds() -> float:
    """Busy time of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def gpus_here(device: str, most: int = 1) -> Sequence[int]:
    """GPUs, at most `most`, that a run on `device` uses in this process, by their place among the visible."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if device == "cpu" or visible == "":
        return ()
    if ":" in device:
        return (int(device.split(":")[1]),)
    if visible is not None:
        return range(min(most, len(visible.split(","))))
    import torch

    return range(min(most, torch.cuda.device_count()))


@dataclass(frozen=True)
class MeteredJob:
    """A job whose outcome says what energy it took; picklable.

    Args:
        job: of an executor.
        config: how its energy is found.
        device: `auto`, `cpu`, `cuda` or `cuda:1`.
        gpus: that it may use.
        sharing: jobs that share them at a time.
    """

    job: Callable[[], TrialOutcome]
    config: EnergyConfig
    device: str
    gpus: int = 1
    sharing: int = 1

    def __call__(self) -> TrialOutcome:
        meter = EnergyMeter(self.config, gpus_here(self.device, self.gpus), self.sharing)
        try:
            outcome = self.job()
            return replace(outcome, energy=meter.energy(outcome.device, outcome.seconds))
        finally:
            meter.close()
