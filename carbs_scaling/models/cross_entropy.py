"""Cross-entropy over a large vocabulary, a part of the tokens at a time.

The scores of 1,024 tokens over 50,257 words are 206 MB, and the plain loss holds three tensors of that size.
On the CPU, memory of this size goes back to the system after every step, and the 200,000 page faults that
bring it back take as long as the arithmetic; in parts there are a tenth of them
(`benchmarks/cross_entropy.py`). On a GPU the scores are what limits the batch. Here the gradient of each
part is taken at once, when its loss is known: the same three matrix products, and nothing computed twice.
"""

from typing import Any

import torch
from torch.nn.functional import cross_entropy, linear, pad

from carbs_scaling.models.activations import SCORES_AT_ONCE

# Words of a GPU's scores are filled up to a multiple of this: with 50,257 the three products took 85 of
# 218 ms of a step of 2e8 parameters on an H200, since rows of an odd length fit none of the fast kernels.
WORDS_STEP = {"cuda": 64}


def is_large(tokens: int, vocabulary_size: int, device: torch.device) -> bool:
    """Whether the scores of so many tokens are taken in parts."""
    return tokens * vocabulary_size > scores_at_once(device.type)


def scores_at_once(device_type: str) -> int:
    """Most scores that a part holds on a kind of device."""
    return SCORES_AT_ONCE.get(device_type, SCORES_AT_ONCE["cuda"])


def linear_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, reduction: str
) -> torch.Tensor:
    """Cross-entropy of `hidden @ weight.T`, which is never whole.

    Args:
        hidden: [n, d].
        weight: [V, d], the output head.
        targets: int64 [n].
        reduction: `mean` or `sum`.

    Returns:
        The loss in nats, [], in float32.
    """
    rows = max(1, scores_at_once(hidden.device.type) // len(weight))
    scale = 1 / len(targets) if reduction == "mean" else 1.0
    if not torch.is_grad_enabled():
        parts = zip(hidden.split(rows), targets.split(rows), strict=True)
        losses = [cross_entropy(linear(h, weight), t, reduction="sum") for h, t in parts]
        return scale * torch.stack(losses).sum()
    loss: torch.Tensor = _LinearCrossEntropy.apply(hidden, weight, targets, rows, scale)  # type: ignore[no-untyped-call]
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    """Takes both gradients in the forward pass. Its backward pass runs once: it scales them in place."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, rows: int, scale: float
    ) -> torch.Tensor:
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        with torch.autocast(kind, enabled=False):
            words = len(weight)
            matrix, missing = weight.to(dtype), -words % WORDS_STEP.get(kind, 1)
            if missing:
                matrix = pad(matrix, (0, 0, 0, missing))
            grad_hidden = torch.empty_like(hidden)
            grad_weight = torch.zeros_like(weight)
            scores = torch.empty(min(rows, len(hidden)), len(matrix), dtype=dtype, device=hidden.device)
            total = torch.zeros((), device=hidden.device)
            for start in range(0, len(hidden), rows):
                part = hidden[start : start + rows].to(dtype)
                answers = targets[start : start + rows, None]
                filled = scores[: len(part)]  # where there is no word it stays 0
                torch.mm(part, matrix.t(), out=filled)
                logs = torch.log_softmax(filled[:, :words], dim=-1, dtype=torch.float32)
                total -= logs.gather(1, answers).sum()
                errors = logs.exp_()
                errors.scatter_add_(1, answers, errors.new_full(answers.shape, -1.0)).mul_(scale)
                if errors.dtype != dtype or len(matrix) > words:
                    filled[:, :words] = errors
                    errors = filled
                grad_hidden[start : start + rows] = errors @ matrix
                if dtype == weight.dtype:
                    grad_weight.addmm_(errors[:, :words].t(), part)
                else:
                    grad_weight += (errors.t() @ part)[:words]
                del logs, errors  # before the next part has its own
        ctx.save_for_backward(grad_hidden, grad_weight)
        return total * scale

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden.mul_(grad_output), grad_weight.mul_(grad_output), None, None, None
