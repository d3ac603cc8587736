"""A trained model from a folder or the hub: `model=pretrained model.path=FOLDER_OR_NAME`. It has one size.

Its training goes on from its weights, with its own tokenizer. Only safetensors are read: other weight files
are pickles, which may run code. Code of a model's repository is never run.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from carbs_scaling.errors import ConfigError
from carbs_scaling.models.family import ModelFamily, ModelShape
from carbs_scaling.models.lora import (
    LoraCounts,
    add_adapters,
    head_of_classes,
    lora_counts,
    lora_kept_bytes,
)
from carbs_scaling.models.measured import Counts, Measured, counts, maker
from carbs_scaling.models.stock import (
    DEPTH,
    WIDTH,
    first_line,
    make_config,
    model_class,
    read_config,
    size_of,
    with_classes,
)

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

# What is fetched of a model on the hub; weights in pickles and code are not.
PATTERNS = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "tokenizer.model", "*.tiktoken")
SAMPLES, SAMPLE_BYTES = 64, 4096  # of each file of weights, for its fingerprint


@dataclass(frozen=True)
class PretrainedOptions:
    """A trained model.

    Args:
        path: of a folder, or the name of a model on the hub.
        weights_sha256: of a sample of its weights and its configuration; None for whatever is there. A study
            and a recipe keep it, so that they are never mixed with those of other weights.
        lora_rank: of adapters beside the frozen weights (`models.lora`); 0 to train all weights.
        lora_alpha: their scale is this over the rank.
        lora_params: what N counts where there are adapters: `trained` weights, or all that are multiplied by.

    Raises:
        ConfigError: there is none, it has no safetensors, or its weights are other ones.
    """

    path: str = ""
    weights_sha256: str | None = None
    lora_rank: int = 0
    lora_alpha: float = 16.0
    lora_params: str = "trained"

    def __post_init__(self) -> None:
        if not self.path:
            raise ConfigError("model=pretrained needs model.path, a folder or the name of a model on the hub")
        if self.lora_rank < 0 or not self.lora_alpha > 0:
            raise ConfigError("model.lora_rank must not be negative, and model.lora_alpha positive")
        if self.lora_params not in ("trained", "total"):
            raise ConfigError(f"model.lora_params={self.lora_params} is not one of trained, total")
        found = fingerprint(local_folder(self.path))
        if self.weights_sha256 not in (None, found):
            raise ConfigError(f"model.path={self.path} holds other weights than those of the study or recipe")
        object.__setattr__(self, "weights_sha256", found)


@cache
def local_folder(path: str) -> Path:
    """The folder of a model, fetched from the hub where it is no folder here.

    Raises:
        ConfigError: there is none, or it has no safetensors.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        folder = _fetched(path)
    if not (folder / "config.json").is_file():
        raise ConfigError(f"model.path={path} holds no config.json: it is no model of transformers")
    if not any(folder.glob("*.safetensors")):
        raise ConfigError(
            f"model.path={path} holds no safetensors: other weight files, such as pytorch_model.bin, are "
            "pickles, which may run code, and are not read; save the model again as safetensors"
        )
    return folder


