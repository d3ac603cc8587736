"""A trained model on disk as `transformers` loads it: weights, configuration, tokenizer, no code of ours."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from carbs_scaling.data.config import BYTES, NO_TOKENIZER
from carbs_scaling.errors import ConfigError
from carbs_scaling.models.lora import merge_adapters

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Attention of `transformers` itself, which computes what `models.attention` does.
STOCK_ATTENTION = "sdpa"


def load_tokenizer(name: str) -> "PreTrainedTokenizerBase | None":
    """The tokenizer called `bytes`, or a Hugging Face tokenizer's name or folder; None for `none`.

    Raises:
        ConfigError: it cannot be loaded.
    """
    if name == NO_TOKENIZER:
        return None
    if name == BYTES:
        return byte_tokenizer()
    from huggingface_hub.errors import HTTPError

    try:
        return _pretrained(name)
    except (OSError, ValueError, KeyError, ImportError, HTTPError) as error:
        reason = (str(error).splitlines() or ["unknown"])[0]
        raise ConfigError(
            f"data.tokenizer={name} cannot be loaded to be saved with a model: {reason}"
        ) from error


def save_model(model: nn.Module, tokenizer: "PreTrainedTokenizerBase | None", folder: str | Path) -> None:
    """Write a trained model and its tokenizer; the model is for nothing else after that.

    Args:
        model: of a family in `models/`.
        tokenizer: of its text, see `load_tokenizer`; None where it is not known.
        folder: made where it is missing.

    Raises:
        OSError: the folder cannot be written.
    """
    from transformers import GenerationConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    own: Any = merge_adapters(model)
    own.set_attn_implementation(STOCK_ATTENTION)
    own.config.use_cache = True  # off in training, where nothing is generated
    if getattr(own.config, "output_router_logits", False):
        own.config.output_router_logits = False  # so that its loss is the one that is reported
    end = None if tokenizer is None else tokenizer.eos_token_id
    own.config.eos_token_id = end
    own.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=end)
    Path(folder).mkdir(parents=True, exist_ok=True)
    own.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def save_classifier(
    model: nn.Module,
    tokenizer: "PreTrainedTokenizerBase | None",
    folder: str | Path,
    classes: Sequence[str],
) -> None:
    """Write a trained classifier, with its tokenizer or image processor; the model is for nothing else then.

    Args:
        model: of a family in `models/`, with a head for classes.
        tokenizer: of its texts; None for images.
        folder: made where it is missing.
        classes: their names, by number.

    Raises:
        OSError: the folder cannot be written.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    own: Any = merge_adapters(model)
    own.set_attn_implementation(STOCK_ATTENTION)
    own.config.id2label = dict(enumerate(classes))
    own.config.label2id = {name: number for number, name in enumerate(classes)}
    Path(folder).mkdir(parents=True, exist_ok=True)
    own.save_pretrained(folder)
    if tokenizer is not None:
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.save_pretrained(folder)
    else:
        size = {"height": own.config.image_size, "width": own.config.image_size}
        processor = {
            "image_processor_type": "ViTImageProcessor",
            "size": size,
            "do_resize": True,
            "do_rescale": True,
            "do_normalize": True,
            "image_mean": [0.5] * own.config.num_channels,
            "image_std": [0.5] * own.config.num_channels,
        }
        (Path(folder) / "preprocessor_config.json").write_text(
            json.dumps(processor, indent=1), encoding="utf-8"
        )


def byte_tokenizer() -> "PreTrainedTokenizerBase":
    """Each UTF-8 byte is the token of its value, 256 in all; byte 0 ends a text, as in `data.tokenization`.

    A byte-pair tokenizer without merges, in the characters that GPT-2's tokenizer shows bytes as: it is one
    `tokenizer.json`, which `transformers` loads with no code of ours.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    shown = bytes_to_unicode()
    tokenizer = Tokenizer(models.BPE(vocab={shown[byte]: byte for byte in range(256)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=shown[0], clean_up_tokenization_spaces=False
    )


def _pretrained(name: str) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    from carbs_scaling.data.hub import quiet_hub

    with quiet_hub():
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    return tokenizer
