"""A mixture of experts: which N is which, and a router whose loss is trained and not reported."""

import pytest
import torch

from carbs_scaling.errors import ConfigError
from carbs_scaling.models.build import build_model, token_losses
from carbs_scaling.models.family import ModelShape
from carbs_scaling.training.step import accumulate_gradients


def shape(**options):
    return ModelShape("qwen3_moe", 32, 2, 8, 256, 16, options)


def router_gradient(weight, batch):
    model = build_model(shape(router_loss_weight=weight), seed=0)
    loss = accumulate_gradients(model, batch, micro_batch=4)
    return loss, model.model.layers[0].mlp.gate.weight.grad.clone()


def test_the_router_loss_is_differentiated_and_not_reported():
    batch = torch.randint(256, (4, 17), generator=torch.Generator().manual_seed(0))
    (loss, plain), (same, balanced) = (router_gradient(weight, batch) for weight in (0.0, 10.0))
    assert loss == same
    assert (balanced - plain).norm() > 0.1 * plain.norm()
    reported, auxiliary = token_losses(build_model(shape(router_loss_weight=0.5), seed=0), batch)
    assert reported == loss
    assert auxiliary.item() == pytest.approx(0.5 * 2, rel=0.1)  # experts_per_token, where all are used alike


def test_more_experts_are_more_weights_and_no_more_active_ones_but_the_router():
    few, many = shape(experts=4), shape(experts=16)
    assert many.params - few.params == 2 * 12 * 32
    assert many.family.block_params(many) > 3 * few.family.block_params(few)


@pytest.mark.parametrize("options", [{"experts": 2, "experts_per_token": 3}, {"router_loss_weight": -1.0}])
def test_impossible_mixtures_are_refused(options):
    with pytest.raises(ConfigError, match=r"model\.(experts|router)"):
        shape(**options)
