"""Models that `transformers` builds from a configuration of its own kinds, whatever they are.

No code of a model's repository is run: kinds that `transformers` does not know itself are refused, and
weights are read from safetensors alone.
"""

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carbs_scaling.errors import ConfigError

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


def read_config(given: Any, option: str = "model.config") -> dict[str, Any]:
    """The values of a configuration.

    Args:
        given: a mapping, its JSON text, or the path of a JSON file or of a folder with `config.json`.
        option: that it was given by, for messages.

    Raises:
        ConfigError: it cannot be read, or names no kind of model.
    """
    values = given
    if isinstance(given, str):
        text = given
        if not given.lstrip().startswith("{"):
            path = Path(given).expanduser()
            path = path / "config.json" if path.is_dir() else path
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                reason = getattr(error, "strerror", None) or "not text"
                raise ConfigError(f"{option}={given}: {reason}") from None
        try:
            values = json.loads(text)
        except ValueError:
            raise ConfigError(f"{option}={given[:60]}: its configuration is not JSON") from None
    if not (isinstance(values, dict) and isinstance(values.get("model_type"), str)):
        raise ConfigError(
            "model.config needs a configuration of transformers with a model_type: a JSON file, or values "
            "such as '{model_type: llama, hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 4}'"
        )
    return values


def size_of(config: "PretrainedConfig", name: str) -> int | None:
    """A positive whole number of a configuration; None where it has none of this name."""
    value = getattr(config, name, None)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


@cache
def make_config(text: str) -> "PretrainedConfig":
    """The configuration in `transformers` of the JSON text; kept, and never to be changed.

    Dropout is off: runs of about one epoch do not need it, and a run that goes on from a checkpoint could not
    draw the same masks.

    Raises:
        ConfigError: `transformers` does not know the kind itself, or refuses the values.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    values = json.loads(text)
    kind = values.pop("model_type")
    values.pop("auto_map", None)  # where a repository's own code is
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ConfigError(
            f"model_type={kind} is no causal language model that transformers itself has, and code of a "
            "model's repository is never run"
        )
    try:
        config: PretrainedConfig = AutoConfig.for_model(kind, **values)
        for name in [name for name in config.to_dict() if is_dropout(name)]:
            if isinstance(getattr(config, name), float):
                setattr(config, name, 0.0)
        config.use_cache = False
    except (TypeError, ValueError, KeyError, AttributeError, ImportError, StrictDataclassError) as error:
        raise ConfigError(f"model_type={kind}: {first_line(error)}") from error
    return config


def is_dropout(name: str) -> bool:
    """Whether a field of a configuration is a probability of dropout."""
    return "dropout" in name or name.endswith(("_pdrop", "layerdrop"))


def first_line(error: BaseException) -> str:
    """What an error of a library says first."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def model_class(classes: int | None) -> Any:
    """What makes a model of a configuration: one of the next token, or one of classes."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    return AutoModelForCausalLM if classes is None else AutoModelForSequenceClassification


def with_classes(config: "PretrainedConfig", classes: int | None) -> "PretrainedConfig":
    """A copy, since a model keeps its configuration and may change it, with a head for so many classes."""
    from copy import deepcopy

    own = deepcopy(config)
    if classes is not None:
        own.num_labels = classes
        own.problem_type = "single_label_classification"
        if getattr(own, "pad_token_id", None) is None:
            own.pad_token_id = 0
    return own


def make_model(config: "PretrainedConfig", classes: int | None = None) -> "nn.Module":
    """A model with random weights.

    Raises:
        ConfigError: `transformers` cannot make one.
    """
    try:
        model: nn.Module = model_class(classes).from_config(with_classes(config, classes))
    except (ValueError, TypeError, KeyError, AttributeError, ImportError, ZeroDivisionError) as error:
        raise ConfigError(f"transformers makes no model of model.config: {first_line(error)}") from error
    return model
