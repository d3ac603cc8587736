"""The loss over a large vocabulary, taken in parts."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from carbs_scaling.models import cross_entropy as parts
from carbs_scaling.models.activations import SCORES_AT_ONCE
from carbs_scaling.models.build import build_model
from carbs_scaling.models.family import ModelShape
from carbs_scaling.training.step import accumulate_gradients
from carbs_scaling.training.step_building import compiled_model


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("step", [1, 64])
def test_words_that_there_are_not_change_nothing(monkeypatch, step, half):
    monkeypatch.setitem(SCORES_AT_ONCE, "cpu", 4 * 257)
    monkeypatch.setitem(parts.WORDS_STEP, "cpu", step)
    torch.manual_seed(0)
    hidden, weight = torch.randn(10, 8, requires_grad=True), torch.randn(257, 8, requires_grad=True)
    targets = torch.randint(257, (10,))

    def with_gradients(loss):
        return loss.item(), *(gradient.clone() for gradient in torch.autograd.grad(loss, (hidden, weight)))

    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        found = with_gradients(parts.linear_cross_entropy(hidden, weight, targets, "mean"))
        expected = with_gradients(cross_entropy(torch.nn.functional.linear(hidden, weight), targets))
    for value, other in zip(found, expected, strict=True):
        assert value == pytest.approx(other, abs=5e-3 if half else 1e-6)


@pytest.mark.parametrize("architecture", ["gpt2", "qwen3_moe"])
def test_a_compiled_body_takes_the_loss_in_parts_too(monkeypatch, architecture):
    monkeypatch.setitem(SCORES_AT_ONCE, "cpu", 1000)
    compile_model = torch.compile
    compiled = []

    def seen(module, **how):
        compiled.append(module)
        return compile_model(module, backend="eager", **how)

    monkeypatch.setattr(torch, "compile", seen)
    model = build_model(ModelShape(architecture, 32, 1, 16, 256, 32), seed=0)
    windows = torch.randint(256, (4, 33))
    expected = accumulate_gradients(model, windows, 2)
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    assert accumulate_gradients(compiled_model(model, 64), windows, 2) == pytest.approx(expected.item())
    assert compiled == [model.base_model]
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
