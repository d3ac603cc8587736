"""Muon for the matrices of the blocks (Jordan et al. 2024, kellerjordan.github.io/posts/muon), else AdamW.

A step of Muon is its momentum made orthogonal, times 0.2 sqrt(max(rows, columns)), so that its entries are
as large as those of AdamW's steps and AdamW's rates and weight decays serve (Liu et al. 2025, arXiv
2502.16982, section 2.2). `beta1` is the momentum of both. Embeddings, head, gains and biases are AdamW's, at
`adamw_rate_ratio` times the learning rate.
"""

from typing import TYPE_CHECKING

from carbs_scaling.optimizers.optimizer import Hyperparameters, Optimizer, ParameterGroups

if TYPE_CHECKING:
    import torch


class Muon:
    """See `Optimizer`."""

    name = "muon"
    rule = "adam"
    hidden_rule = "muon"
    state_bytes = 8  # both moments of AdamW
    hidden_state_bytes = 4  # the momentum in float32
    capturable = False  # PyTorch's takes its rate from the CPU
    reads = frozenset(
        {
            "learning_rate", "weight_decay", "beta1", "beta2", "epsilon", "adamw_rate_ratio", "nesterov",
        }
    )  # fmt: skip

    def build(self, groups: ParameterGroups, hyperparameters: Hyperparameters) -> "torch.optim.Optimizer":
        """Both as one optimizer."""
        from carbs_scaling.optimizers.muon_with_adamw import MuonWithAdamW

        return MuonWithAdamW(groups, hyperparameters)


OPTIMIZER: Optimizer = Muon()
