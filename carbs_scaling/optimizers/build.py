"""The optimizer of a recipe: decay on matrices only."""

import torch
from torch import nn

from carbs_scaling.config import OptimizerConfig
from carbs_scaling.training.recipe import Recipe


def build_optimizer(model: nn.Module, recipe: Recipe, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW, or SGD with momentum `beta1`, at the peak learning rate.

    Weight decay acts on matrices, the embedding among them, and not on gains and biases. AdamW decays apart
    from the gradient; SGD adds it to the gradient. Both are fused: one kernel on a GPU, one pass over the
    weights on the CPU, where the plain loop takes five times as long.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=config.beta1, fused=True)
    return torch.optim.AdamW(
        groups, lr=recipe.learning_rate, betas=(config.beta1, recipe.beta2), eps=config.epsilon, fused=True
    )
