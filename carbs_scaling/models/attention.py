"""The attention that all families share: fused, causal, over windows without padding."""

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import AttentionInterface

# The name under which `transformers` knows the attention below.
ATTENTION = "carbs_scaling_packed_causal"


def packed_causal_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend over whole windows, each token to itself and those before it.

    `transformers` prepares a mask for its own attention at every call, and waits for the GPU to see that none
    is needed; for a registered attention of another name it prepares none.

    Args:
        module: the attention layer, not read.
        query: [b, heads, T, head_size].
        key, value: [b, key_value_heads, T, head_size]; heads are a multiple of key_value_heads.
        attention_mask: None.
        scaling: of the scores; None for 1 / sqrt(head_size).

    Returns:
        [b, T, heads, head_size], and None in place of the weights.

    Raises:
        ValueError: an attention mask is given.
    """
    if attention_mask is not None:
        raise ValueError("packed windows have no padding: pass no attention_mask")
    grouped = query.shape[1] != key.shape[1]
    mixed = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=grouped)
    return mixed.transpose(1, 2), None


AttentionInterface.register(ATTENTION, packed_causal_attention)
