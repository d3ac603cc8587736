"""What an optimizer is to the program, and how one is built for a model. Imports no PyTorch.

An optimizer is one module of this package that holds an `OPTIMIZER`; `optimizer.name` is the module's name.
"""

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from carbs_scaling.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import nn

OPTIMIZERS = Registry(
    "carbs_scaling.optimizers", "OPTIMIZER", "optimizer.name", shared=frozenset({"optimizer"})
)

ParameterGroups = list[dict[str, Any]]


@dataclass(frozen=True)
class Hyperparameters:
    """All that any optimizer may read; each says in `reads` what it does.

    Args:
        learning_rate: peak.
        weight_decay: of the weight matrices.
        beta1: decay of the average of gradients.
        beta2: decay of the average of squared gradients.
        epsilon: added to a root of squared gradients before dividing by it.
    """

    learning_rate: float
    weight_decay: float
    beta1: float
    beta2: float
    epsilon: float


class Optimizer(Protocol):
    """One kind of optimizer.

    Attributes:
        name: name of the module and of the option in `conf/optimizer/`.
        state_bytes: bytes of state that it keeps a parameter, weights and gradients not counted.
        reads: names of the `Hyperparameters` that change what it does.
    """

    name: str
    state_bytes: int
    reads: frozenset[str]

    def build(self, groups: ParameterGroups, hyperparameters: Hyperparameters) -> "torch.optim.Optimizer":
        """PyTorch's optimizer over `groups`, each with its own weight decay."""
        ...


@cache
def load_optimizer(name: str) -> Optimizer:
    """The optimizer called `name`; kept, because a proposal asks for the memory of thousands of points.

    Raises:
        ConfigError: there is none of this name.
    """
    optimizer: Optimizer = OPTIMIZERS.load(name)
    return optimizer


def build_optimizer(
    name: str, model: "nn.Module", hyperparameters: Hyperparameters
) -> "torch.optim.Optimizer":
    """The optimizer called `name` for all trained parameters of `model`, at the peak learning rate.

    Weight decay acts on matrices, the embedding among them, and not on gains and biases.

    Raises:
        ConfigError: there is none of this name.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: ParameterGroups = [
        {
            "params": [p for p in parameters if p.ndim >= 2],
            "weight_decay": hyperparameters.weight_decay,
        },
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return load_optimizer(name).build(groups, hyperparameters)
