"""The experts of a mixture in the precision of autocast: one grouped product for all of them."""

from typing import Any

import torch
from torch import Tensor
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward

# The name under which `transformers` knows the function below.
EXPERTS = "carbs_scaling_autocast_experts"


def autocast_experts(
    experts: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """Send each token through its experts.

    Autocast knows no grouped product and leaves it in float32, which has no fast kernel: each expert then has
    its own small products, and the CPU waits for the number of its tokens.

    Args:
        experts: the module, with its matrices [experts, out, in].
        hidden_states: [tokens, d].
        top_k_index: int64 [tokens, k], the experts of each token.
        top_k_weights: [tokens, k], their weights in the sum.

    Returns:
        [tokens, d] in the precision of the products.
    """
    kind = hidden_states.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        experts, hidden_states = _In(dtype, experts), hidden_states.to(dtype)
    return grouped_mm_experts_forward(experts, hidden_states, top_k_index, top_k_weights)


class _In:
    """Experts whose matrices are read in another precision; everything else is theirs."""

    def __init__(self, dtype: torch.dtype, experts: Any) -> None:
        self._experts = experts
        self.gate_up_proj = experts.gate_up_proj.to(dtype)
        self.down_proj = experts.down_proj.to(dtype)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._experts, name)


ALL_EXPERTS_FUNCTIONS.register(EXPERTS, autocast_experts)
