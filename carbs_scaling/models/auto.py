"""Any causal language model that `transformers` itself has, from its configuration: `model.config=FILE`.

Width and depth are those of the search where the configuration has them. FLOPs and memory are measured
(`models.measured`), not counted by a rule.
"""

import json
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from carbs_scaling.errors import ConfigError
from carbs_scaling.models import measured
from carbs_scaling.models.activations import FLOAT32_BYTES
from carbs_scaling.models.family import ModelFamily, ModelShape
from carbs_scaling.models.stock import first_line, make_config, read_config

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

# Fields that grow with the width, by the names that configurations share. The first two are set.
WIDTH, HEADS, DEPTH = "hidden_size", "num_attention_heads", "num_hidden_layers"
KEY_VALUE_HEADS = "num_key_value_heads"
INNER_WIDTHS = (
    "intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size", "n_inner", "ffn_dim",
)  # fmt: skip
# Lists with an entry a layer, which another depth makes wrong; the configuration then makes its own.
LAYER_LISTS = ("layer_types", "layers_block_type", "mlp_layer_types")


@dataclass(frozen=True)
class AutoOptions:
    """A configuration of `transformers`.

    Args:
        config: its values, the path of a JSON file or of a folder with `config.json`, or JSON text; kept as
            JSON text with sorted keys, so that a recipe needs no file.

    Raises:
        ConfigError: it cannot be read, or it is no causal language model that `transformers` itself has.
    """

    config: Any = None

    def __post_init__(self) -> None:
        text = json.dumps(read_config(self.config), sort_keys=True)
        object.__setattr__(self, "config", text)
        make_config(text)


class Measured(ModelFamily):
    """Counts of families whose models `transformers` describes. See `ModelFamily`."""

    def config(self, shape: ModelShape) -> "PretrainedConfig":
        """The configuration of the model."""
        raise NotImplementedError

    def _counts(self, shape: ModelShape) -> measured.Counts:
        return measured.counts(_maker(self, shape), shape.sequence_length)

    def params(self, shape: ModelShape) -> int:
        """Half of the forward FLOPs a token that do not grow with T, less the head."""
        return self._counts(shape).params

    def block_params(self, shape: ModelShape) -> int:
        """Matrices that are neither embedding nor head."""
        return self._counts(shape).block_params

    def total_params(self, shape: ModelShape) -> int:
        """All parameters."""
        return self._counts(shape).total_params

    def head_params(self, shape: ModelShape) -> int:
        """Of the output head."""
        return self._counts(shape).head_params

    def attention_flops_per_token(self, shape: ModelShape) -> float:
        """Three times what grows with T in the forward pass."""
        return 3.0 * self._counts(shape).attention_flops_per_token

    def activation_bytes(self, shape: ModelShape, sequences: int, bytes_per_activation: int) -> int:
        """As a forward pass keeps them."""
        each, constant = measured.kept_bytes(_maker(self, shape), shape.sequence_length, bytes_per_activation)
        return sequences * each + constant

    def block_gradient_bytes(self, shape: ModelShape, bytes_per_activation: int) -> int:
        """The residual stream, and three tensors of the MLP's width."""
        inner = max((size_of(self.config(shape), name) or 0 for name in INNER_WIDTHS), default=0)
        return FLOAT32_BYTES * shape.width + 3 * bytes_per_activation * (inner or 4 * shape.width)


@cache
def _maker(family: Measured, shape: ModelShape) -> Any:
    """One callable a shape, by which measurements are kept."""
    return partial(make_model, family, shape)


def make_model(family: Measured, shape: ModelShape) -> "nn.Module":
    """A model with random weights.

    Raises:
        ConfigError: `transformers` cannot make one.
    """
    from copy import deepcopy

    from transformers import AutoModelForCausalLM

    try:
        # A model keeps its configuration, and may change it.
        model: nn.Module = AutoModelForCausalLM.from_config(deepcopy(family.config(shape)))
    except (ValueError, TypeError, KeyError, AttributeError, ImportError, ZeroDivisionError) as error:
        raise ConfigError(f"transformers makes no model of model.config: {first_line(error)}") from error
    return model


class Auto(Measured):
    """See `ModelFamily`."""

    name = "auto"
    options_type = AutoOptions

    def fixed_sizes(self, options: AutoOptions) -> dict[str, int]:
        """The head size, and those of width and depth that the configuration does not have."""
        config = make_config(options.config)
        width, heads, depth = (size_of(config, name) for name in (WIDTH, HEADS, DEPTH))
        if width is None or heads is None or width % heads:
            fixed = {"width": width or 1, "head_size": 1}
        else:
            shared = size_of(config, KEY_VALUE_HEADS) or heads
            groups = 1 if shared == 1 else heads // shared  # a single one serves any number of heads
            fixed = {"head_size": width // heads * groups}
        return fixed if depth is not None else {**fixed, "depth": 1}

    def config(self, shape: ModelShape) -> "PretrainedConfig":
        """With the shape's sizes: heads and inner widths grow with the width."""
        return _config_of(shape)

    def build(self, shape: ModelShape) -> "nn.Module":
        """The model that `AutoModelForCausalLM` makes."""
        return make_model(self, shape)


@cache
def _config_of(shape: ModelShape) -> "PretrainedConfig":
    template = make_config(shape.options.config)
    values = json.loads(shape.options.config)
    fixed = shape.family.fixed_sizes(shape.options)
    values |= {"vocab_size": shape.vocabulary_size, "use_cache": False}
    values |= {f"{end}_token_id": None for end in ("bos", "eos", "pad")}
    if "width" not in fixed:
        ratio = shape.width / _required(template, WIDTH)
        values |= {WIDTH: shape.width, HEADS: round(_required(template, HEADS) * ratio)}
        key_value_heads = size_of(template, KEY_VALUE_HEADS)
        if key_value_heads is not None and key_value_heads > 1:
            values[KEY_VALUE_HEADS] = round(key_value_heads * ratio)
        for name in INNER_WIDTHS:
            inner = size_of(template, name)
            if inner is not None:
                values[name] = 8 * max(1, round(inner * ratio / 8)) if ratio != 1 else inner
    if "depth" not in fixed:
        values[DEPTH] = shape.depth
        if shape.depth != size_of(template, DEPTH):
            values = {name: value for name, value in values.items() if name not in LAYER_LISTS}
    aliases = type(template).attribute_map  # such as n_embd for hidden_size
    for shared, own in aliases.items():
        if shared in values:
            values[own] = values.pop(shared)
    positions = size_of(template, "max_position_embeddings")
    if positions is not None and positions < shape.sequence_length:
        values[aliases.get("max_position_embeddings", "max_position_embeddings")] = shape.sequence_length
    return make_config(json.dumps(values, sort_keys=True))


def size_of(config: "PretrainedConfig", name: str) -> int | None:
    """A positive whole number of a configuration; None where it has none of this name."""
    value = getattr(config, name, None)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _required(config: "PretrainedConfig", name: str) -> int:
    value = size_of(config, name)
    assert value is not None
    return value


FAMILY: ModelFamily = Auto()
