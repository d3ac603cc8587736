"""A model of any family from its shape and a seed, and the scores it gives."""

import torch
from torch import nn

from carbs_scaling.models.family import ModelShape
from carbs_scaling.models.parametrization import STANDARD, Parametrization, scale_initial_weights


def build_model(shape: ModelShape, seed: int, parametrization: Parametrization = STANDARD) -> nn.Module:
    """Build a model with random weights, on the CPU in float32. The global random state is left as it was.

    Args:
        shape: family and sizes.
        seed: of the initial weights.
        parametrization: how they scale with the shape.
    """
    with torch.random.fork_rng(devices=[]):
        # Not `torch.manual_seed`, which would reseed the GPUs too, and nothing would put those back.
        torch.default_generator.manual_seed(seed)
        model = shape.family.build(shape)
    scale_initial_weights(model, shape, parametrization)
    return model


def logits(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Scores of the next token: int64 [b, T] -> [b, T, V]."""
    scores: torch.Tensor = model(input_ids=tokens, use_cache=False).logits
    return scores
