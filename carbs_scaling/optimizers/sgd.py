"""SGD with momentum, which is `beta1`, or Nesterov's. Weight decay is added to the gradient."""

from typing import TYPE_CHECKING

from carbs_scaling.optimizers.optimizer import Hyperparameters, Optimizer, ParameterGroups

if TYPE_CHECKING:
    import torch


class SGD:
    """See `Optimizer`."""

    name = "sgd"
    rule = hidden_rule = "sgd"
    state_bytes = hidden_state_bytes = 4  # the momentum in float32
    capturable = True
    reads = frozenset({"learning_rate", "weight_decay", "beta1", "nesterov"})

    def build(self, groups: ParameterGroups, hyperparameters: Hyperparameters) -> "torch.optim.Optimizer":
        """Fused: one kernel on a GPU; on the CPU one pass, where the plain loop takes five times as long."""
        import torch

        momentum = hyperparameters.beta1
        # Without momentum there is nothing to look ahead by.
        return torch.optim.SGD(
            groups, momentum=momentum, nesterov=hyperparameters.nesterov and momentum > 0, fused=True
        )


OPTIMIZER: Optimizer = SGD()
