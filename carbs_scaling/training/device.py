"""The device that a run uses, and its name."""

import torch

from carbs_scaling.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """The device called `name`; `auto` is the first GPU, or the CPU where there is none.

    Raises:
        ConfigError: there is no such GPU.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ConfigError(
                f"there is no device {name}: PyTorch sees {count} CUDA GPUs here; use the device cpu or auto"
            )
        return torch.device("cuda", device.index or 0)
    return device


def device_name(device: torch.device) -> str:
    """`cpu`, or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
