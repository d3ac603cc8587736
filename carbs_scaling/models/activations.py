"""Bytes a token that the parts of a transformer block keep for the backward pass, for the family files.

Counted tensor by tensor, as Korthikanti et al. 2022 (arXiv 2205.05198, section 4.1) do. Under autocast
(2 bytes per activation) the norms and the residual stream stay in float32.
"""

FLOAT32_BYTES = 4
# Most scores of a vocabulary at once (`models.cross_entropy`). On the CPU just below the 32 MB from which
# glibc gives memory back to the system when it is freed; on a GPU 512 MB in float32, some thousand tokens,
# which keep it busy.
SCORES_AT_ONCE = {"cpu": 8_000_000, "cuda": 1 << 27}


def layer_norm_bytes(width: int, bytes_per_activation: int, readers: int) -> int:
    """LayerNorm keeps its input, a mean and a deviation; its output is kept for `readers` matrices."""
    return FLOAT32_BYTES * (width + 2) + _output_bytes(width, bytes_per_activation, readers)


def rms_norm_bytes(width: int, bytes_per_activation: int, readers: int) -> int:
    """An RMSNorm that is not fused keeps its input twice, before and after scaling, and one deviation.

    Its output is kept for `readers` matrices.
    """
    return FLOAT32_BYTES * (2 * width + 1) + _output_bytes(width, bytes_per_activation, readers)


def attention_bytes(width: int, key_value_width: int, heads: int, bytes_per_activation: int) -> int:
    """Fused attention keeps queries, keys, values and output, and one float a query head."""
    return 2 * bytes_per_activation * (width + key_value_width) + FLOAT32_BYTES * heads


def head_norm_bytes(heads: int, head_size: int, bytes_per_activation: int) -> int:
    """An RMSNorm of every head keeps its input in float32, one deviation a head, and what it scales.

    In float32 the input is what a matrix gave; under autocast it is a copy.
    """
    return heads * (FLOAT32_BYTES * (head_size + 1) + bytes_per_activation * head_size)


def _output_bytes(width: int, bytes_per_activation: int, readers: int) -> int:
    """Autocast casts the output of a norm anew for each matrix that reads it."""
    copies = readers if bytes_per_activation < FLOAT32_BYTES else 1
    return copies * bytes_per_activation * width
