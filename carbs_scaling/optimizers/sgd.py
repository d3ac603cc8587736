"""SGD with momentum, which is `beta1`. Weight decay is added to the gradient."""

from typing import TYPE_CHECKING

from carbs_scaling.optimizers.optimizer import Hyperparameters, Optimizer, ParameterGroups

if TYPE_CHECKING:
    import torch


class SGD:
    """See `Optimizer`."""

    name = "sgd"
    state_bytes = 4  # the momentum in float32
    reads = frozenset({"learning_rate", "weight_decay", "beta1"})

    def build(self, groups: ParameterGroups, hyperparameters: Hyperparameters) -> "torch.optim.Optimizer":
        """Fused: one kernel on a GPU; on the CPU one pass, where the plain loop takes five times as long."""
        import torch

        return torch.optim.SGD(
            groups, lr=hyperparameters.learning_rate, momentum=hyperparameters.beta1, fused=True
        )


OPTIMIZER: Optimizer = SGD()
