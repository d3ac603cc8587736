"""NAdam: Adam with Nesterov's momentum (Dozat 2016, "Incorporating Nesterov momentum into Adam").

Weight decay acts as in AdamW, or through the gradient with `optimizer.decoupled_weight_decay=false`.
"""

from typing import TYPE_CHECKING

from carbs_scaling.optimizers.optimizer import Hyperparameters, Optimizer, ParameterGroups

if TYPE_CHECKING:
    import torch


class NAdam:
    """See `Optimizer`."""

    name = "nadam"
    rule = hidden_rule = "adam"
    state_bytes = hidden_state_bytes = 8  # both moments in float32
    capturable = True
    reads = frozenset(
        {"learning_rate", "weight_decay", "beta1", "beta2", "epsilon", "decoupled_weight_decay"}
    )

    def build(self, groups: ParameterGroups, hyperparameters: Hyperparameters) -> "torch.optim.Optimizer":
        """Not fused: PyTorch has no fused NAdam."""
        import torch

        return torch.optim.NAdam(
            groups,
            betas=(hyperparameters.beta1, hyperparameters.beta2),
            decoupled_weight_decay=hyperparameters.decoupled_weight_decay,
            # Counts steps on the GPU, where a CUDA graph can count on.
            capturable=any(p.is_cuda for group in groups for p in group["params"]),
        )


OPTIMIZER: Optimizer = NAdam()
