"""ViT: patches of an image as tokens, learned positions, LayerNorm, a GELU MLP of width 4d. N = 12 L d^2.

Dosovitskiy et al. 2021 (arXiv 2010.11929). A token is a patch; the head reads one more, the class token.
`transformers` takes seconds to import, so it is imported when the first model is built.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from carbs_scaling.errors import ConfigError
from carbs_scaling.models.activations import FLOAT32_BYTES, attention_bytes, layer_norm_bytes
from carbs_scaling.models.family import ModelFamily, ModelShape

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ViTOptions:
    """The images.

    Args:
        image_size: pixels of a side; images are resized to it.
        patch_size: pixels of a patch's side.
        channels: 1 for grey, 3 for colours.

    Raises:
        ConfigError: a value that cannot be.
    """

    image_size: int = 8
    patch_size: int = 2
    channels: int = 1

    def __post_init__(self) -> None:
        for name in ("image_size", "patch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name}={getattr(self, name)} must be at least 1")
        if self.channels not in (1, 3):
            raise ConfigError(f"model.channels={self.channels} must be 1 (grey) or 3 (colours)")
        if self.image_size % self.patch_size:
            raise ConfigError(
                f"model.patch_size={self.patch_size} must divide model.image_size={self.image_size}"
            )

    @property
    def patches(self) -> int:
        """Patches an image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def patch_values(self) -> int:
        """Numbers a patch."""
        return self.channels * self.patch_size**2


class ViT(ModelFamily):
    """See `ModelFamily`."""

    name = "vit"
    options_type = ViTOptions
    has_parametrizations = False
    inputs = "images"
    classifies = True

    def fixed_sizes(self, options: ViTOptions) -> dict[str, int]:
        """The tokens an image, and no vocabulary."""
        return {"sequence_length": options.patches + 1, "vocabulary_size": 1}

    def params(self, shape: ModelShape) -> int:
        """Queries, keys, values, output and the two matrices of the MLP: 12 L d^2."""
        return 12 * shape.depth * shape.width**2

    def total_params(self, shape: ModelShape) -> int:
        """N, biases and norms of the blocks, patches, class token, positions, final norm, and the head."""
        d = shape.width
        block = 9 * d + 4 * d
        embedding = (shape.options.patch_values + 1) * d + (1 + shape.sequence_length) * d
        return self.params(shape) + shape.depth * block + embedding + 2 * d + (d + 1) * shape.scores

    def scored_positions(self, shape: ModelShape) -> int:
        """The class token alone."""
        return 1

    def embedding_flops_per_token(self, shape: ModelShape) -> float:
        """The matrix of the patches, forward and its own gradient; nobody needs the gradient of pixels."""
        share = shape.options.patches / shape.sequence_length
        return 4.0 * shape.options.patch_values * shape.width * share

    def activation_bytes(self, shape: ModelShape, sequences: int, bytes_per_activation: int) -> int:
        """A block keeps norm, attention, norm, and the MLP before and after GELU; the pixels stay too."""
        d, size = shape.width, bytes_per_activation
        attention = layer_norm_bytes(d, size, readers=3) + attention_bytes(d, d, shape.heads, size)
        mlp = layer_norm_bytes(d, size, readers=1) + 2 * size * 4 * d
        # The head reads one position: where it is in 2 bytes, that one alone is cast.
        final = layer_norm_bytes(d, size, readers=1 if size == FLOAT32_BYTES else 0)
        token = shape.depth * (attention + mlp) + final
        pixels = size * shape.options.patches * shape.options.patch_values
        return sequences * (shape.sequence_length * token + pixels)

    def block_gradient_bytes(self, shape: ModelShape, tokens: int, bytes_per_activation: int) -> int:
        """The residual stream, a norm and its input, and the MLP before GELU."""
        return tokens * (3 * FLOAT32_BYTES + 4 * bytes_per_activation) * shape.width

    def build(self, shape: ModelShape) -> "nn.Module":
        """A `ViTForImageClassification` without dropout."""
        from transformers.models.vit.configuration_vit import ViTConfig
        from transformers.models.vit.modeling_vit import ViTForImageClassification

        config = ViTConfig(
            hidden_size=shape.width,
            num_hidden_layers=shape.depth,
            num_attention_heads=shape.heads,
            intermediate_size=4 * shape.width,
            hidden_act="gelu",
            initializer_range=shape.initial_weight_sd,
            image_size=shape.options.image_size,
            patch_size=shape.options.patch_size,
            num_channels=shape.options.channels,
        )
        config.num_labels = shape.scores
        config._attn_implementation = "sdpa"
        return ViTForImageClassification(config)


FAMILY: ModelFamily = ViT()
