"""What Llama and its descendants share: rotary positions, RMSNorm, SwiGLU, grouped queries, no biases.

Every family in its own file says what it adds; there is no default family here.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from carbs_scaling.errors import ConfigError
from carbs_scaling.models.activations import (
    FLOAT32_BYTES,
    attention_bytes,
    head_norm_bytes,
    rms_norm_bytes,
)
from carbs_scaling.models.family import ModelFamily, ModelShape

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

Config = TypeVar("Config", bound="PretrainedConfig")


@dataclass(frozen=True)
class DecoderOptions:
    """What may be chosen of a decoder beside its sizes.

    Args:
        key_value_heads: heads of keys and values, the same for every width; None to follow from the next.
        queries_per_key_value: query heads that share one head of keys and values; 1 for plain attention
            (grouped-query attention: Ainslie et al., arXiv 2305.13245). Ignored where the first is given.
        mlp_ratio: width of SwiGLU over d, rounded up to a multiple of 8. Three matrices of 8/3 d hold as many
            weights as the two of 4d in GPT-2 (Shazeer, arXiv 2002.05202).
        tied_head: whether the output head is the token embedding.

    Raises:
        ConfigError: a value that cannot be.
    """

    key_value_heads: int | None = None
    queries_per_key_value: int = 1
    mlp_ratio: float = 8 / 3
    tied_head: bool = True

    def __post_init__(self) -> None:
        for name in ("key_value_heads", "queries_per_key_value"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"model.{name}={value} must be at least 1")
        if not 0 < self.mlp_ratio < float("inf"):
            raise ConfigError(f"model.mlp_ratio={self.mlp_ratio} must be a positive number")


class Decoder(ModelFamily):
    """Counts of a decoder whose MLP is dense. See `ModelFamily`.

    Attributes:
        norms_heads: whether queries and keys pass through an RMSNorm a head.
    """

    options_type: type = DecoderOptions
    has_plain_head = True
    norms_heads = False

    def width_step(self, options: DecoderOptions, head_size: int) -> int:
        """Whole groups of heads."""
        return head_size * (options.key_value_heads or options.queries_per_key_value)

    def check(self, shape: ModelShape) -> None:
        """The head size is even, and query heads are shared out evenly among those of keys and values."""
        if shape.head_size % 2:
            raise ConfigError(
                f"model.head_size={shape.head_size} must be even: rotary positions turn pairs of coordinates"
            )
        options = shape.options
        name = "queries_per_key_value" if options.key_value_heads is None else "key_value_heads"
        if shape.heads % getattr(options, name):
            raise ConfigError(
                f"width {shape.width} has {shape.heads} heads, which is no multiple of "
                f"model.{name}={getattr(options, name)}"
            )

    def key_value_heads(self, shape: ModelShape) -> int:
        """Heads of keys and values a block."""
        fixed: int | None = shape.options.key_value_heads
        return shape.heads // int(shape.options.queries_per_key_value) if fixed is None else fixed

    def key_value_width(self, shape: ModelShape) -> int:
        """Width of all keys of a token, and of all values."""
        return self.key_value_heads(shape) * shape.head_size

    def intermediate_size(self, shape: ModelShape) -> int:
        """Width of SwiGLU, a multiple of 8."""
        # 8/3 of a width in floating point may lie just above the whole number that it is.
        return 8 * -int(-(shape.options.mlp_ratio * shape.width / 8 - 1e-9) // 1)

    def attention_params(self, shape: ModelShape) -> int:
        """Weights of a block's queries, keys, values and output."""
        return 2 * shape.width * (shape.width + self.key_value_width(shape))

    def params(self, shape: ModelShape) -> int:
        """Queries, keys, values, output, and the three matrices of the MLP."""
        mlp = 3 * shape.width * self.intermediate_size(shape)
        return shape.depth * (self.attention_params(shape) + mlp)

    def total_params(self, shape: ModelShape) -> int:
        """All matrices of the blocks, embedding and head, and the gains of the norms."""
        gains = (2 * shape.depth + 1) * shape.width
        if self.norms_heads:
            gains += 2 * shape.depth * shape.head_size
        embeddings = shape.vocabulary_size * shape.width
        if shape.classes is not None or not shape.options.tied_head:
            embeddings += self.head_params(shape)
        return self.block_params(shape) + embeddings + gains

    def activation_bytes(self, shape: ModelShape, sequences: int, bytes_per_activation: int) -> int:
        """A block keeps norm, attention, norm, and its MLP."""
        d, size = shape.width, bytes_per_activation
        attention = rms_norm_bytes(d, size, readers=3)
        attention += attention_bytes(d, self.key_value_width(shape), shape.heads, size)
        if self.norms_heads:
            attention += head_norm_bytes(shape.heads + self.key_value_heads(shape), shape.head_size, size)
        block = attention + self.mlp_bytes(shape, size)
        token = shape.depth * block + rms_norm_bytes(d, size, readers=1)
        rotary_tables = 2 * FLOAT32_BYTES * shape.sequence_length * shape.head_size
        return sequences * shape.sequence_length * token + rotary_tables

    def mlp_bytes(self, shape: ModelShape, bytes_per_activation: int) -> int:
        """Bytes a token that norm and MLP of a block keep: SwiGLU's gate, SiLU, up and product."""
        swiglu = 4 * bytes_per_activation * self.intermediate_size(shape)
        return rms_norm_bytes(shape.width, bytes_per_activation, readers=2) + swiglu

    def block_gradient_bytes(self, shape: ModelShape, tokens: int, bytes_per_activation: int) -> int:
        """The residual stream, and the MLP's gate, up and product."""
        mlp = 3 * bytes_per_activation * self.intermediate_size(shape)
        return tokens * (FLOAT32_BYTES * shape.width + mlp)

    def settings(self, shape: ModelShape) -> dict[str, Any]:
        """The fields that the configurations of all these families in `transformers` have."""
        return {
            "vocab_size": shape.vocabulary_size,
            "hidden_size": shape.width,
            "intermediate_size": self.intermediate_size(shape),
            "num_hidden_layers": shape.depth,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": self.key_value_heads(shape),
            "head_dim": shape.head_size,
            "max_position_embeddings": shape.sequence_length,
            "initializer_range": shape.initial_weight_sd,
            "use_cache": False,
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": None,
            "tie_word_embeddings": shape.options.tied_head,
            **({} if shape.classes is None else {"num_labels": shape.classes}),
        }


def padded(model: Any, shape: ModelShape) -> "nn.Module":
    """The model; one of classes with a token that fills up texts, which its head looks for.

    It is set afterwards: an embedding that knows of it would not train that token.
    """
    if shape.classes is not None:
        model.config.pad_token_id = 0
    made: nn.Module = model
    return made


def with_our_attention(config: Config) -> Config:
    """The configuration with the attention of `models.attention`."""
    from carbs_scaling.models.attention import ATTENTION

    config._attn_implementation = ATTENTION
    return config
