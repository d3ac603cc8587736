"""Low-rank adapters (LoRA) beside the frozen matrices of a trained model: what they add, cost and keep.

Hu et al. 2021 (arXiv 2106.09685): a matrix W becomes W + alpha / r B A with A of r x in and B of out x r. All
linear layers but the head get adapters; a head for classes, which the trained model does not have, is trained
as it is. What a run costs is measured on tensors without memory, with the backward pass, and is a straight
line in r: two ranks give it for all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from carbs_scaling.errors import ConfigError
from carbs_scaling.models.measured import kept_with, run_forward, without_memory

if TYPE_CHECKING:
    from torch import nn

HEADS = ("score", "classifier", "lm_head")
ADAPTER = "default"


@dataclass(frozen=True)
class LoraCounts:
    """A model with adapters of rank r.

    Args:
        trained_params: weights that are trained.
        flops_per_token: training FLOPs of all matrices, the part that does not grow with the sequence length.
        attention_flops_per_token: the part that does.
    """

    trained_params: float
    flops_per_token: float
    attention_flops_per_token: float

    def beyond(self, other: "LoraCounts", steps: int) -> "LoraCounts":
        """So many steps further along the line from `other` to this."""
        pairs = zip(vars(other).values(), vars(self).values(), strict=True)
        return LoraCounts(*(first + steps * (second - first) for first, second in pairs))


def add_adapters(model: "nn.Module", rank: int, alpha: float) -> "nn.Module":
    """Freeze a model's weights and put adapters beside them, drawn from PyTorch's generator.

    Raises:
        ConfigError: peft is not installed, or the model has no linear layers.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ConfigError("LoRA needs peft: pip install 'carbs_scaling[lora]'") from None
    names = _linear_layers(model)
    if not names:
        raise ConfigError(f"a {type(model).__name__} has no linear layers for LoRA")
    config = LoraConfig(r=rank, lora_dropout=0.0, target_modules=names)
    config.lora_alpha = alpha  # type: ignore[assignment] # any number will do
    config.fan_in_fan_out = _has_transposed(model)
    adapted: nn.Module = inject_adapter_in_model(config, model, ADAPTER)
    for name, parameter in adapted.named_parameters():
        if name.split(".")[0] in HEADS[:2]:
            parameter.requires_grad_(True)
    return adapted


def _has_transposed(model: "nn.Module") -> bool:
    """Whether its weights are stored as GPT-2's are, inputs first."""
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(module, Conv1D) for module in model.modules())


def _linear_layers(model: "nn.Module") -> list[str]:
    """Names of the layers that get adapters."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()  # type: ignore[operator]
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head and name.split(".")[0] not in HEADS
    ]


def merge_adapters(model: "nn.Module") -> "nn.Module":
    """The same model with the adapters added to its weights: a plain one of `transformers` again."""
    found = [name for name, module in model.named_modules() if {"lora_A", "merge"} <= set(dir(module))]
    for name in found:
        parent, _, own = name.rpartition(".")
        layer: Any = model.get_submodule(name)
        layer.merge()
        setattr(model.get_submodule(parent), own, layer.get_base_layer())
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model


@cache
def head_of_classes(build: Callable[[], "nn.Module"]) -> int:
    """Weights of a head for classes."""
    with without_memory():
        return sum(p.numel() for n, p in build().named_parameters() if n.split(".")[0] in HEADS[:2])


@cache
def lora_counts(build: Callable[[], "nn.Module"], sequence_length: int, rank: int) -> LoraCounts:
    """Counts of the model that `build` makes with adapters of a rank."""
    one, two = _two_ranks(build, sequence_length)
    return two.beyond(one, rank - 1)


@cache
def _two_ranks(build: Callable[[], "nn.Module"], sequence_length: int) -> tuple[LoraCounts, LoraCounts]:
    one, two = (_measured(build, sequence_length, rank) for rank in (1, 2))
    return one, two


def _adapted(build: Callable[[], "nn.Module"], rank: int) -> "nn.Module":
    """A model with adapters, of `without_memory`. peft moves each to its place, which such tensors refuse."""
    from torch import nn

    moves = nn.Module.to
    nn.Module.to = lambda module, *_, **__: module  # type: ignore[method-assign, assignment]
    try:
        return add_adapters(build(), rank, alpha=rank)
    finally:
        nn.Module.to = moves  # type: ignore[method-assign]


def _measured(build: Callable[[], "nn.Module"], length: int, rank: int) -> LoraCounts:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    flops = []
    with without_memory():
        model = _adapted(build, rank)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        half = length // 2
        for tokens in (length, half):
            # The fused kernels count as zero on the CPU; the plain one has the whole T x T square.
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                run_forward(model, 1, tokens).logits.sum().backward()
            flops.append(counter.get_total_flops() / tokens)
    attention = (flops[0] - flops[1]) * length / (length - half)
    return LoraCounts(trained, flops[0] - attention, attention)


@cache
def lora_kept_bytes(
    build: Callable[[], "nn.Module"], sequence_length: int, bytes_per_activation: int, rank: int
) -> int:
    """Bytes a sequence that the forward pass keeps for the backward pass, without the scores."""
    first, second = _two_kept(build, sequence_length, bytes_per_activation)
    return first + (rank - 1) * (second - first)


@cache
def _two_kept(build: Callable[[], "nn.Module"], length: int, size: int) -> tuple[int, int]:
    kept = []
    for rank in (1, 2):
        with without_memory():
            model = _adapted(build, rank)
            kept.append(kept_with(model, 2, length, size) - kept_with(model, 1, length, size))
    return kept[0], kept[1]
