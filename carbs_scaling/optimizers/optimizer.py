"""What an optimizer is to the program, and how one is built for a model. Imports no PyTorch.

An optimizer is one module of this package that holds an `OPTIMIZER`; `optimizer.name` is the module's name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from carbs_scaling.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import nn

OPTIMIZERS = Registry(
    "carbs_scaling.optimizers",
    "OPTIMIZER",
    "optimizer.name",
    shared=frozenset({"optimizer", "muon_with_adamw"}),
)

ParameterGroups = list[dict[str, Any]]
# What a parametrization does to a parameter's learning rate, weight decay and epsilon.
Multipliers = tuple[float, float, float]


@dataclass(frozen=True)
class Hyperparameters:
    """All that any optimizer may read; each says in `reads` what it does.

    Args:
        learning_rate: peak.
        weight_decay: of the weight matrices.
        beta1: decay of the average of gradients; the momentum of SGD and Muon.
        beta2: decay of the average of squared gradients.
        epsilon: added to a root of squared gradients before dividing by it.
        adamw_rate_ratio: rate of what Muon leaves to AdamW over Muon's own.
        nesterov: look ahead by the momentum.
        decoupled_weight_decay: decay the weights themselves, not through the gradient.
    """

    learning_rate: float
    weight_decay: float
    beta1: float
    beta2: float
    epsilon: float
    adamw_rate_ratio: float = 1.0
    nesterov: bool = False
    decoupled_weight_decay: bool = True


class Optimizer(Protocol):
    """One kind of optimizer.

    Attributes:
        name: name of the module and of the option in `conf/optimizer/`.
        rule: how a step scales with the gradient, which a parametrization must know: `adam` (not at all) or
            `sgd` (in proportion).
        hidden_rule: the same for the matrices of the blocks; also `muon` (orthogonal steps).
        state_bytes: bytes of state that it keeps a parameter, weights and gradients not counted.
        hidden_state_bytes: the same for the matrices of the blocks.
        capturable: whether a CUDA graph can hold its step.
        reads: names of the `Hyperparameters` that change what it does.
    """

    name: str
    rule: str
    hidden_rule: str
    state_bytes: int
    hidden_state_bytes: int
    capturable: bool
    reads: frozenset[str]

    def build(self, groups: ParameterGroups, hyperparameters: Hyperparameters) -> "torch.optim.Optimizer":
        """PyTorch's optimizer over `groups`, each with its own `lr`, `weight_decay` and `eps`.

        Where `hidden_rule` differs from `rule`, a group also says by `hidden` which of them it is for.
        """
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
    name: str,
    model: "nn.Module",
    hyperparameters: Hyperparameters,
    multipliers: "Mapping[nn.Parameter, Multipliers] | None" = None,
) -> "torch.optim.Optimizer":
    """The optimizer called `name` for all trained parameters of `model`, at the peak learning rate.

    Weight decay acts on matrices, the embedding among them, and not on gains and biases.

    Args:
        name: one of `OPTIMIZERS.names`.
        model: whose parameters are trained.
        hyperparameters: before any multiplier.
        multipliers: of the learning rate, weight decay and epsilon of a parameter; 1 where it has none.

    Raises:
        ConfigError: there is none of this name.
    """
    optimizer = load_optimizer(name)
    apart = optimizer.hidden_rule != optimizer.rule
    hidden: set[nn.Parameter] = hidden_matrices(model) if apart else set()
    groups: dict[tuple[bool, bool, Multipliers], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            scales = (multipliers or {}).get(parameter, (1.0, 1.0, 1.0))
            groups.setdefault((parameter in hidden, parameter.ndim >= 2, scales), []).append(parameter)
    own = [
        {
            "params": parameters,
            "lr": rate * hyperparameters.learning_rate,
            "weight_decay": decay * hyperparameters.weight_decay if is_matrix else 0.0,
            "eps": epsilon * hyperparameters.epsilon,
            **({"hidden": is_hidden} if apart else {}),
        }
        for (is_hidden, is_matrix, (rate, decay, epsilon)), parameters in groups.items()
    ]
    return optimizer.build(own, hyperparameters)


def hidden_matrices(model: "nn.Module") -> "set[nn.Parameter]":
    """All matrices of the model but embeddings and the output head."""
    from torch import nn

    outer = {p for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    find_head: Any = getattr(model, "get_output_embeddings", None)
    head = None if find_head is None else find_head()
    if not isinstance(head, nn.Module):  # of classes, under one of the names of `transformers`
        head = getattr(model, "score", None) or getattr(model, "classifier", None)
    if isinstance(head, nn.Module):
        outer |= set(head.parameters())
    return {p for p in model.parameters() if p.ndim == 2} - outer
