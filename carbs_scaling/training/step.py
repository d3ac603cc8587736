"""One step of training: passes, clipping, update. On a GPU captured once and replayed where that pays.

A step of a small model is some hundred kernels, each of which the GPU runs faster than Python can launch
it. A CUDA graph launches them all at once: the same kernels in the same order, with the same losses.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import ClassVar

import torch
from torch import nn

from carbs_scaling.models.build import token_losses
from carbs_scaling.training.losses import Losses, TokenLosses

logger = logging.getLogger(__name__)

TOKEN_LOSSES = TokenLosses()
# Steps before the capture, which allocate the optimizer's state and let libraries choose their kernels.
WARM_UP_STEPS = 3
# Parts of the message of a plain RuntimeError that mean "out of memory": the CPU's allocator, and cuBLAS.
OUT_OF_MEMORY_TEXTS = (
    "DefaultCPUAllocator: can't allocate",
    "DefaultCPUAllocator: not enough",
    "STATUS_ALLOC_FAILED",
)


def accumulate_gradients(
    model: nn.Module,
    batch: torch.Tensor,
    micro_batch: int,
    after_part: Callable[[float], None] | None = None,
    losses: Losses = TOKEN_LOSSES,
) -> torch.Tensor:
    """Add the gradient of the mean loss of `batch` to the parameters, `micro_batch` windows at a time.

    A mixture of experts adds its routers' auxiliary loss, whose value depends on which windows are taken at
    once, and which is not part of the loss that is returned.

    Args:
        model: inputs to scores.
        batch: of windows or examples, [b, ...].
        micro_batch: windows in memory at once; the gradient is that of the whole batch.
        after_part: called with a part's share of the batch once its gradient has been added.
        losses: of a batch.

    Returns:
        Mean loss in nats, [] on the model's device; the GPU may still be computing it.
    """
    total = torch.zeros((), device=batch.device)
    counted = losses.counted(batch)
    for windows in torch.split(batch, micro_batch):
        share = losses.counted(windows) / counted
        loss = backward(model, windows, share, losses)
        if after_part is not None:
            after_part(float(share))
        total += loss
    return total


def backward(
    model: nn.Module, windows: torch.Tensor, share: float | torch.Tensor, losses: Losses = TOKEN_LOSSES
) -> torch.Tensor:
    """Add the gradient of `share` times the mean loss, and times the auxiliary loss, to the parameters.

    Returns:
        `share` times the mean loss in nats, [], without the auxiliary loss.
    """
    with autocast(windows.device):
        loss, auxiliary = losses(model, windows)
        loss = loss * share
        objective = loss if auxiliary is None else loss + auxiliary * share
    torch.autograd.backward(objective)
    return loss.detach()


def window_loss(model: nn.Module, windows: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """Cross-entropy of the last T ids of each window given the first T, in nats: int64 [b, T + 1] -> []."""
    return token_losses(model, windows, reduction)[0]


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 on a GPU that has it; float32 elsewhere, which is faster there at these sizes."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()


def precision(device: torch.device) -> str:
    """What the matrix products of a training step are computed in, for the record."""
    return "float32" if isinstance(autocast(device), nullcontext) else "bfloat16 autocast"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator of the CPU or a GPU was out of memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY_TEXTS)


class TrainingStep:
    """Forward and backward passes over a batch, clipping and update.

    Args:
        model: tokens to scores.
        optimizer: over the model's parameters.
        micro_batch: windows in memory at once.
        clip_norm: largest norm of the whole gradient; infinite for no clipping.
        losses: of a batch.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        micro_batch: int,
        clip_norm: float,
        losses: Losses = TOKEN_LOSSES,
    ) -> None:
        self.model, self.losses = model, losses
        self.optimizer = optimizer
        self.micro_batch = micro_batch
        self._clip_norm = clip_norm
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Take one step on a batch; returns its mean loss, [] on the device."""
        loss = self.fitting(lambda: self.gradients(batch))
        self.update()
        return loss

    def gradients(self, batch: torch.Tensor) -> torch.Tensor:
        """Put the gradient of the batch on the parameters; returns its mean loss, [] on the device."""
        self.optimizer.zero_grad(set_to_none=True)
        return accumulate_gradients(self.model, batch, self.micro_batch, None, self.losses)

    def fitting(self, passes: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Run the passes of a step; out of memory, halve the micro-batch and run them again.

        Raises:
            MemoryError, RuntimeError: a single window does not fit, or what is no lack of memory.
        """
        while True:
            try:
                return passes()
            except (MemoryError, RuntimeError) as error:
                if self.micro_batch <= 1 or not is_out_of_memory(error):
                    raise
            # Outside of the handler, whose traceback holds the tensors that did not fit.
            self.optimizer.zero_grad(set_to_none=True)
            self.micro_batch = -(-self.micro_batch // 2)
            logger.warning("out of memory: going on with %d sequences at once", self.micro_batch)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def update(self) -> None:
        """Clip the gradients and move the parameters."""
        if self._clip_norm != float("inf"):
            nn.utils.clip_grad_norm_(self.parameters, self._clip_norm, foreach=True)
        self.optimizer.step()


class GraphedStep(TrainingStep):
    """The same step as a CUDA graph, captured after a few ordinary steps. Batches must keep their shape.

    Where the capture fails, kernels are launched one by one, and the log gives the reason. After a failure
    other than lack of memory, this process captures no more: PyTorch's allocator can then no longer give
    cached memory back.
    """

    works: ClassVar[bool] = True

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        micro_batch: int,
        clip_norm: float,
        losses: Losses = TOKEN_LOSSES,
    ) -> None:
        super().__init__(model, optimizer, micro_batch, clip_norm, losses)
        self._warm_up = WARM_UP_STEPS
        self._stream = _side_stream(torch.cuda.current_device())
        self._graph: torch.cuda.CUDAGraph | None = None
        self._batch = self._loss = torch.empty(0)

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        if self._warm_up > 0:
            self._warm_up -= 1
            loss = self._launched(batch)
            if self._warm_up == 0 and GraphedStep.works:
                self._capture(batch)
            return loss
        if self._graph is None or batch.shape != self._batch.shape:
            return self._launched(batch)
        self._batch.copy_(batch, non_blocking=True)
        self._graph.replay()
        return self._loss.clone()

    def _launched(self, batch: torch.Tensor) -> torch.Tensor:
        """A step, kernel by kernel, on the stream of the capture.

        Libraries then allocate their workspaces for it: the default stream cannot be captured. And autograd
        warns where gradients come from another stream than before.
        """
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            loss = super().__call__(batch)
        torch.cuda.current_stream().wait_stream(self._stream)
        return loss

    def _capture(self, batch: torch.Tensor) -> None:
        """Record a step without running it."""
        for group in self.optimizer.param_groups:
            # A graph reads the learning rate from the GPU, where the scheduler then writes it.
            group["lr"] = torch.tensor(float(group["lr"]), device=batch.device)
            if "capturable" in group:
                group["capturable"] = True
        self._batch = batch.clone()
        graph = torch.cuda.CUDAGraph()
        try:
            # Without gradients at its start, a replay writes them anew and does not add to the last ones.
            self.optimizer.zero_grad(set_to_none=True)
            # The outer context puts the stream back, which a failing capture does not.
            with torch.cuda.stream(self._stream), torch.cuda.graph(graph, stream=self._stream):
                self._loss = self.gradients(self._batch)
                self.update()
            self._graph = graph
        except RuntimeError as error:
            cause = error.__context__ or error  # what went wrong inside; ending the capture then fails too
            self.optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            GraphedStep.works = is_out_of_memory(cause)
            logger.warning("steps are launched one by one: %s", str(cause).splitlines()[0])


@cache
def _side_stream(device: int) -> torch.cuda.Stream:
    """One for all trials of a process: cuBLAS keeps a workspace for each it ever ran on, 65 MB on an H100."""
    return torch.cuda.Stream(device)
