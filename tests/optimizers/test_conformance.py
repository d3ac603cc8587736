"""What every optimizer must do: keep the state it says, and read the hyperparameters it says."""

from dataclasses import fields, replace

import pytest
import torch
from torch import nn

from carbs_scaling.cli import configuration_folder
from carbs_scaling.errors import ConfigError
from carbs_scaling.optimizers.optimizer import (
    OPTIMIZERS,
    Hyperparameters,
    build_optimizer,
    load_optimizer,
)

BASE = Hyperparameters(learning_rate=0.1, weight_decay=0.1, beta1=0.9, beta2=0.95, epsilon=1e-3)
OTHER = Hyperparameters(learning_rate=0.2, weight_decay=0.3, beta1=0.5, beta2=0.8, epsilon=1e-1)

every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS.names)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))


def stepped(name: str, hyperparameters: Hyperparameters) -> tuple[list[torch.Tensor], torch.optim.Optimizer]:
    """The weights after three steps of gradients that differ, and the optimizer."""
    network = model()
    optimizer = build_optimizer(name, network, hyperparameters)
    for _ in range(3):
        for parameter in network.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    return [p.detach() for p in network.parameters()], optimizer


@every_optimizer
def test_it_is_called_as_its_file_and_has_an_option(name):
    assert load_optimizer(name).name == name
    assert (configuration_folder() / "optimizer" / f"{name}.yaml").is_file()


@every_optimizer
def test_it_keeps_the_state_that_it_says(name):
    _, optimizer = stepped(name, BASE)
    kept = [tensor for tensors in optimizer.state.values() for tensor in tensors.values()]
    state = sum(tensor.nbytes for tensor in kept if isinstance(tensor, torch.Tensor) and tensor.ndim)
    assert state == load_optimizer(name).state_bytes * sum(p.numel() for p in model().parameters())


@every_optimizer
@pytest.mark.parametrize("field", [field.name for field in fields(Hyperparameters)])
def test_it_reads_the_hyperparameters_that_it_says_and_no_others(name, field):
    weights, _ = stepped(name, BASE)
    others, _ = stepped(name, replace(BASE, **{field: getattr(OTHER, field)}))
    differs = any(not torch.equal(a, b) for a, b in zip(weights, others, strict=True))
    assert differs == (field in load_optimizer(name).reads)


@every_optimizer
def test_decay_acts_on_matrices_only(name):
    network = model()
    decayed, plain = build_optimizer(name, network, BASE).param_groups
    assert decayed["weight_decay"] == 0.1
    assert plain["weight_decay"] == 0.0
    assert all(p.ndim == 2 for p in decayed["params"])
    assert all(p.ndim == 1 for p in plain["params"])
    assert len(decayed["params"]) + len(plain["params"]) == len(list(network.parameters()))


def test_an_unknown_optimizer_is_refused_with_the_names_of_the_others():
    names = ", ".join(OPTIMIZERS.names)
    with pytest.raises(ConfigError, match=rf"optimizer\.name=unheard is not one of {names}$"):
        load_optimizer("unheard")
