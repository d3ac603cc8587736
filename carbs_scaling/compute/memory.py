"""Memory that training a shape needs: an estimate, known before a run starts.

What is kept for the backward pass is counted tensor by tensor, as Korthikanti et al. 2022 (arXiv 2205.05198,
section 4.1) do: their 34 s b h bytes a block, less the 2 s b h of dropout masks that are not there, are the
16 d values a token below, and their 5 a s / h is what fused attention does not keep. Added here: mixed
precision that keeps the residual stream in float32, Llama's block, and the scores of the vocabulary, most of
the memory where the model is narrow.

Not in it: what the device itself needs (some hundred MB for the CUDA context, and 65 MB of cuBLAS for each
stream on an H100), what a CUDA graph holds on top (70 MB there), holes in the allocator's memory, and
the evaluation, whose batches have a size of their own (`training.loop`). On an H100 the estimate was within
5% of what PyTorch held for large models of a vocabulary of bytes, and 13 to 19% above it for 50,257 tokens:
CUDA's cross-entropy holds 10 bytes a score at its peak, the CPU's 12.
"""

from carbs_scaling.compute.flops import ModelShape

FLOAT32 = 4
INT64 = 8
# Bytes of state a parameter, in float32: AdamW's two moments, the momentum of SGD.
OPTIMIZER_STATE_BYTES = {"adamw": 8, "sgd": 4}
# Tensors of one value a score while the loss is differentiated: log-probabilities, their gradient, and the
# gradient of the scores, in float32 under autocast too.
SCORE_COPIES = 3


def parameter_count(shape: ModelShape) -> int:
    """All trained parameters, with embeddings, biases and norms; the head is tied to the embedding."""
    d, depth = shape.width, shape.depth
    if shape.architecture == "gpt2":
        biases_and_norms = depth * (5 * d + shape.intermediate_size + 4 * d) + 2 * d
        return shape.params + shape.head_params + shape.sequence_length * d + biases_and_norms
    return shape.params + shape.head_params + depth * 2 * d + d


def activation_bytes(shape: ModelShape, sequences: int, bytes_per_activation: int = FLOAT32) -> int:
    """Bytes that the forward pass keeps for the backward pass.

    Args:
        shape: the model.
        sequences: those in memory at once.
        bytes_per_activation: 4 in float32; 2 under bfloat16 autocast, which keeps what matrices multiply in
            2 bytes, copies of the matrices among it, and the residual stream and the norms in 4.

    Raises:
        ValueError: fewer than one sequence, or a precision that is neither 2 nor 4 bytes.
    """
    if sequences < 1:
        raise ValueError(f"sequences must be at least 1, not {sequences}")
    if bytes_per_activation not in (2, 4):
        raise ValueError(f"bytes_per_activation must be 2 or 4, not {bytes_per_activation}")
    block = _attention_bytes(shape, bytes_per_activation) + _mlp_bytes(shape, bytes_per_activation)
    scores = FLOAT32 * shape.vocabulary_size
    token = shape.depth * block + _norm_bytes(shape, bytes_per_activation, readers=1) + scores + 2 * INT64
    cast_matrices = shape.params + shape.head_params if bytes_per_activation < FLOAT32 else 0
    rotary = 0 if shape.architecture == "gpt2" else 2 * FLOAT32 * shape.sequence_length * shape.head_size
    return sequences * shape.sequence_length * token + bytes_per_activation * cast_matrices + rotary


def training_memory_bytes(
    shape: ModelShape, sequences: int, optimizer: str, bytes_per_activation: int = FLOAT32
) -> int:
    """Most bytes that training holds at once: weights, gradients, optimizer state and one pass.

    The peak is either where the loss is differentiated, with all activations there and two more copies of the
    scores, or in the first block of the backward pass, with that block's gradients; gradients of weights,
    there before the second micro-batch, are counted in full.

    Args:
        shape: the model.
        sequences: those in memory at once, the micro-batch where batches are accumulated.
        optimizer: `adamw` or `sgd` (with momentum).
        bytes_per_activation: see `activation_bytes`.

    Raises:
        ValueError: as `activation_bytes`, or an unknown optimizer.
    """
    if optimizer not in OPTIMIZER_STATE_BYTES:
        known = ", ".join(OPTIMIZER_STATE_BYTES)
        raise ValueError(f"optimizer {optimizer!r} is not one of {known}")
    weights = parameter_count(shape) * (2 * FLOAT32 + OPTIMIZER_STATE_BYTES[optimizer])
    tokens = sequences * shape.sequence_length
    scores = (SCORE_COPIES - 1) * FLOAT32 * shape.vocabulary_size
    # Of the residual stream, and of the MLP on both sides of its activation (for SwiGLU a third side).
    sides = 2 if shape.architecture == "gpt2" else 3
    block = FLOAT32 * shape.width + bytes_per_activation * sides * shape.intermediate_size
    return weights + activation_bytes(shape, sequences, bytes_per_activation) + tokens * max(scores, block)


def _norm_bytes(shape: ModelShape, bytes_per_activation: int, readers: int) -> int:
    """A token's share of a norm: what it normalises, its statistics, and its output for `readers` matrices.

    LayerNorm keeps its input with a mean and a deviation. Llama's RMSNorm is not fused: it keeps the input,
    the normalised input and one deviation. Autocast casts the output anew for each matrix that reads it.
    """
    tensors, statistics = (1, 2) if shape.architecture == "gpt2" else (2, 1)
    copies = readers if bytes_per_activation < FLOAT32 else 1
    return FLOAT32 * (tensors * shape.width + statistics) + copies * bytes_per_activation * shape.width


def _attention_bytes(shape: ModelShape, bytes_per_activation: int) -> int:
    """A token's share of fused attention: its norm; queries, keys, values, output; a float a head."""
    matrices = 1 if shape.architecture == "gpt2" else 3  # GPT-2 has one for queries, keys and values
    kept = 4 * bytes_per_activation * shape.width + FLOAT32 * shape.heads
    return _norm_bytes(shape, bytes_per_activation, matrices) + kept


def _mlp_bytes(shape: ModelShape, bytes_per_activation: int) -> int:
    """A token's share of the MLP: its norm; both sides of GELU, or SwiGLU's gate, SiLU, up and product."""
    matrices, tensors = (1, 2) if shape.architecture == "gpt2" else (2, 4)
    kept = tensors * bytes_per_activation * shape.intermediate_size
    return _norm_bytes(shape, bytes_per_activation, matrices) + kept
