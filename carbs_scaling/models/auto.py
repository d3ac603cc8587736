"""Any causal language model that `transformers` itself has, from its configuration: `model.config=FILE`.

Width and depth are those of the search where the configuration has them. FLOPs and memory are measured
(`models.measured`), not counted by a rule.
"""

import json
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from carbs_scaling.models.family import ModelFamily, ModelShape
from carbs_scaling.models.measured import Measured
from carbs_scaling.models.stock import (
    DEPTH,
    HEADS,
    INNER_WIDTHS,
    KEY_VALUE_HEADS,
    LAYER_LISTS,
    WIDTH,
    make_config,
    make_model,
    read_config,
    size_of,
)

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig


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


class Auto(Measured):
    """See `ModelFamily`."""

    name = "auto"
    options_type = AutoOptions
    classifies = True

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
        """The model that `AutoModelForCausalLM` makes, or `AutoModelForSequenceClassification`."""
        return make_model(self.config(shape), shape.classes)


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


def _required(config: "PretrainedConfig", name: str) -> int:
    value = size_of(config, name)
    assert value is not None
    return value


FAMILY: ModelFamily = Auto()