def _fetched(name: str) -> Path:
    """The folder of a hub's model in the local cache; what is not there yet is fetched."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    for offline in (True, False):
        try:
            folder = Path(snapshot_download(name, allow_patterns=list(PATTERNS), local_files_only=offline))
        except LocalEntryNotFoundError:
            continue
        except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
            raise ConfigError(
                f"model.path={name} is no folder here, and the hub has none of this name: {first_line(error)}"
            ) from error
        if not offline or any(folder.glob("*.safetensors")):
            return folder
    raise ConfigError(f"model.path={name} is no folder here, and the hub is out of reach")


@cache
def fingerprint(folder: Path) -> str:
    """A hash of the configuration, and of sizes and samples of the weights: gigabytes are not read whole."""
    digest = sha256((folder / "config.json").read_bytes())
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as handle:
            for sample in range(SAMPLES):
                handle.seek(sample * max(0, size - SAMPLE_BYTES) // (SAMPLES - 1))
                digest.update(handle.read(SAMPLE_BYTES))
    return digest.hexdigest()


class Pretrained(Measured):
    """See `ModelFamily`."""

    name = "pretrained"
    options_type = PretrainedOptions
    classifies = True

    def fixed_sizes(self, options: PretrainedOptions) -> dict[str, int]:
        """All of them but the sequence length."""
        config = _config(options.path)
        width, depth = (size_of(config, name) or 1 for name in (WIDTH, DEPTH))
        return {
            "width": width,
            "depth": depth,
            "head_size": 1,  # heads may be of any width beside that of the model
            "vocabulary_size": size_of(config, "vocab_size") or 1,
        }

    def tokenizer(self, options: PretrainedOptions) -> str:
        """The model's own."""
        return options.path

    def check(self, shape: ModelShape) -> None:
        """The sequences are no longer than the model takes."""
        most = size_of(_config(shape.options.path), "max_position_embeddings")
        if most is not None and shape.sequence_length > most:
            raise ConfigError(
                f"model.sequence_length={shape.sequence_length}: this model takes at most {most} tokens"
            )

    def config(self, shape: ModelShape) -> "PretrainedConfig":
        """As in the folder, without dropout."""
        return _config(shape.options.path)

    def _lora(self, shape: ModelShape) -> LoraCounts | None:
        """What adapters change; None without them."""
        rank = shape.options.lora_rank
        return lora_counts(self._plain(shape), shape.sequence_length, rank) if rank else None

    def _plain(self, shape: ModelShape) -> "Callable[[], nn.Module]":
        """What makes the model without adapters."""
        return maker(self, replace(shape, options=replace(shape.options, lora_rank=0, lora_alpha=1.0)))

    def _counts(self, shape: ModelShape) -> Counts:
        return counts(self._plain(shape), shape.sequence_length)

    def params(self, shape: ModelShape) -> int:
        """As of any measured model; with adapters, what `lora_params` says."""
        whole, lora = super().params(shape), self._lora(shape)
        if lora is None:
            return whole
        adapters = round(lora.trained_params)
        return adapters if shape.options.lora_params == "trained" else whole + adapters

    def total_params(self, shape: ModelShape) -> int:
        """All parameters, adapters among them."""
        whole, lora = super().total_params(shape), self._lora(shape)
        return whole if lora is None else whole + round(lora.trained_params) - self._head_of_classes(shape)

    def trained_params(self, shape: ModelShape) -> int:
        """All, or the adapters with a head for classes."""
        lora = self._lora(shape)
        return super().total_params(shape) if lora is None else round(lora.trained_params)

    def _head_of_classes(self, shape: ModelShape) -> int:
        """Weights of the head that is trained beside adapters."""
        if shape.classes is None:
            return 0
        model = self._plain(shape)
        return head_of_classes(model)

    def matrix_flops_per_token(self, shape: ModelShape) -> float:
        """With adapters, of all matrices, the head among them: frozen ones have no gradient of their own."""
        lora = self._lora(shape)
        return super().matrix_flops_per_token(shape) if lora is None else lora.flops_per_token

    def head_flops_per_token(self, shape: ModelShape) -> float:
        """With adapters, counted with the other matrices."""
        return 0.0 if shape.options.lora_rank else super().head_flops_per_token(shape)

    def attention_flops_per_token(self, shape: ModelShape) -> float:
        """Measured."""
        lora = self._lora(shape)
        return super().attention_flops_per_token(shape) if lora is None else lora.attention_flops_per_token

    def activation_bytes(self, shape: ModelShape, sequences: int, bytes_per_activation: int) -> int:
        """Measured; frozen matrices keep nothing of what they are multiplied by."""
        rank = shape.options.lora_rank
        if not rank:
            return super().activation_bytes(shape, sequences, bytes_per_activation)
        each = lora_kept_bytes(self._plain(shape), shape.sequence_length, bytes_per_activation, rank)
        return sequences * each

    def build(self, shape: ModelShape) -> "nn.Module":
        """The model with its weights, in float32; a head for classes that it does not have is drawn."""
        import torch
        from safetensors import SafetensorError
        from transformers.utils import logging

        logging.disable_progress_bar()
        logging.set_verbosity_error()  # it would report that head in many lines
        folder = local_folder(shape.options.path)
        try:
            model: nn.Module = model_class(shape.classes).from_pretrained(
                folder,
                config=with_classes(self.config(shape), shape.classes),
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
            )
        except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
            raise ConfigError(f"model.path={shape.options.path}: {first_line(error)}") from error
        options = shape.options
        return add_adapters(model, options.lora_rank, options.lora_alpha) if options.lora_rank else model


@cache
def _config(path: str) -> "PretrainedConfig":
    values = read_config(str(local_folder(path)), "model.path")
    values.pop("quantization_config", None)
    return make_config(json.dumps(values, sort_keys=True))


FAMILY: ModelFamily = Pretrained()
