"""What one trial may need of a device's memory, and which points keep to it by estimate."""

import math
from dataclasses import dataclass, field

from carbs_scaling.compute.memory import training_memory_bytes
from carbs_scaling.config import ExecutorConfig, SearchConfig
from carbs_scaling.errors import ConfigError
from carbs_scaling.tasks.language_model_space import Point, Space
from carbs_scaling.training.loop import micro_batch_size

# The rest is for holes between the allocator's blocks, and at least so many bytes a worker for the CUDA
# context, its libraries, and what a CUDA graph holds on top.
USABLE_SHARE, WORKER_BYTES = 0.9, 1e9


@dataclass(frozen=True)
class MemoryLimit:
    """Says of a legal point whether its run fits into `limit_bytes` by estimate.

    Args:
        space: whose legal points are asked about.
        limit_bytes: what one trial may need.
        optimizer: `adamw` or `sgd`.
        bytes_per_activation: see `compute.memory.activation_bytes`.
        micro_batch_tokens: tokens in memory at once; None for the whole batch.
    """

    space: Space
    limit_bytes: int
    optimizer: str
    bytes_per_activation: int
    micro_batch_tokens: int | None
    _known: dict = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, point: Point) -> bool:
        return self.needed_bytes(point) <= self.limit_bytes

    def needed_bytes(self, point: Point) -> int:
        """The estimate for a legal point; kept, since a proposal asks for some thousand of them."""
        values = {**self.space.fixed, **point}
        key = values["width"], values["depth"], values["batch_size"]
        if key not in self._known:
            recipe = self.space.recipe(point, seed=0)
            sequences = micro_batch_size(recipe, self.micro_batch_tokens)
            self._known[key] = training_memory_bytes(
                recipe.shape, sequences, self.optimizer, self.bytes_per_activation
            )
        return self._known[key]

    def require_some_run(self) -> None:
        """Refuses a limit that not even the narrowest, shallowest model with the smallest batch keeps.

        Raises:
            ConfigError: says how much that one needs.
        """
        smallest = self.space.project({name: d.low for name, d in self.space.searched.items()})
        needed = self.needed_bytes(smallest)
        if needed > self.limit_bytes:
            recipe = self.space.recipe(smallest, seed=0)
            sequences = micro_batch_size(recipe, self.micro_batch_tokens)
            raise ConfigError(
                f"the smallest run of this space (width {recipe.shape.width}, depth {recipe.shape.depth}, "
                f"{sequences * recipe.shape.sequence_length:,} tokens at once) needs {needed:,} bytes of "
                f"memory by estimate, over the {self.limit_bytes:,} that a trial may need: raise "
                "executor.memory_bytes, or lower space.width, space.depth, space.batch_size or "
                "executor.micro_batch_tokens"
            )


def memory_limit(config: SearchConfig, space: Space) -> MemoryLimit | None:
    """The limit that `executor` sets on the points of a search; None where there is none.

    Raises:
        ConfigError: no run of the space keeps to it.
    """
    executor = config.executor
    limit_bytes = gpu_share_bytes(executor) if executor.memory_bytes is None else executor.memory_bytes
    if limit_bytes is None:
        return None
    limit = MemoryLimit(
        space,
        limit_bytes,
        config.optimizer.name,
        activation_size(executor.device),
        executor.micro_batch_tokens,
    )
    limit.require_some_run()
    return limit


def gpu_share_bytes(executor: ExecutorConfig) -> int | None:
    """`USABLE_SHARE` of the smallest GPU in use, over the workers on it; None where trials run on the CPU.

    At least `WORKER_BYTES` are left to each worker.
    """
    import torch

    if executor.device == "cpu" or not torch.cuda.is_available():
        return None
    gpus = torch.cuda.device_count()
    workers = 1 if executor.name == "in_process" else executor.workers or gpus
    used = range(min(gpus, workers))  # workers take the GPUs in turn
    smallest = min(torch.cuda.get_device_properties(gpu).total_memory for gpu in used)
    share = smallest / math.ceil(workers / gpus)
    return max(int(min(USABLE_SHARE * share, share - WORKER_BYTES)), 0)


def activation_size(device: str) -> int:
    """Bytes of an activation: 2 on a GPU that computes in bfloat16, as `training.loop` does there; else 4."""
    import torch

    on_gpu = device != "cpu" and torch.cuda.is_available()
    return 2 if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else 4
