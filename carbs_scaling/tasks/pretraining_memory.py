"""Which points of pretraining fit into memory, by estimate."""

from dataclasses import dataclass, field

from carbs_scaling.compute.memory import training_memory_bytes
from carbs_scaling.errors import ConfigError
from carbs_scaling.task import Point
from carbs_scaling.tasks.pretraining_space import PretrainingSpace
from carbs_scaling.training.job import micro_batch_size


@dataclass(frozen=True)
class MemoryLimit:
    """Says of a legal point whether its run fits into `limit_bytes` by estimate.

    Args:
        space: whose legal points are asked about.
        limit_bytes: what one trial may need.
        optimizer: its name.
        bytes_per_activation: see `compute.memory.activation_bytes`.
        micro_batch_tokens: tokens in memory at once; None for the whole batch.

    Raises:
        ConfigError: not even the narrowest, shallowest model with the smallest batch fits.
    """

    space: PretrainingSpace
    limit_bytes: int
    optimizer: str
    bytes_per_activation: int
    micro_batch_tokens: int | None
    _known: dict[tuple[float, ...], int] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
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
                "training.micro_batch_tokens"
            )

    def __call__(self, point: Point) -> bool:
        return self.needed_bytes(point) <= self.limit_bytes

    def needed_bytes(self, point: Point) -> int:
        """The estimate for a legal point; kept, since a proposal asks for some thousand of them."""
        values = {**self.space.fixed, **point}
        key = values["width"], values["depth"], values["batch_size"], values.get("lora_rank", 0)
        if key not in self._known:
            recipe = self.space.recipe(point, seed=0)
            sequences = micro_batch_size(recipe, self.micro_batch_tokens)
            self._known[key] = training_memory_bytes(
                recipe.shape, sequences, self.optimizer, self.bytes_per_activation
            )
        return self._known[key]


def activation_size(device: str) -> int:
    """Bytes of an activation: 2 on a GPU that computes in bfloat16, as `training.step` does there; else 4."""
    import torch

    on_gpu = device != "cpu" and torch.cuda.is_available()
    return 2 if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else 4
