"""FLOPs are predicted before a run: here they are compared with those that PyTorch counts."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from carbs_scaling.compute.flops import (
    FLOPS_CONVENTIONS,
    ModelShape,
    flops_by_convention,
    flops_per_token,
    training_flops,
)
from carbs_scaling.models.build import build_model
from carbs_scaling.training.step import accumulate_gradients

SIZES = [(32, 1, 16, 256, 64), (64, 3, 16, 512, 128), (128, 2, 32, 1000, 32)]


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("size", SIZES)
def test_predicted_flops_are_those_that_pytorch_counts(architecture, size):
    shape = ModelShape(architecture, *size)
    model = build_model(shape, seed=0)
    batch = torch.randint(shape.vocabulary_size, (3, shape.sequence_length + 1))
    # The fused kernels count as zero on the CPU; the plain one has the whole T x T square.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        accumulate_gradients(model, batch, micro_batch=3)
    predicted = training_flops(shape, 3 * shape.sequence_length, "6N+head+attention")
    assert counter.get_total_flops() == pytest.approx(predicted, rel=0.01)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("size", SIZES)
def test_params_are_the_weights_of_the_blocks(architecture, size):
    shape = ModelShape(architecture, *size)
    model = build_model(shape, seed=0)
    blocks = model.transformer.h if architecture == "gpt2" else model.model.layers
    assert shape.params == sum(p.numel() for p in blocks.parameters() if p.ndim == 2)
    assert model.get_output_embeddings().weight.numel() == shape.head_params


def test_conventions_differ_by_head_and_attention():
    shape = ModelShape("gpt2", width=64, depth=2, head_size=16, vocabulary_size=256, sequence_length=128)
    n = 12 * 2 * 64**2
    assert shape.params == n
    head, attention = 6 * 256 * 64, 12 * 2 * 64 * 128
    expected = [6 * n, 6 * n + head, 6 * n + head + attention, 6 * n + head + attention / 2]
    assert [flops_per_token(shape, convention) for convention in FLOPS_CONVENTIONS] == expected
    assert flops_by_convention(shape, 10) == dict(
        zip(FLOPS_CONVENTIONS, [10 * flops for flops in expected], strict=True)
    )


def test_impossible_shapes_and_conventions_are_refused():
    with pytest.raises(ValueError, match="not a multiple of the head size"):
        ModelShape("gpt2", width=40, depth=1, head_size=16, vocabulary_size=256, sequence_length=8)
    with pytest.raises(ValueError, match="depth must be at least 1"):
        ModelShape("gpt2", width=32, depth=0, head_size=16, vocabulary_size=256, sequence_length=8)
    with pytest.raises(ValueError, match="architecture"):
        ModelShape("rnn", width=32, depth=1, head_size=16, vocabulary_size=256, sequence_length=8)
    shape = ModelShape("llama", width=32, depth=1, head_size=16, vocabulary_size=256, sequence_length=8)
    with pytest.raises(ValueError, match="convention"):
        flops_per_token(shape, "2N")
