"""Adam (Kingma and Ba 2015, arXiv 1412.6980). Weight decay is added to the gradient, and so divided out again
by its size: 0 by default."""

from typing import TYPE_CHECKING

from carbs_scaling.optimizers.optimizer import Hyperparameters, Optimizer, ParameterGroups

if TYPE_CHECKING:
    import torch


class Adam:
    """See `Optimizer`."""

    name = "adam"
    rule = hidden_rule = "adam"
    state_bytes = hidden_state_bytes = 8  # both moments in float32
    capturable = True
    reads = frozenset({"learning_rate", "weight_decay", "beta1", "beta2", "epsilon"})

    def build(self, groups: ParameterGroups, hyperparameters: Hyperparameters) -> "torch.optim.Optimizer":
        """Fused, as AdamW."""
        import torch

        return torch.optim.Adam(groups, betas=(hyperparameters.beta1, hyperparameters.beta2), fused=True)


OPTIMIZER: Optimizer = Adam()
