"""Llama: rotary positions, RMSNorm, no biases, a SwiGLU MLP of width 8d/3, a tied head. N is about 12 L d^2.

Touvron et al. 2023 (arXiv 2302.13971). `transformers` takes seconds to import, so it is imported when the
first model is built.
"""

from typing import TYPE_CHECKING

from carbs_scaling.errors import ConfigError
from carbs_scaling.models.activations import FLOAT32_BYTES, attention_bytes, rms_norm_bytes
from carbs_scaling.models.family import ModelFamily, ModelShape

if TYPE_CHECKING:
    from torch import nn


class Llama:
    """See `ModelFamily`."""

    name = "llama"

    def check(self, shape: ModelShape) -> None:
        """The head size is even."""
        if shape.head_size % 2:
            raise ConfigError(
                f"model.head_size={shape.head_size} must be even: rotary positions turn pairs of coordinates"
            )

    def intermediate_size(self, shape: ModelShape) -> int:
        """8d/3, rounded up to a multiple of 8.

        SwiGLU has three matrices instead of two, so 8d/3 keeps a block at 12 d^2 (Shazeer, arXiv 2002.05202).
        """
        return 8 * -(-shape.width // 3)

    def params(self, shape: ModelShape) -> int:
        """Queries, keys, values, output, and the three matrices of the MLP."""
        d = shape.width
        return shape.depth * (4 * d**2 + 3 * d * self.intermediate_size(shape))

    def total_params(self, shape: ModelShape) -> int:
        """N, the token embedding, and the gains of two norms a block and a final one."""
        gains = (2 * shape.depth + 1) * shape.width
        return self.params(shape) + self.head_params(shape) + gains

    def head_params(self, shape: ModelShape) -> int:
        """V d."""
        return shape.vocabulary_size * shape.width

    def attention_flops_per_token(self, shape: ModelShape) -> float:
        """Scores and sums, a multiply-add each for T positions of d channels, forward and twice back."""
        return 12.0 * shape.depth * shape.width * shape.sequence_length

    def activation_bytes(self, shape: ModelShape, sequences: int, bytes_per_activation: int) -> int:
        """A block keeps norm, attention, norm, and SwiGLU's gate, SiLU, up and product."""
        d, size = shape.width, bytes_per_activation
        attention = rms_norm_bytes(d, size, readers=3) + attention_bytes(d, shape.heads, size)
        mlp = rms_norm_bytes(d, size, readers=2) + 4 * size * self.intermediate_size(shape)
        token = shape.depth * (attention + mlp) + rms_norm_bytes(d, size, readers=1)
        rotary_tables = 2 * FLOAT32_BYTES * shape.sequence_length * shape.head_size
        return sequences * shape.sequence_length * token + rotary_tables

    def block_gradient_bytes(self, shape: ModelShape, bytes_per_activation: int) -> int:
        """The residual stream, and the MLP's gate, up and product."""
        return FLOAT32_BYTES * shape.width + 3 * bytes_per_activation * self.intermediate_size(shape)

    def build(self, shape: ModelShape) -> "nn.Module":
        """A `LlamaForCausalLM`.

        The head is tied to the embedding, as in Llama 3.2 at 1B: at these sizes a head of its own would hold
        most of the weights.
        """
        from transformers.models.llama.configuration_llama import LlamaConfig
        from transformers.models.llama.modeling_llama import LlamaForCausalLM

        from carbs_scaling.models.attention import ATTENTION

        config = LlamaConfig(
            vocab_size=shape.vocabulary_size,
            hidden_size=shape.width,
            intermediate_size=self.intermediate_size(shape),
            num_hidden_layers=shape.depth,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.heads,
            head_dim=shape.head_size,
            max_position_embeddings=shape.sequence_length,
            initializer_range=shape.initial_weight_sd,
            use_cache=False,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
            tie_word_embeddings=True,
        )
        config._attn_implementation = ATTENTION
        return LlamaForCausalLM(config)


FAMILY: ModelFamily = Llama()
