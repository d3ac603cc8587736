"""Llama: rotary positions, RMSNorm, no biases, SwiGLU, grouped-query attention. N is about 12 L d^2.

Touvron et al. 2023 (arXiv 2302.13971), and 2.5 of Llama 2 (arXiv 2307.09288) for the grouped queries.
`transformers` takes seconds to import, so it is imported when the first model is built.
"""

from typing import TYPE_CHECKING

from carbs_scaling.models.decoder import Decoder, padded, with_our_attention
from carbs_scaling.models.family import ModelFamily, ModelShape

if TYPE_CHECKING:
    from torch import nn


class Llama(Decoder):
    """See `ModelFamily`."""

    name = "llama"
    classifies = True

    def build(self, shape: ModelShape) -> "nn.Module":
        """A `LlamaForCausalLM`, or a `LlamaForSequenceClassification`."""
        from transformers.models.llama.configuration_llama import LlamaConfig
        from transformers.models.llama.modeling_llama import LlamaForCausalLM, LlamaForSequenceClassification

        kind = LlamaForCausalLM if shape.classes is None else LlamaForSequenceClassification
        return padded(kind(with_our_attention(LlamaConfig(**self.settings(shape)))), shape)


FAMILY: ModelFamily = Llama()
