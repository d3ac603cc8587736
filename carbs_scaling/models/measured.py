"""Counts of a model that no family of ours describes: measured on tensors without memory, not by a rule.

FLOPs are those that PyTorch's `FlopCounterMode` sees in a forward pass, and bytes those that autograd keeps
of one. `FakeTensorMode` runs both without data, as the meta device does, and chooses kernels as the CPU does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from carbs_scaling.errors import ConfigError
from carbs_scaling.models.activations import FLOAT32_BYTES
from carbs_scaling.models.family import ModelFamily, ModelShape
from carbs_scaling.models.stock import INNER_WIDTHS, first_line, make_model, size_of

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PretrainedConfig

# One whose cost is known whatever the tokens: each token's experts side by side. It is never trained with.
COUNTED_EXPERTS = "batched_mm"


@dataclass(frozen=True)
class Counts:
    """What one model is, does and keeps.

    Args:
        params: non-embedding weights that one token is multiplied by, N.
        block_params: all of them, with experts that a token does not visit.
        stacked_params: those of them in tensors of more than two dimensions.
        total_params: all parameters.
        head_params: weights of the output head.
        attention_flops_per_token: forward, the part that grows with the sequence length.
    """

    params: int
    block_params: int
    stacked_params: int
    total_params: int
    head_params: int
    attention_flops_per_token: float


@cache
def counts(build: Callable[[], "nn.Module"], sequence_length: int) -> Counts:
    """Counts of the model that `build` makes; kept, since a proposal asks for them thousands of times.

    The FLOPs a token at T and at T / 2 tell what grows with T, attention, from what does not, the matrices.
    N is what the second part makes of it, less the head.

    Raises:
        ConfigError: the model cannot be run without data.
    """
    with without_memory():
        model = _counted(build)
        half = sequence_length // 2
        whole_flops, half_flops = (_flops_per_token(model, length) for length in (sequence_length, half))
        # The head of classes is small, and counts as a matrix of the blocks.
        head = model.get_output_embeddings()  # type: ignore[operator]
        head_params = 0 if head is None else head.weight.numel()
        embedding = model.get_input_embeddings().weight  # type: ignore[operator]
        parameters = list(model.parameters())
        attention = (whole_flops - half_flops) * sequence_length / (sequence_length - half)
        excluded = {id(embedding), id(head.weight) if head is not None else 0}
        matrices = block_matrices(model, excluded)
        return Counts(
            params=round((whole_flops - attention) / 2) - head_params,
            block_params=sum(p.numel() for p in matrices),
            stacked_params=sum(p.numel() for p in matrices if p.ndim > 2),
            total_params=sum(p.numel() for p in parameters),
            head_params=head_params,
            attention_flops_per_token=attention,
        )


@cache
def kept_bytes(
    build: Callable[[], "nn.Module"], sequence_length: int, bytes_per_activation: int
) -> tuple[int, int]:
    """Bytes that a forward pass keeps for the backward pass, the scores left out.

    Args:
        build: makes the model.
        sequence_length: T.
        bytes_per_activation: 4 in float32, 2 under bfloat16 autocast.

    Returns:
        Those of each sequence, and those however many sequences there are, without cast copies of matrices.
    """
    with without_memory():
        model = _counted(build)
        one, two = (kept_with(model, n, sequence_length, bytes_per_activation) for n in (1, 2))
    constant = max(0, 2 * one - two)
    return two - one, constant if bytes_per_activation == FLOAT32_BYTES else 0


def without_memory() -> Any:
    """A context in which tensors have no data."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode(allow_non_fake_inputs=True)


def _counted(build: Callable[[], "nn.Module"]) -> "nn.Module":
    model = build()
    if getattr(model.config, "_experts_implementation", None) is not None:
        model.set_experts_implementation(COUNTED_EXPERTS)  # type: ignore[operator]
    return model


def _flops_per_token(model: "nn.Module", length: int) -> float:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # The fused kernels count as zero on the CPU; the plain one has the whole T x T square.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run_forward(model, 1, length)
    return float(counter.get_total_flops()) / length


