"""Batches of windows, read and sent to the device ahead of their use."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from carbs_scaling.data.windows import Indices, Windows

# Tokens that are sent to a GPU together: some milliseconds of reading.
PARCEL_TOKENS = 1 << 17


def device_batches(
    windows: Windows, order: Iterable[Indices], device: torch.device
) -> Iterator[torch.Tensor]:
    """Batches on the device, int64 [b, T + 1], read and sent while the GPU works on earlier ones.

    Several small batches are sent together: each copy has a fixed cost.
    """
    if device.type != "cuda":
        yield from (windows.read(indices) for indices in order)
        return
    ahead: tuple[torch.Tensor, ...] = ()
    for together in _parcels(order, PARCEL_TOKENS // windows.sequence_length):
        ids = windows.read(np.concatenate(together)).pin_memory().to(device, non_blocking=True)
        yield from ahead
        ahead = torch.split(ids, [len(indices) for indices in together])
    yield from ahead


def _parcels(order: Iterable[Indices], most_windows: int) -> Iterator[list[Indices]]:
    """Consecutive batches of at most `most_windows` windows together, or one batch that alone has more."""
    parcel: list[Indices] = []
    for indices in order:
        if parcel and sum(map(len, parcel)) + len(indices) > most_windows:
            yield parcel
            parcel = []
        parcel.append(indices)
    if parcel:
        yield parcel
