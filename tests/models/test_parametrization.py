"""Coordinate checks: with muP what training changes is as large at any width, with CompleteP at any depth.

And what is folded into weights, rates and the final norm is what the multipliers would have done.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from carbs_scaling.errors import ConfigError
from carbs_scaling.models.build import build_model, logits
from carbs_scaling.models.family import ModelShape
from carbs_scaling.models.parametrization import Parametrization, parameter_multipliers
from carbs_scaling.optimizers.optimizer import Hyperparameters, build_optimizer, load_optimizer
from carbs_scaling.tasks.pretraining_config import ModelConfig
from carbs_scaling.training.saved_model import byte_tokenizer, save_model
from tests.small_models import trained_folder

SHAPE = ModelShape("gpt2", width=32, depth=2, head_size=16, vocabulary_size=64, sequence_length=16)
TOKENS = torch.randint(64, (8, 17), generator=torch.Generator().manual_seed(0))
RATES = {"adamw": 0.003, "muon": 0.01, "sgd": 0.1}
FAMILIES = ("gpt2", "llama", "qwen3", "qwen3_moe")
NEOX = {"model_type": "gpt_neox", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}


def trained(shape, parametrization, optimizer="adamw", steps=4, rate=None, seed=0):
    """A model after a few steps on one batch; its residual stream and scores at the start, and then."""
    model = build_model(shape, seed, parametrization)
    kind = load_optimizer(optimizer)
    multipliers = parameter_multipliers(model, shape, parametrization, kind.rule, kind.hidden_rule)
    values = Hyperparameters(rate or RATES[optimizer], 0.0, 0.9, 0.95, 1e-12)
    stepper = build_optimizer(optimizer, model, values, multipliers)

    def seen():
        stream = []
        name = next(n for n, _ in model.named_modules() if n.endswith(("ln_f", "model.norm")))
        hook = model.get_submodule(name).register_forward_pre_hook(lambda _, inputs: stream.append(inputs[0]))
        with torch.no_grad():
            scores = logits(model, TOKENS[:, :-1])
        hook.remove()
        return stream[0], scores

    before = seen()
    for _ in range(steps):
        stepper.zero_grad()
        cross_entropy(logits(model, TOKENS[:, :-1]).flatten(0, 1), TOKENS[:, 1:].flatten()).backward()
        stepper.step()
    return model, before, seen()


def growth(shapes, parametrization, optimizer="adamw"):
    """Exponents of the change of the residual stream and of the scores over the shapes, in their size."""
    sizes, changes = [], []
    for shape in shapes:
        _, before, after = trained(shape, parametrization, optimizer)
        sizes.append(shape.width * shape.depth)
        changes.append([float((b - a).square().mean().sqrt()) for a, b in zip(before, after, strict=True)])
    return np.polyfit(np.log(sizes), np.log(changes), 1)[0]


# Wide enough for what fades with the width - at 32 a third of what the scores change - to be small.
WIDTHS = [replace(SHAPE, width=width) for width in (160, 640)]
DEPTHS = [replace(SHAPE, depth=depth) for depth in (2, 16)]


@pytest.mark.parametrize("optimizer", list(RATES))
def test_with_mup_changes_are_flat_over_width_and_grow_without(optimizer, monkeypatch):
    if optimizer == "muon":  # its bfloat16 products of wide matrices take minutes on a CPU without such
        monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)
    standard = growth(WIDTHS, Parametrization("standard"), optimizer)
    mup = growth(WIDTHS, Parametrization("mup", base_width=32), optimizer)
    assert np.abs(mup).max() < 0.25
    assert np.abs(standard).max() > 0.4


def test_with_completep_changes_are_flat_over_depth_and_grow_without():
    mup, completep = (
        growth(DEPTHS, Parametrization(name, base_width=32, base_depth=2)) for name in ("mup", "completep")
    )
    assert np.abs(completep).max() < 0.25
    assert np.abs(mup).max() > 0.4


@pytest.mark.parametrize("name", ["mup", "completep"])
@pytest.mark.parametrize("architecture", FAMILIES)
def test_at_its_base_it_is_the_standard_one(architecture, name):
    shape = replace(SHAPE, architecture=architecture, options=None)
    same = Parametrization(name, base_width=shape.width, base_depth=shape.depth)
    models = [trained(shape, parametrization, steps=2)[0] for parametrization in (Parametrization(), same)]
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


class Scaled(torch.nn.Module):
    """A module whose output is multiplied in the forward pass, which nothing folds."""

    def __init__(self, module, factor):
        super().__init__()
        self.module, self.factor = module, factor

    def forward(self, x):
        return self.module(x) * self.factor


@pytest.mark.parametrize("optimizer", list(RATES))
def test_folding_a_branch_end_is_what_its_multiplier_does(optimizer):
    # The residual multiplier of a model of depth 2 l, against the same in the forward pass.
    shape, completep = replace(SHAPE, depth=4), Parametrization("completep", SHAPE.width, 2)
    _, _, (_, scores) = trained(shape, completep, optimizer, steps=2)
    model = build_model(shape, 0, completep)
    ends = [m for name, m in model.named_modules() if name.endswith("c_proj")]
    with torch.no_grad():
        for end in ends:
            end.weight.mul_(2.0)
    kind = load_optimizer(optimizer)
    multipliers = dict(parameter_multipliers(model, shape, completep, kind.rule, kind.hidden_rule))
    for end in ends:
        for parameter in end.parameters():
            rate, decay, epsilon = multipliers[parameter]
            own = kind.hidden_rule if parameter.ndim == 2 else kind.rule
            power = 2 if own == "sgd" else 1
            multipliers[parameter] = (rate * 2**power, decay / 2**power, epsilon / 2)
    for block in model.transformer.h:
        block.attn.c_proj = Scaled(block.attn.c_proj, 0.5)
        block.mlp.c_proj = Scaled(block.mlp.c_proj, 0.5)
    stepper = build_optimizer(
        optimizer, model, Hyperparameters(RATES[optimizer], 0.0, 0.9, 0.95, 1e-12), multipliers
    )
    for _ in range(2):
        stepper.zero_grad()
        cross_entropy(logits(model, TOKENS[:, :-1]).flatten(0, 1), TOKENS[:, 1:].flatten()).backward()
        stepper.step()
    with torch.no_grad():
        tolerance = 2e-2 if optimizer == "muon" else 1e-4  # Muon's iteration is in bfloat16
        torch.testing.assert_close(logits(model, TOKENS[:, :-1]), scores, rtol=0, atol=tolerance)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_saved_model_is_a_plain_one_with_the_same_scores(architecture, tmp_path):
    from transformers import AutoModelForCausalLM

    shape = replace(SHAPE, architecture=architecture, options=None, depth=4)
    model, _, (_, scores) = trained(shape, Parametrization("completep", 16, 2), steps=2)
    save_model(model, byte_tokenizer(), tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(again(TOKENS[:, :-1]).logits, scores, rtol=0, atol=1e-5)


def test_what_cannot_be_is_refused():
    for wrong in ({"name": "ntk"}, {"base_width": 0}, {"base_depth": 1.5}):
        with pytest.raises(ConfigError, match="model\\."):
            Parametrization(**wrong)


@pytest.mark.parametrize("name", ["mup", "completep"])
def test_a_family_whose_parameters_are_not_known_is_refused(name, tmp_path):
    folder = trained_folder(tmp_path, (16, 1, 8, 256, 16))
    for architecture, options in (("auto", {"config": NEOX}), ("pretrained", {"path": folder})):
        given = {"head_size": 16, "sequence_length": 16, "flops_convention": "6N", "options": options}
        with pytest.raises(ConfigError, match=r"use standard$") as error:
            ModelConfig(architecture, **given, parametrization=name)
        assert "\n" not in str(error.value)
        assert ModelConfig(architecture, **given).scaling.is_standard


@pytest.mark.parametrize("rule", ["adam", "sgd"])
def test_a_router_is_scaled_as_a_head(rule):
    shape = replace(SHAPE, architecture="qwen3_moe", options=None, width=64)
    mup = Parametrization("mup", base_width=32)
    plain, model = build_model(shape, 0), build_model(shape, 0, mup)
    gates = [dict(m.named_parameters())["model.layers.0.mlp.gate.weight"] for m in (plain, model)]
    torch.testing.assert_close(gates[0] / 2**0.5, gates[1])
    rate, decay, epsilon = parameter_multipliers(model, shape, mup, rule, rule)[gates[1]]
    assert (rate, decay, epsilon) == (0.5, 2.0, 1.0)