def run_forward(model: "nn.Module", sequences: int, length: int) -> Any:
    """What a model of `without_memory` gives for so many sequences of so many tokens.

    Raises:
        ConfigError: it cannot be run without data.
    """
    import torch

    try:
        given = {"use_cache": False} if getattr(model.config, "use_cache", None) is not None else {}
        return model(input_ids=torch.zeros(sequences, length, dtype=torch.long), **given)
    except (RuntimeError, ValueError, TypeError, NotImplementedError, IndexError) as error:
        raise ConfigError(f"a {type(model).__name__} cannot be measured: {first_line(error)}") from error


def kept_with(model: "nn.Module", sequences: int, length: int, bytes_per_activation: int) -> int:
    """Distinct storages that autograd keeps; the weights, their casts and gathered experts left out."""
    import torch

    parameters = {id(p) for p in model.parameters()}
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: "torch.Tensor") -> "torch.Tensor":
        storage = tensor.untyped_storage()
        if storage._cdata not in own and not _is_of_weights(tensor, parameters):
            kept[storage._cdata] = storage  # held, so that its address stays its own
        return tensor

    with (
        torch.autocast("cpu", torch.bfloat16, enabled=bytes_per_activation < FLOAT32_BYTES),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        run_forward(model, sequences, length)
    return sum(storage.nbytes() for storage in kept.values())


def _is_of_weights(tensor: "torch.Tensor", parameters: set[int]) -> bool:
    """Whether a tensor is a parameter, or one cast, transposed or gathered, and nothing else."""
    node = tensor.grad_fn
    for _ in range(6):
        if node is None:
            return id(tensor) in parameters
        if hasattr(node, "variable"):
            return id(node.variable) in parameters
        if len(node.next_functions) != 1:
            return False
        node = node.next_functions[0][0]
    return False


def block_matrices(model: "nn.Module", excluded: set[int]) -> "list[torch.Tensor]":
    """Parameters of at least two dimensions, embeddings and head left out."""
    from torch import nn

    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    return [p for p in model.parameters() if p.ndim >= 2 and id(p) not in excluded | embeddings]


class Measured(ModelFamily):
    """Counts of families whose models `transformers` describes. See `ModelFamily`."""

    has_parametrizations = False

    def config(self, shape: ModelShape) -> "PretrainedConfig":
        """The configuration of the model."""
        raise NotImplementedError

    def _counts(self, shape: ModelShape) -> Counts:
        return counts(maker(self, shape), shape.sequence_length)

    def params(self, shape: ModelShape) -> int:
        """Half of the forward FLOPs a token that do not grow with T, less the head."""
        return self._counts(shape).params

    def block_params(self, shape: ModelShape) -> int:
        """Matrices that are neither embedding nor head."""
        return self._counts(shape).block_params

    def stacked_params(self, shape: ModelShape) -> int:
        """Those in tensors of more than two dimensions."""
        return self._counts(shape).stacked_params

    def total_params(self, shape: ModelShape) -> int:
        """All parameters."""
        return self._counts(shape).total_params

    def head_params(self, shape: ModelShape) -> int:
        """Parameters of the output head."""
        return self._counts(shape).head_params

    def attention_flops_per_token(self, shape: ModelShape) -> float:
        """Three times what grows with T in the forward pass."""
        return 3.0 * self._counts(shape).attention_flops_per_token

    def activation_bytes(self, shape: ModelShape, sequences: int, bytes_per_activation: int) -> int:
        """Bytes that a forward pass of so many sequences keeps for the backward pass."""
        each, constant = kept_bytes(maker(self, shape), shape.sequence_length, bytes_per_activation)
        return sequences * each + constant

    def block_gradient_bytes(self, shape: ModelShape, tokens: int, bytes_per_activation: int) -> int:
        """The residual stream, and three tensors of the MLP's width."""
        inner = max((size_of(self.config(shape), name) or 0 for name in INNER_WIDTHS), default=0)
        mlp = 3 * bytes_per_activation * (inner or 4 * shape.width)
        return tokens * (FLOAT32_BYTES * shape.width + mlp)


@cache
def maker(family: Measured, shape: ModelShape) -> "Callable[[], nn.Module]":
    """One callable a shape, by which measurements are kept."""
    return partial(make_model, family.config(shape), shape.classes)
