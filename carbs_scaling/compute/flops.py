"""Model shapes, and the training FLOPs of a shape: exact, known before a run starts.

A multiply-add counts as 2 FLOPs and the backward pass as twice the forward pass, as in Kaplan et al. 2020
(arXiv 2001.08361, section 2.1) and Hoffmann et al. 2022 (arXiv 2203.15556, appendix F). Parameter-count and
FLOP conventions alone move published compute-optimal exponents (Porian et al., arXiv 2406.19146), so every
record of a run names the one it was charged in.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

Architecture = Literal["gpt2", "llama"]
FlopsConvention = Literal["6N", "6N+head", "6N+head+attention", "6N+head+causal_attention"]

ARCHITECTURES: tuple[str, ...] = get_args(Architecture)
FLOPS_CONVENTIONS: tuple[str, ...] = get_args(FlopsConvention)


@dataclass(frozen=True)
class ModelShape:
    """The shape of a decoder-only transformer, in the field's usual letters: d, L, V, T.

    Args:
        architecture: `gpt2` (learned positions, GELU MLP of width 4d) or `llama` (rotary positions, SwiGLU).
        width: residual width d; a multiple of `head_size`.
        depth: number of blocks L.
        head_size: width of one attention head.
        vocabulary_size: number of tokens V.
        sequence_length: tokens a sequence T.

    Raises:
        ValueError: a size is not positive, or `head_size` does not divide `width`.
    """

    architecture: str
    width: int
    depth: int
    head_size: int
    vocabulary_size: int
    sequence_length: int

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"architecture {self.architecture!r} is not one of {', '.join(ARCHITECTURES)}")
        for name in ("width", "depth", "head_size", "vocabulary_size", "sequence_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.width % self.head_size:
            raise ValueError(f"width {self.width} is not a multiple of the head size {self.head_size}")

    @property
    def heads(self) -> int:
        """Attention heads a block."""
        return self.width // self.head_size

    @property
    def intermediate_size(self) -> int:
        """Width of the MLP: 4d for GPT-2; for Llama 8d/3 rounded up to a multiple of 8.

        SwiGLU has three matrices instead of two, so 8d/3 keeps a block at 12 d^2 (Shazeer, arXiv 2002.05202).
        """
        if self.architecture == "gpt2":
            return 4 * self.width
        return 8 * -(-self.width // 3)

    @cached_property  # priced thousands of times a proposal
    def params(self) -> int:
        """Non-embedding parameters N: the weight matrices of the blocks, 12 L d^2 for GPT-2.

        Biases, norms, embeddings and the output head are left out, as in Kaplan et al. (table 1).
        """
        mlp_matrices = 2 if self.architecture == "gpt2" else 3
        return self.depth * (4 * self.width**2 + mlp_matrices * self.width * self.intermediate_size)

    @property
    def head_params(self) -> int:
        """Weights of the output head, V d. Tied to the embedding or not, its FLOPs are the same."""
        return self.vocabulary_size * self.width


def flops_per_token(shape: ModelShape, convention: str) -> float:
    """Training FLOPs (forward and backward) a token.

    Conventions:
        `6N`: non-embedding parameters alone.
        `6N+head`: and the output head, 6 V d.
        `6N+head+attention`: and the attention scores and sums over the whole T x T square, 12 L d T.
        `6N+head+causal_attention`: and only the causal half of that square, 6 L d T.

    Raises:
        ValueError: unknown convention.
    """
    if convention not in FLOPS_CONVENTIONS:
        raise ValueError(f"FLOPs convention {convention!r} is not one of {', '.join(FLOPS_CONVENTIONS)}")
    flops = 6.0 * shape.params
    if convention == "6N":
        return flops
    flops += 6.0 * shape.head_params
    attention = 12.0 * shape.depth * shape.width * shape.sequence_length
    if convention == "6N+head+attention":
        flops += attention
    elif convention == "6N+head+causal_attention":
        flops += attention / 2
    return flops


def training_flops(shape: ModelShape, tokens: float, convention: str) -> float:
    """Training FLOPs of `tokens` tokens through `shape`, in one of `FLOPS_CONVENTIONS`."""
    return flops_per_token(shape, convention) * tokens


def flops_by_convention(shape: ModelShape, tokens: float) -> dict[str, float]:
    """Training FLOPs of `tokens` tokens through `shape` in every convention, for a run's record."""
    return {convention: training_flops(shape, tokens, convention) for convention in FLOPS_CONVENTIONS}
