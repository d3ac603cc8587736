"""The mean loss of a model on held-out windows."""

from contextlib import nullcontext

import torch
from torch import nn

from carbs_scaling.data.windows import Indices, Windows
from carbs_scaling.training.batches import device_batches
from carbs_scaling.training.step import autocast, window_loss

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
) -> float:
    """Mean loss of the windows `indices`, int64 [n], in nats a token; in float32, or as it is trained."""
    model.eval()
    most_tokens = min(
        EVALUATION_SCORES[device.type] // windows.vocabulary_size, EVALUATION_TOKENS[device.type]
    )
    batch_size = max(1, most_tokens // windows.sequence_length)
    total = torch.zeros((), dtype=torch.float64, device=device)
    chunks = (indices[start : start + batch_size] for start in range(0, len(indices), batch_size))
    for batch in device_batches(windows, chunks, device):
        with nullcontext() if in_float32 else autocast(device):
            total += window_loss(model, batch, reduction="sum")
    return total.item() / (len(indices) * windows.sequence_length)
