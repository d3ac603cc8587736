"""Training FLOPs of a model shape: exact, known before a run starts.

A multiply-add counts as 2 FLOPs and the backward pass as twice the forward pass, as in Kaplan et al. 2020
(arXiv 2001.08361, section 2.1) and Hoffmann et al. 2022 (arXiv 2203.15556, appendix F). Parameter-count and
FLOP conventions alone move published compute-optimal exponents (Porian et al., arXiv 2406.19146), so every
record of a run names the one it was charged in. What each family adds is in its file of `models/`.
"""

from carbs_scaling.models.family import ModelShape

FLOPS_CONVENTIONS = ("6N", "6N+head", "6N+head+attention", "6N+head+causal_attention")


def flops_per_token(shape: ModelShape, convention: str) -> float:
    """Training FLOPs (forward and backward) a token.

    Conventions:
        `6N`: non-embedding parameters alone; of a mixture of experts, those that a token is multiplied by;
            with adapters beside frozen weights, all that is multiplied, the head too.
        `6N+head`: and the output head, 6 V d, and what an input layer multiplies, as that of patches does.
        `6N+head+attention`: and the attention scores and sums over the whole T x T square.
        `6N+head+causal_attention`: and only the causal half of that square.

    Raises:
        ValueError: unknown convention.
    """
    if convention not in FLOPS_CONVENTIONS:
        raise ValueError(f"FLOPs convention {convention!r} is not one of {', '.join(FLOPS_CONVENTIONS)}")
    family = shape.family
    flops = family.matrix_flops_per_token(shape)
    if convention == "6N":
        return flops
    flops += family.head_flops_per_token(shape) + family.embedding_flops_per_token(shape)
    if convention == "6N+head":
        return flops
    square = 1.0 if convention == "6N+head+attention" else 0.5
    return flops + square * family.attention_flops_per_token(shape)


def training_flops(shape: ModelShape, tokens: float, convention: str) -> float:
    """Training FLOPs of `tokens` tokens through `shape`, in one of `FLOPS_CONVENTIONS`."""
    return flops_per_token(shape, convention) * tokens


def flops_by_convention(shape: ModelShape, tokens: float) -> dict[str, float]:
    """Training FLOPs of `tokens` tokens through `shape` in every convention, for a run's record."""
    return {convention: training_flops(shape, tokens, convention) for convention in FLOPS_CONVENTIONS}
