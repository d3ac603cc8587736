"""AdamW: Adam with weight decay apart from the gradient (Loshchilov and Hutter 2019, arXiv 1711.05101)."""

from typing import TYPE_CHECKING

from carbs_scaling.optimizers.optimizer import Hyperparameters, Optimizer, ParameterGroups

if TYPE_CHECKING:
    import torch


class AdamW:
    """See `Optimizer`."""

    name = "adamw"
    rule = hidden_rule = "adam"
    state_bytes = hidden_state_bytes = 8  # both moments in float32
    capturable = True
    reads = frozenset({"learning_rate", "weight_decay", "beta1", "beta2", "epsilon"})

    def build(self, groups: ParameterGroups, hyperparameters: Hyperparameters) -> "torch.optim.Optimizer":
        """Fused: one kernel on a GPU; on the CPU one pass, where the plain loop takes five times as long."""
        import torch

        return torch.optim.AdamW(groups, betas=(hyperparameters.beta1, hyperparameters.beta2), fused=True)


OPTIMIZER: Optimizer = AdamW()
