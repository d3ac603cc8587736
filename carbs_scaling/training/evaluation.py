"""The mean loss of a model on held-out windows, and which classes it takes for which."""

from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from carbs_scaling.data.windows import Indices, Windows
from carbs_scaling.training.batches import device_batches
from carbs_scaling.training.losses import LabelLosses, Losses
from carbs_scaling.training.step import TOKEN_LOSSES, autocast

# Most scores held at once in an evaluation, V of them a token: 64 MB on the CPU, 1 GB on a GPU.
EVALUATION_SCORES = {"cpu": 1 << 24, "cuda": 1 << 28}
# Most tokens at once in an evaluation: more do not fit a CPU's caches, fewer do not fill a GPU.
EVALUATION_TOKENS = {"cpu": 1 << 12, "cuda": 1 << 17}


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    windows: Windows,
    indices: Indices,
    device: torch.device,
    in_float32: bool = False,
    losses: Losses = TOKEN_LOSSES,
) -> float:
    """Mean loss of the windows `indices`, int64 [n], in nats; in float32, or as it is trained."""
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=device)
    counted: float | torch.Tensor = 0
    for batch in device_batches(windows, _chunks(windows, indices, device), device):
        with nullcontext() if in_float32 else autocast(device):
            total += losses(model, batch, reduction="sum")[0]
        counted = counted + losses.counted(batch)
    return total.item() / float(counted)


@torch.inference_mode()
def confusion(
    model: nn.Module, windows: Windows, indices: Indices, device: torch.device, losses: LabelLosses
) -> npt.NDArray[np.int64]:
    """How many examples of each class are taken for each: int64 [true class, predicted class]."""
    model.eval()
    counts = torch.zeros(windows.vocabulary_size**2, dtype=torch.int64, device=device)
    for batch in device_batches(windows, _chunks(windows, indices, device), device):
        with autocast(device):
            predicted = losses.scores(model, batch).argmax(dim=1)
        cells = losses.labels(batch) * windows.vocabulary_size + predicted
        counts += torch.bincount(cells, minlength=len(counts))
    return counts.view(windows.vocabulary_size, -1).cpu().numpy()


def _chunks(windows: Windows, indices: Indices, device: torch.device) -> Iterator[Indices]:
    """Windows that are scored together."""
    most_tokens = min(
        EVALUATION_SCORES[device.type] // windows.vocabulary_size, EVALUATION_TOKENS[device.type]
    )
    batch_size = max(1, most_tokens // windows.sequence_length)
    return (indices[start : start + batch_size] for start in range(0, len(indices), batch_size))
