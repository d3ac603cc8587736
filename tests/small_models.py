"""Small shapes of every family, for the tests that all families pass."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from carbs_scaling.models.build import build_model
from carbs_scaling.models.family import FAMILIES, ModelShape, load_family
from carbs_scaling.training.losses import LabelLosses, Losses, TokenLosses
from carbs_scaling.training.saved_model import byte_tokenizer, save_model

# Families with what is not their default, and those that need something to be said.
VARIANTS = {
    "llama-grouped": ("llama", {"queries_per_key_value": 2, "tied_head": False, "mlp_ratio": 3.5}),
    "llama-one-key": ("llama", {"key_value_heads": 1}),
    "qwen3_moe-three": ("qwen3_moe", {"experts": 4, "experts_per_token": 3, "tied_head": False}),
    "auto-moe": ("auto", {"config": {"model_type": "olmoe", "num_experts": 4, "num_experts_per_tok": 2}}),
}
DEFAULTS = {"auto": {"config": {"model_type": "mistral"}}}
# Families of language models.
NAMES = [name for name in FAMILIES.names if load_family(name).inputs == "tokens"]
CASES = (*NAMES, *VARIANTS)


def small_shape(case: str, folder: Path, *sizes: int) -> ModelShape:
    """A shape of the case: width, depth, head size, vocabulary, sequence length.

    Args:
        case: one of `CASES`.
        folder: for the weights of a pretrained model, which is Llama's.
        sizes: as above.
    """
    name, options = VARIANTS.get(case, (case, DEFAULTS.get(case)))
    if case.endswith("-classes"):
        return replace(small_shape(case.removesuffix("-classes"), folder, *sizes), classes=5)
    if name == "vit":
        # Patches of two pixels a side, as many as tokens, and the class token.
        side = 2 * round(sizes[4] ** 0.5)
        options = {"image_size": side, "patch_size": 2, "channels": 3}
        return ModelShape(name, *sizes[:3], 1, (side // 2) ** 2 + 1, options, 10)
    if name == "pretrained":
        shape = ModelShape(name, sizes[0], sizes[1], 1, *sizes[3:], {"path": trained_folder(folder, sizes)})
    elif name == "auto":
        head_size = sizes[2]
        config = {
            **options["config"],
            **{"hidden_size": 4 * head_size, "num_attention_heads": 4, "num_key_value_heads": 4},
            **{"intermediate_size": 8 * head_size, "num_hidden_layers": 2},
        }
        shape = ModelShape(name, *sizes, {"config": config})
    else:
        # Two heads at least, where a group of heads has two.
        width = max(sizes[0], 2 * sizes[2])
        shape = ModelShape(name, width, *sizes[1:], options)
    return shape


def losses_of(shape: ModelShape) -> Losses:
    """How a batch of `batch_of` becomes a loss."""
    if shape.classes is None:
        return TokenLosses()
    if shape.family.inputs == "images":
        return LabelLosses(shape.options.channels, shape.options.image_size)
    return LabelLosses()


def batch_of(shape: ModelShape, count: int) -> torch.Tensor:
    """So many windows or examples, of random tokens or pixels."""
    generator = torch.Generator().manual_seed(0)
    if shape.classes is None:
        size = (count, shape.sequence_length + 1)
        return torch.randint(shape.vocabulary_size, size, generator=generator)
    labels = torch.randint(shape.classes, (count, 1), generator=generator)
    if shape.family.inputs == "images":
        pixels = torch.randn(count, shape.options.patches * shape.options.patch_values, generator=generator)
        return torch.cat([pixels, labels.float()], dim=1)
    tokens = torch.randint(1, shape.vocabulary_size, (count, shape.sequence_length), generator=generator)
    return torch.cat([tokens, torch.zeros_like(tokens), labels], dim=1)


@cache
def trained_folder(folder: Path, sizes: tuple[int, ...]) -> str:
    """A folder with a model as `train` leaves it."""
    path = folder / "-".join(map(str, sizes))
    model = build_model(ModelShape("llama", *sizes), seed=0)
    save_model(model, byte_tokenizer(), path)
    return str(path)


def sums(folder: Path, count: int = 80) -> str:
    """A file of rows of prompt and response that a few steps begin to learn."""
    file = folder / "rows.jsonl"
    rows = [
        {"prompt": f"{i % 9} and {i % 7}", "response": f"make {i % 9 + i % 7} ({i})"} for i in range(count)
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    return str(file)
