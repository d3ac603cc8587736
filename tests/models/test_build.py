"""Models from their transformers configurations."""

import pytest
import torch

from carbs_scaling.compute.flops import ModelShape
from carbs_scaling.models.build import build_model, logits


def shape_of(architecture: str) -> ModelShape:
    return ModelShape(architecture, width=32, depth=2, head_size=8, vocabulary_size=100, sequence_length=16)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_weights_follow_the_seed_and_global_random_state_is_untouched(architecture):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = build_model(shape_of(architecture), seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    again = build_model(shape_of(architecture), seed=1).state_dict()
    other = build_model(shape_of(architecture), seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_attention_is_causal_and_that_of_transformers(architecture):
    model = build_model(shape_of(architecture), seed=0).eval()
    tokens = torch.randint(100, (3, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = logits(model, tokens)
        assert ours.shape == (3, 16, 100)
        changed = tokens.clone()
        changed[:, 9] = (changed[:, 9] + 1) % 100
        later = logits(model, changed)
        model.set_attn_implementation("eager")
        eager = logits(model, tokens)
    torch.testing.assert_close(ours, eager)
    torch.testing.assert_close(ours[:, :9], later[:, :9])
    assert not torch.allclose(ours[:, 9:], later[:, 9:])


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_head_is_tied_and_there_is_no_dropout(architecture):
    model = build_model(shape_of(architecture), seed=0).train()
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    tokens = torch.randint(100, (2, 16))
    assert torch.equal(logits(model, tokens), logits(model, tokens))
