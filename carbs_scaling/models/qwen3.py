"""Qwen3, dense: Llama's block with an RMSNorm on every head's queries and keys.

Yang et al. 2025 (arXiv 2505.09388, section 2).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from carbs_scaling.models.decoder import Decoder, DecoderOptions, padded, with_our_attention
from carbs_scaling.models.family import ModelFamily, ModelShape

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Qwen3Options(DecoderOptions):
    """As in Qwen3-0.6B and 1.7B: two queries a key, SwiGLU of 3d, a tied head."""

    queries_per_key_value: int = 2
    mlp_ratio: float = 3.0


class Qwen3(Decoder):
    """See `ModelFamily`."""

    name = "qwen3"
    classifies = True
    options_type = Qwen3Options
    norms_heads = True

    def build(self, shape: ModelShape) -> "nn.Module":
        """A `Qwen3ForCausalLM`, or a `Qwen3ForSequenceClassification`."""
        from transformers.models.qwen3.configuration_qwen3 import Qwen3Config
        from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM, Qwen3ForSequenceClassification

        kind = Qwen3ForCausalLM if shape.classes is None else Qwen3ForSequenceClassification
        return padded(kind(with_our_attention(Qwen3Config(**self.settings(shape)))), shape)


FAMILY: ModelFamily = Qwen3()
