"""GPT-2: learned positions, LayerNorm, biases, a GELU MLP of width 4d, a tied head. N = 12 L d^2.

Radford et al. 2019, "Language models are unsupervised multitask learners". `transformers` takes seconds to
import, so it is imported when the first model is built.
"""

from typing import TYPE_CHECKING

from carbs_scaling.models.activations import FLOAT32_BYTES, attention_bytes, layer_norm_bytes
from carbs_scaling.models.family import ModelFamily, ModelShape

if TYPE_CHECKING:
    from torch import nn


class GPT2(ModelFamily):
    """See `ModelFamily`."""

    name = "gpt2"
    has_plain_head = True
    classifies = True

    def intermediate_size(self, shape: ModelShape) -> int:
        """4d."""
        return 4 * shape.width

    def params(self, shape: ModelShape) -> int:
        """Queries, keys, values, output and the two matrices of the MLP: 12 L d^2."""
        return 12 * shape.depth * shape.width**2

    def total_params(self, shape: ModelShape) -> int:
        """N, token and position embeddings, biases of all matrices, gain and bias of two norms a block."""
        d = shape.width
        biases = 5 * d + self.intermediate_size(shape)
        norms = 4 * d
        embeddings = (shape.vocabulary_size + shape.sequence_length + (shape.classes or 0)) * d
        return self.params(shape) + embeddings + shape.depth * (biases + norms) + 2 * d

    def activation_bytes(self, shape: ModelShape, sequences: int, bytes_per_activation: int) -> int:
        """A block keeps 16 d values a token: norm, attention, norm, and the MLP before and after GELU."""
        d, size = shape.width, bytes_per_activation
        # One matrix makes queries, keys and values.
        attention = layer_norm_bytes(d, size, readers=1) + attention_bytes(d, d, shape.heads, size)
        mlp = layer_norm_bytes(d, size, readers=1) + 2 * size * self.intermediate_size(shape)
        token = shape.depth * (attention + mlp) + layer_norm_bytes(d, size, readers=1)
        return sequences * shape.sequence_length * token

    def block_gradient_bytes(self, shape: ModelShape, tokens: int, bytes_per_activation: int) -> int:
        """The residual stream, and the MLP before and after GELU."""
        mlp = 2 * bytes_per_activation * self.intermediate_size(shape)
        return tokens * (FLOAT32_BYTES * shape.width + mlp)

    def build(self, shape: ModelShape) -> "nn.Module":
        """A `GPT2LMHeadModel`, or a `GPT2ForSequenceClassification`.

        The head is tied to the embedding: at these sizes a head of its own would hold most of the weights.
        No dropout: runs of about one epoch do not need it.
        """
        from transformers.models.gpt2.configuration_gpt2 import GPT2Config
        from transformers.models.gpt2.modeling_gpt2 import GPT2ForSequenceClassification, GPT2LMHeadModel

        from carbs_scaling.models.attention import ATTENTION

        config = GPT2Config(
            vocab_size=shape.vocabulary_size,
            n_positions=shape.sequence_length,
            n_embd=shape.width,
            n_layer=shape.depth,
            n_head=shape.heads,
            n_inner=self.intermediate_size(shape),
            # The same function as GPT-2's `gelu_new`, in one kernel instead of eight.
            activation_function="gelu_pytorch_tanh",
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            initializer_range=shape.initial_weight_sd,
            use_cache=False,
            bos_token_id=None,
            eos_token_id=None,
            tie_word_embeddings=True,
        )
        config._attn_implementation = ATTENTION
        if shape.classes is None:
            return GPT2LMHeadModel(config)
        config.num_labels, config.pad_token_id = shape.classes, 0
        return GPT2ForSequenceClassification(config)


FAMILY: ModelFamily = GPT2()
