"""FLOPs a second of devices: a table of peaks and the share that training reaches, or a measurement."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from carbs_scaling.errors import ConfigError


@dataclass(frozen=True)
class Device:
    """A GPU as its data sheet has it.

    Args:
        peak_flops: bf16 matrix multiplications a second, dense, with float32 sums.
        memory_bytes: of one GPU.
        watts: most that the board draws.
        source: of all three.
    """

    peak_flops: float
    memory_bytes: float
    watts: float
    source: str


# Data sheets often print the peak with 2:4 sparsity, twice the dense one; here it is halved.
DEVICES = {
    "a10": Device(125e12, 24e9, 150, "NVIDIA A10 data sheet"),
    "a100": Device(312e12, 80e9, 400, "NVIDIA A100 80GB SXM data sheet"),
    "b200": Device(2250e12, 180e9, 1000, "NVIDIA HGX B200 data sheet: 36 PFLOPS for 8, sparse"),
    "h100": Device(989e12, 80e9, 700, "NVIDIA H100 SXM data sheet: 1,979 sparse"),
    "h100pcie": Device(756e12, 80e9, 350, "NVIDIA H100 PCIe data sheet: 1,513 sparse"),
    "h200": Device(989e12, 141e9, 700, "NVIDIA H200 SXM data sheet: 1,979 sparse"),
    "l4": Device(121e12, 24e9, 72, "NVIDIA L4 data sheet: 242 sparse"),
    "l40s": Device(362e12, 48e9, 350, "NVIDIA L40S data sheet: 733 sparse, 362.05 dense"),
    "rtx3090": Device(71e12, 24e9, 350, "NVIDIA GA102 white paper, appendix A"),
    "rtx4090": Device(165e12, 24e9, 450, "NVIDIA Ada white paper, appendix A: 165.2 dense"),
}


def device_called(name: str) -> Device:
    """The entry of `DEVICES`, in any case.

    Raises:
        ConfigError: it is not in the table.
    """
    found = DEVICES.get(name.lower())
    if found is None:
        raise ConfigError(
            f"gpu={name} is not in the table: choose from {', '.join(DEVICES)}, or use probe=true"
        )
    return found


def device_named(name: str) -> Device | None:
    """The entry of PyTorch's name of a device, such as `NVIDIA H100 80GB HBM3`; None where it is not there.

    Whole words of the name are compared, one or two of them: an L40 is no L4.
    """
    words = re.findall("[a-z0-9]+", name.lower())
    named = {*words, *(first + second for first, second in pairwise(words))}
    found = max((key for key in DEVICES if key in named), key=len, default=None)
    return None if found is None else DEVICES[found]


@dataclass(frozen=True)
class Throughput:
    """FLOPs a second of one device by model size; between sizes a straight line in the logs, level outside.

    Args:
        params: N of the sizes, rising, shape (k,).
        flops_per_second: at them, shape (k,).
        source: for the report.
        trial_seconds: what a trial of a search takes beside its training: proposing, building, scoring.
    """

    params: Sequence[float]
    flops_per_second: Sequence[float]
    source: str
    trial_seconds: float = 10.0

    def at(self, params: float) -> float:
        """FLOPs a second of one device for a model of N parameters."""
        return float(np.exp(np.interp(np.log(params), np.log(self.params), np.log(self.flops_per_second))))


def table_throughput(name: str, utilization: float) -> Throughput:
    """What a device of the table reaches at a utilisation.

    Raises:
        ConfigError: the device is not in the table.
    """
    device = device_called(name)
    source = f"{utilization:.0%} of {device.peak_flops / 1e12:.0f} TFLOP/s ({device.source})"
    return Throughput((1.0,), (device.peak_flops * utilization,), source)
