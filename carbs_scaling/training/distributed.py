"""One run on several devices: processes started by `torchrun`, one a GPU, each with its share of every batch.

DDP keeps a whole copy of the model in each process. FSDP2 (`fully_shard`) splits weights, gradients and
optimizer state over them, and gathers one block at a time, in float32, so that autocast rounds as it does on
one device. Either way a step is the one that a single process takes with the same batch, but for the order
of sums.
"""

import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from carbs_scaling.data.windows import Indices
from carbs_scaling.errors import ConfigError
from carbs_scaling.training.checkpoint import Checkpoint, CheckpointPlan, load_checkpoint
from carbs_scaling.training.config import ObjectiveConfig
from carbs_scaling.training.losses import Losses
from carbs_scaling.training.recipe import Recipe
from carbs_scaling.training.step import TrainingStep, backward

T = TypeVar("T")

# Optimizers that treat each weight by itself, so that a shard is updated as that part of the whole is.
SHARDED_OPTIMIZERS = frozenset({"adam", "adamw", "nadam", "sgd"})
# How long the others wait while the first process tokenizes a text or writes a checkpoint. A process that
# dies meanwhile is noticed at once.
PATIENCE = timedelta(days=2)


class Ranks:
    """The processes of one run, as one of them sees them. With one process nothing here does anything.

    Args:
        rank: 0-based number of this process; the first shows the progress and writes all files.
        size: number of processes.
        parallel: `ddp` or `fsdp`.
        device: of this process.
    """

    def __init__(
        self, rank: int = 0, size: int = 1, parallel: str = "ddp", device: torch.device | None = None
    ) -> None:
        self.rank, self.size, self.parallel = rank, size, parallel
        self.device = device or torch.device("cpu")
        self._parent = os.getppid()
        # Through the CPU, so that a flag does not wait for the GPU's work.
        self._talk = dist.new_group(backend="gloo", timeout=PATIENCE) if size > 1 else None

    @property
    def first(self) -> bool:
        """Whether this process shows the progress and writes the files."""
        return self.rank == 0

    @property
    def orphaned(self) -> bool:
        """Whether the program that started the processes is gone: nobody would end them."""
        return self.size > 1 and os.getppid() != self._parent

    @property
    def _shards(self) -> bool:
        return self.size > 1 and self.parallel == "fsdp"

    def check(self, recipe: Recipe, optimizer: str, objective: ObjectiveConfig, compiled: bool) -> None:
        """Refuses what several processes cannot train.

        Raises:
            ConfigError: one line that says what to change.
        """
        if self.size == 1:
            return
        if recipe.batch_size < self.size:
            raise ConfigError(
                f"a batch of {recipe.batch_size} sequences cannot be split over {self.size} processes: start "
                f"at most {recipe.batch_size}"
            )
        if objective.gradient_noise_scale:
            raise ConfigError(
                "the gradient noise scale is measured by one process only: add "
                "objective.gradient_noise_scale=false"
            )
        if self._shards and optimizer not in SHARDED_OPTIMIZERS:
            raise ConfigError(
                f"optimizer {optimizer} does not work on the shards of train.parallel=fsdp: use "
                f"train.parallel=ddp, or one of {', '.join(sorted(SHARDED_OPTIMIZERS))}"
            )
        if self._shards and compiled:
            raise ConfigError("training.compile=true works with train.parallel=ddp, not with fsdp")

    def share(self, indices: Indices) -> Indices:
        """This process's part of the windows of a batch, int64 [b] -> [b / size]; the first have one more."""
        return indices if self.size == 1 else np.array_split(indices, self.size)[self.rank]

    def place(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The model on the device; under FSDP2 this process's shard of each block and of the rest."""
        if not self._shards:
            return model.to(device)
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(device.type, (self.size,))
        lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
        for block in max(lists, key=len, default=nn.ModuleList()):
            fully_shard(block, mesh=mesh)  # moves the block to the device and keeps the shard
        fully_shard(model, mesh=mesh)
        # Head and embedding are whole only inside of the model's own forward pass.
        model.has_plain_head = False  # type: ignore[assignment]
        return model

    def step(
        self,
        forward: nn.Module,
        optimizer: torch.optim.Optimizer,
        batch_size: int,
        micro_batch: int,
        clip_norm: float,
        losses: Losses,
    ) -> TrainingStep:
        """A step of this process on its share of a batch; see `TrainingStep`."""
        if self._shards:
            if isinstance(optimizer, torch.optim.SGD):
                for group in optimizer.param_groups:
                    group["fused"] = False  # PyTorch has no fused SGD for shards
        else:
            forward = nn.parallel.DistributedDataParallel(
                forward,
                device_ids=[self.device.index] if self.device.type == "cuda" else None,
                gradient_as_bucket_view=True,  # no second copy of the gradients
            )
        largest = -(-batch_size // self.size)
        at_once = min(micro_batch, largest)
        return _SharedStep(forward, optimizer, at_once, clip_norm, batch_size, self.size, losses)

    def mean(self, losses: torch.Tensor) -> list[float]:
        """Means over the processes of values on their devices, [n]."""
        if self.size > 1:
            dist.all_reduce(losses)
            losses = losses / self.size
        values: list[float] = losses.tolist()
        return values

    def mean_loss(self, score: Callable[[Indices], float], indices: Indices) -> float:
        """The mean loss of windows, scored in equal parts; what is left over is scored by all alike.

        Args:
            score: mean loss of some windows. Under FSDP2 all processes must call the model equally often.
            indices: of the windows, int64 [n].
        """
        if self.size == 1:
            return score(indices)
        even = len(indices) - len(indices) % self.size
        total = 0.0
        if even:
            total += score(self.share(indices[:even])) * even
        if even < len(indices):
            total += score(indices[even:]) * (len(indices) - even)
        sums = torch.tensor([total], dtype=torch.float64, device=self.device)
        return self.mean(sums)[0] / len(indices)

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether some process has it up."""
        if self.size == 1:
            return list(flags)
        up = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(up, op=dist.ReduceOp.MAX, group=self._talk)
        return [bool(flag) for flag in up.tolist()]

    def on_first(self, action: Callable[[], T]) -> T | None:
        """The first process does something and the others wait, however long.

        Returns:
            What `action` gave to the first process, None in the others. Where it fails the others end without
            a word: the first one has the error.
        """
        if self.size == 1:
            return action()
        done = torch.zeros(1, dtype=torch.uint8)
        result: T | None = None
        try:
            if self.first:
                result = action()
                done.fill_(1)
        finally:
            dist.broadcast(done, src=0, group=self._talk)
        if not done.item():
            raise SystemExit(1)
        return result

    def first_then_all(self, action: Callable[[], T]) -> T:
        """All do the same, the first one before the others, who then find its files."""
        result = self.on_first(action)
        return cast(T, result) if self.first else action()

    def device_name(self, name: str) -> str:
        """The devices of the run, from the name of one."""
        return name if self.size == 1 else f"{self.size} x {name}"

    def whole(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Tensors of `checkpoint.run_tensors` in full for the first process; empty for the others."""
        if not self._shards:
            return tensors if self.first else {}
        from torch.distributed.tensor import DTensor

        gathered = {}
        for name, tensor in tensors.items():
            # One after the other, each off the GPU before the next: together they may not fit there.
            full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if self.first:
                gathered[name] = full.cpu()
        return gathered

    def gathered(self, model: nn.Module, build: Callable[[], nn.Module]) -> nn.Module:
        """The model in full for the first process, to be saved.

        Args:
            model: as it was trained.
            build: makes another one of its shape.
        """
        if not self._shards:
            return model
        tensors = self.whole({name: p.detach() for name, p in model.named_parameters()})
        if not self.first:
            return model
        full = build()
        with torch.no_grad():
            for name, parameter in full.named_parameters():
                parameter.copy_(tensors[name])
        return full

    def load(self, plan: CheckpointPlan) -> Checkpoint | None:
        """The last whole checkpoint, read by the first process; the others get it without its tensors."""
        found = load_checkpoint(plan) if self.first else None
        if self.size == 1:
            return found
        head = self._from_first(None if found is None else [found.step, found.state])
        if head is None:
            return None
        return Checkpoint(head[0], head[1], {} if found is None else found.tensors)

    def laid_out(
        self, tensors: dict[str, torch.Tensor], model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> dict[str, torch.Tensor]:
        """The first process's whole tensors as `checkpoint.restore_tensors` needs them in each process."""
        if self.size == 1:
            return tensors
        kinds = {str(kind): kind for kind in (torch.float32, torch.bfloat16, torch.int64, torch.uint8)}
        heads = self._from_first([(name, list(t.shape), str(t.dtype)) for name, t in tensors.items()])
        named = dict(model.named_parameters())
        numbered = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        result = {}
        for name, shape, dtype in heads:
            if self.first:
                tensor = tensors[name].to(self.device)
            else:
                tensor = torch.empty(shape, dtype=kinds[dtype], device=self.device)
            dist.broadcast(tensor, src=0)
            part, rest = name.split(".", 1)
            owner = named[rest] if part == "model" else numbered[int(rest.split(".")[0])]
            result[name] = _like(owner, tensor)
        return result

    def _from_first(self, value: Any) -> Any:
        """A plain JSON value of the first process, in all of them."""
        text = json.dumps(value).encode() if self.first else b""
        length = torch.tensor([len(text)])
        dist.broadcast(length, src=0, group=self._talk)
        content = torch.empty(int(length), dtype=torch.uint8)
        if self.first:
            content = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        dist.broadcast(content, src=0, group=self._talk)
        return json.loads(content.numpy().tobytes())


def _like(owner: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """A whole tensor as the parameter that it belongs to is held; a scalar on the CPU."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if tensor.ndim == 0:
        return tensor.cpu()
    if isinstance(owner, DTensor) and tensor.shape == owner.shape:
        return distribute_tensor(tensor, owner.device_mesh, owner.placements, src_data_rank=None)
    return tensor


class _SharedStep(TrainingStep):
    """A step on this process's share of a batch. The mean of its loss over processes is that of the batch.

    All processes take equally many passes, as FSDP2's gathering needs. DDP sums gradients in the last one
    alone. FSDP2 does in each: to wait it would have to hold them whole.

    Args:
        model, optimizer, micro_batch, clip_norm, losses: see `TrainingStep`.
        batch_size: windows of the whole batch.
        size: number of processes.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        micro_batch: int,
        clip_norm: float,
        batch_size: int,
        size: int,
        losses: Losses,
    ) -> None:
        super().__init__(model, optimizer, micro_batch, clip_norm, losses)
        self._batch_size, self._size = batch_size, size

    def gradients(self, batch: torch.Tensor) -> torch.Tensor:
        """Put the gradient of the whole batch on the parameters, from this process's share [b, T + 1]."""
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=batch.device)
        passes = -(-self._batch_size // self._size // self.micro_batch)
        parts = torch.tensor_split(batch, passes)
        for number, windows in enumerate(parts, start=1):
            # Averaged over processes, which also sums.
            share = self._size * len(windows) / self._batch_size
            with self._summed_if(number == passes):
                # A process with fewer windows than passes takes one for nothing.
                total += backward(self.model, windows if len(windows) else batch[:1], share, self.losses)
        return total

    def fitting(self, passes: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Run the passes. Out of memory ends the run: the other processes are in the middle of theirs."""
        return passes()

    def _summed_if(self, last: bool) -> AbstractContextManager[None]:
        if last or not isinstance(self.model, nn.parallel.DistributedDataParallel):
            return nullcontext()
        return self.model.no_sync()
