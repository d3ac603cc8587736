"""Memory that training a shape needs: an estimate, known before a run starts.

What is kept for the backward pass is counted tensor by tensor, as Korthikanti et al. 2022 (arXiv 2205.05198,
section 4.1) do. Their 34 s b h bytes a block, less 2 s b h for dropout masks, are GPT-2's 16 d values a
token; their 5 a s / h is what fused attention does not keep. Each family counts its own blocks in its file
of `models/`, and each optimizer its state in its file of `optimizers/`. Added here: the scores of the
vocabulary, most of the memory where the model is narrow, and the copies of the matrices that autocast makes.

Not counted: what the device itself needs (some hundred MB for the CUDA context, and 65 MB of cuBLAS for each
stream on an H100), what a CUDA graph holds on top (70 MB there), holes in the allocator's memory, and
the evaluation, whose batches have a size of their own (`training.evaluation`). On an H100 the estimate was
within 5% of what PyTorch held for large models of a vocabulary of bytes, and 13 to 19% above it for 50,257
tokens: CUDA's cross-entropy holds 10 bytes a score at its peak, the CPU's 12.
"""

from carbs_scaling.models.activations import FLOAT32_BYTES, SCORES_AT_ONCE
from carbs_scaling.models.family import ModelShape
from carbs_scaling.optimizers.optimizer import load_optimizer

INT64_BYTES = 8
# Tensors of one value a score while the loss is differentiated: log-probabilities, their gradient, and the
# gradient of the scores, in float32 under autocast too.
SCORE_COPIES = 3


def activation_bytes(
    shape: ModelShape,
    sequences: int,
    bytes_per_activation: int = FLOAT32_BYTES,
    whole_scores: bool = False,
) -> int:
    """Bytes that the forward pass keeps for the backward pass.

    Args:
        shape: the model.
        sequences: those in memory at once.
        bytes_per_activation: 4 in float32; 2 under bfloat16 autocast, which keeps what matrices multiply in
            2 bytes, copies of the matrices among it, and the residual stream and the norms in 4.
        whole_scores: whether the scores of a large vocabulary are there at once, as where the model is
            trained on several devices (`models.build.token_losses`).

    Raises:
        ValueError: fewer than one sequence, or a precision that is neither 2 nor 4 bytes.
    """
    if sequences < 1:
        raise ValueError(f"sequences must be at least 1, not {sequences}")
    if bytes_per_activation not in (2, 4):
        raise ValueError(f"bytes_per_activation must be 2 or 4, not {bytes_per_activation}")
    family = shape.family
    blocks = family.activation_bytes(shape, sequences, bytes_per_activation)
    tokens = sequences * shape.sequence_length
    if not whole_scores and _takes_scores_in_parts(shape, sequences, bytes_per_activation):
        # The gradients of the head and of what it reads, instead of the scores and of what it reads.
        scores = FLOAT32_BYTES * family.head_params(shape)
        scores += (FLOAT32_BYTES - bytes_per_activation) * tokens * shape.width
    else:
        scores = FLOAT32_BYTES * sequences * family.scored_positions(shape) * shape.scores
    # Ids that are read and those that are predicted.
    ids = 2 * INT64_BYTES * tokens if family.inputs == "tokens" else 0
    half = bytes_per_activation < FLOAT32_BYTES
    cast_matrices = bytes_per_activation * family.cast_params(shape) if half else 0
    return blocks + scores + ids + cast_matrices


def _takes_scores_in_parts(shape: ModelShape, sequences: int, bytes_per_activation: int) -> bool:
    """Whether the loss of so many sequences is taken as `models.cross_entropy` does."""
    scores = sequences * shape.sequence_length * shape.scores
    return (
        shape.family.has_plain_head
        and shape.classes is None
        and scores > _scores_at_once(bytes_per_activation)
    )


def _scores_at_once(bytes_per_activation: int) -> int:
    """Most scores held at once: on a GPU where activations have 2 bytes (bfloat16), else on a CPU."""
    return SCORES_AT_ONCE["cuda" if bytes_per_activation < FLOAT32_BYTES else "cpu"]


def training_memory_bytes(
    shape: ModelShape,
    sequences: int,
    optimizer: str,
    bytes_per_activation: int = FLOAT32_BYTES,
    whole_scores: bool = False,
) -> int:
    """Most bytes that training holds at once: weights, gradients, optimizer state and one pass.

    The peak is either where the loss is differentiated, with all activations there and two more copies of the
    scores, or in the first block of the backward pass, with that block's gradients, or at its end, where a
    tied matrix gets both gradients. Gradients of weights, there before the second micro-batch, are counted in
    full.

    Args:
        shape: the model.
        sequences: those in memory at once, the micro-batch where batches are accumulated.
        optimizer: its name, `optimizer.name` in the configuration.
        bytes_per_activation: see `activation_bytes`.
        whole_scores: see `activation_bytes`.

    Raises:
        ValueError: as `activation_bytes`.
        ConfigError: there is no such optimizer.
    """
    family, kind = shape.family, load_optimizer(optimizer)
    total, trained = family.total_params(shape), family.trained_params(shape)
    hidden = family.block_params(shape) - family.stacked_params(shape) if trained == total else trained
    state = kind.hidden_state_bytes * hidden + kind.state_bytes * (trained - hidden)
    weights = FLOAT32_BYTES * (total + trained) + state
    tokens = sequences * shape.sequence_length
    block = family.block_gradient_bytes(shape, tokens, bytes_per_activation)
    if not whole_scores and _takes_scores_in_parts(shape, sequences, bytes_per_activation):
        # Scores and their log-probabilities of a part; where they are in 2 bytes, their gradients too.
        scores = 2 * FLOAT32_BYTES * _scores_at_once(bytes_per_activation)
    else:
        scored = sequences * family.scored_positions(shape)
        scores = (SCORE_COPIES - 1) * FLOAT32_BYTES * scored * shape.scores
    kept = activation_bytes(shape, sequences, bytes_per_activation, whole_scores)
    if trained < total:
        end = 0
    elif shape.classes is None:
        # At the very end: the gradients of a tied matrix as head and as embedding, and their sum.
        end = 3 * FLOAT32_BYTES * family.head_params(shape)
    else:  # one more gradient of the embedding
        end = FLOAT32_BYTES * shape.vocabulary_size * shape.width
    return weights + max(kept + max(scores, block), end)
