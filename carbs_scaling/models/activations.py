"""Bytes a token that the parts of a transformer block keep for the backward pass, for the family files.

Counted tensor by tensor, as Korthikanti et al. 2022 (arXiv 2205.05198, section 4.1) do. Under autocast
(2 bytes per activation) the norms and the residual stream stay in float32.
"""

FLOAT32_BYTES = 4


def layer_norm_bytes(width: int, bytes_per_activation: int, readers: int) -> int:
    """LayerNorm keeps its input, a mean and a deviation; its output is kept for `readers` matrices."""
    return FLOAT32_BYTES * (width + 2) + _output_bytes(width, bytes_per_activation, readers)


def rms_norm_bytes(width: int, bytes_per_activation: int, readers: int) -> int:
    """An RMSNorm that is not fused keeps its input twice, before and after scaling, and one deviation.

    Its output is kept for `readers` matrices.
    """
    return FLOAT32_BYTES * (2 * width + 1) + _output_bytes(width, bytes_per_activation, readers)


def attention_bytes(width: int, heads: int, bytes_per_activation: int) -> int:
    """Fused attention keeps queries, keys, values and output, and one float a head."""
    return 4 * bytes_per_activation * width + FLOAT32_BYTES * heads


def _output_bytes(width: int, bytes_per_activation: int, readers: int) -> int:
    """Autocast casts the output of a norm anew for each matrix that reads it."""
    copies = readers if bytes_per_activation < FLOAT32_BYTES else 1
    return copies * bytes_per_activation * width
