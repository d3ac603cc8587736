"""What every optimizer must do: keep the state it says, and read the hyperparameters it says."""

from dataclasses import fields, replace

import pytest
import torch
from torch import nn

from carbs_scaling.cli import configuration_folder
from carbs_scaling.errors import ConfigError
from carbs_scaling.laws.prior.rates import RATE_PRIORS
from carbs_scaling.optimizers.optimizer import (
    OPTIMIZERS,
    Hyperparameters,
    build_optimizer,
    hidden_matrices,
    load_optimizer,
)
from carbs_scaling.training.checkpoint import restore_tensors, run_tensors

BASE = Hyperparameters(learning_rate=0.1, weight_decay=0.1, beta1=0.9, beta2=0.95, epsilon=1e-3)
OTHER = Hyperparameters(
    learning_rate=0.2,
    weight_decay=0.3,
    beta1=0.5,
    beta2=0.8,
    epsilon=1e-1,
    adamw_rate_ratio=0.5,
    nesterov=True,
    decoupled_weight_decay=False,
)

every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS.names)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.LayerNorm(3))


def take_steps(network: nn.Module, optimizer: torch.optim.Optimizer, seeds: range) -> list[torch.Tensor]:
    """The weights after steps of gradients that follow from the seeds."""
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for parameter in network.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return [p.detach() for p in network.parameters()]


def stepped(name: str, hyperparameters: Hyperparameters) -> tuple[list[torch.Tensor], torch.optim.Optimizer]:
    """The weights after three steps, and the optimizer."""
    network = model()
    optimizer = build_optimizer(name, network, hyperparameters)
    return take_steps(network, optimizer, range(3)), optimizer


@every_optimizer
def test_it_is_called_as_its_file_and_has_an_option_and_a_prior(name):
    assert load_optimizer(name).name == name
    assert (configuration_folder() / "optimizer" / f"{name}.yaml").is_file()
    assert name in RATE_PRIORS


@every_optimizer
def test_it_keeps_the_state_that_it_says(name):
    _, optimizer = stepped(name, BASE)
    kept = [tensor for tensors in optimizer.state.values() for tensor in tensors.values()]
    state = sum(tensor.nbytes for tensor in kept if isinstance(tensor, torch.Tensor) and tensor.ndim)
    kind, network = load_optimizer(name), model()
    hidden = sum(p.numel() for p in hidden_matrices(network))
    others = sum(p.numel() for p in network.parameters()) - hidden
    assert hidden == 12
    assert state == kind.hidden_state_bytes * hidden + kind.state_bytes * others


@every_optimizer
def test_it_reads_the_hyperparameters_that_it_says_and_no_others(name):
    weights, _ = stepped(name, BASE)
    reads = set()
    for field in fields(Hyperparameters):
        others, _ = stepped(name, replace(BASE, **{field.name: getattr(OTHER, field.name)}))
        if any(not torch.equal(a, b) for a, b in zip(weights, others, strict=True)):
            reads.add(field.name)
    assert reads == load_optimizer(name).reads


@every_optimizer
def test_decay_acts_on_matrices_only_and_groups_hold_every_parameter_once(name):
    network = model()
    groups = build_optimizer(name, network, BASE).param_groups
    for group in groups:
        assert {p.ndim for p in group["params"]} == ({2} if group["weight_decay"] else {1})
    held = [p for group in groups for p in group["params"]]
    assert len(held) == len(set(held)) == len(list(network.parameters()))


@every_optimizer
def test_what_a_checkpoint_keeps_goes_on_as_the_unbroken_run(name):
    unbroken = take_steps(*((network := model()), build_optimizer(name, network, OTHER)), range(5))
    before = model()
    stopped = build_optimizer(name, before, OTHER)
    take_steps(before, stopped, range(3))
    after = model()
    optimizer = build_optimizer(name, after, OTHER)
    restore_tensors(after, optimizer, run_tensors(before, stopped))
    for group in optimizer.param_groups:
        group["lr"] *= 1.0  # as a scheduler does, through the groups
    again = take_steps(after, optimizer, range(3, 5))
    for a, b in zip(unbroken, again, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@every_optimizer
def test_a_rate_of_0_in_all_groups_stands_still(name):
    network = model()
    optimizer = build_optimizer(name, network, BASE)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    for was, now in zip(model().parameters(), take_steps(network, optimizer, range(2)), strict=True):
        assert torch.equal(was, now)


@every_optimizer
def test_multipliers_reach_the_groups(name):
    network = model()
    weight = network[1].weight
    optimizer = build_optimizer(name, network, BASE, {weight: (0.5, 2.0, 1.0)})
    (group,) = (g for g in optimizer.param_groups if any(p is weight for p in g["params"]))
    assert (group["lr"], group["weight_decay"]) == (0.05, 0.2)


def test_muon_moves_its_matrices_by_orthogonal_steps_as_large_as_adamws():
    torch.manual_seed(0)
    network = nn.Linear(64, 64, bias=False)
    before = network.weight.detach().clone()
    optimizer = build_optimizer("muon", network, replace(BASE, weight_decay=0.0))
    take_steps(network, optimizer, range(1))
    step = (network.weight.detach() - before) / BASE.learning_rate
    assert step.square().mean().sqrt() == pytest.approx(0.2, rel=0.2)
    sizes = torch.linalg.svdvals(step) / (0.2 * 64**0.5)
    assert sizes.max() < 1.3
    assert sizes.quantile(0.05) > 0.5  # five Newton-Schulz steps leave the least directions out


def test_an_unknown_optimizer_is_refused_with_the_names_of_the_others():
    names = ", ".join(OPTIMIZERS.names)
    with pytest.raises(ConfigError, match=rf"optimizer\.name=unheard is not one of {names}$"):
        load_optimizer("unheard")
