"""What every model family must do. Its memory is held to PyTorch's in `tests/compute/test_memory.py`."""

import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from carbs_scaling.cli import configuration_folder
from carbs_scaling.compute.flops import training_flops
from carbs_scaling.errors import ConfigError
from carbs_scaling.models.build import build_model, logits
from carbs_scaling.models.family import FAMILIES, ModelShape, load_family
from carbs_scaling.training.step import accumulate_gradients

# (width, depth, head size, vocabulary, sequence length); in the last, attention is most of the FLOPs.
SIZES = [(32, 1, 16, 256, 64), (64, 3, 16, 512, 128), (128, 2, 32, 1000, 32), (16, 2, 8, 2, 1024)]

every_family = pytest.mark.parametrize("name", FAMILIES.names)
every_size = pytest.mark.parametrize("size", SIZES)


def small(name: str) -> ModelShape:
    return ModelShape(name, width=32, depth=2, head_size=8, vocabulary_size=100, sequence_length=16)


def blocks_of(model: nn.Module) -> nn.ModuleList:
    (blocks,) = (module for module in model.modules() if isinstance(module, nn.ModuleList))
    return blocks


@every_family
def test_it_is_called_as_its_file_and_has_an_option(name):
    assert load_family(name).name == name
    assert (configuration_folder() / "model" / f"{name}.yaml").is_file()


@every_family
@every_size
def test_counts_of_parameters_are_those_of_the_model(name, size):
    shape = ModelShape(name, *size)
    model = build_model(shape, seed=0)
    assert shape.params == sum(p.numel() for p in blocks_of(model).parameters() if p.ndim == 2)
    assert shape.family.head_params(shape) == model.get_output_embeddings().weight.numel()
    assert shape.family.total_params(shape) == sum(p.numel() for p in model.parameters())


@every_family
def test_initial_weights_spread_as_gpt2s_at_its_width_and_wider_in_narrow_models(name):
    """By a constant .02 a second block of a narrow model learns nothing in a short run."""
    assert replace(small(name), width=768).initial_weight_sd == pytest.approx(0.02)
    for width in (32, 128):
        shape = replace(small(name), width=width)
        blocks = blocks_of(build_model(shape, seed=0))
        # Matrices that write to the residual stream may be drawn smaller, by depth.
        widest = max(float(p.detach().std()) for p in blocks.parameters() if p.ndim == 2)
        assert widest == pytest.approx(0.02 * (768 / width) ** 0.5, rel=0.1)


@every_family
@every_size
def test_predicted_flops_are_those_that_pytorch_counts(name, size):
    shape = ModelShape(name, *size)
    model = build_model(shape, seed=0)
    batch = torch.randint(shape.vocabulary_size, (3, shape.sequence_length + 1))
    # The fused kernels count as zero on the CPU; the plain one has the whole T x T square.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        accumulate_gradients(model, batch, micro_batch=3)
    predicted = training_flops(shape, 3 * shape.sequence_length, "6N+head+attention")
    assert counter.get_total_flops() == pytest.approx(predicted, rel=0.01)


@every_family
def test_weights_follow_the_seed_and_global_random_state_is_untouched(name):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = build_model(small(name), seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    again = build_model(small(name), seed=1).state_dict()
    other = build_model(small(name), seed=2).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@every_family
def test_later_tokens_do_not_change_earlier_scores(name):
    model = build_model(small(name), seed=0).eval()
    tokens = torch.randint(100, (3, 16), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[:, 9] = (changed[:, 9] + 1) % 100
    with torch.no_grad():
        scores, later = logits(model, tokens), logits(model, changed)
    assert scores.shape == (3, 16, 100)
    torch.testing.assert_close(scores[:, :9], later[:, :9])
    assert not torch.allclose(scores[:, 9:], later[:, 9:])


@every_family
def test_scores_are_those_of_the_attention_in_transformers(name):
    model = build_model(small(name), seed=0).eval()
    tokens = torch.randint(100, (3, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = logits(model, tokens)
        model.set_attn_implementation("eager")
        torch.testing.assert_close(ours, logits(model, tokens))


@every_family
def test_head_is_tied_and_there_is_no_dropout(name):
    model = build_model(small(name), seed=0).train()
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    tokens = torch.randint(100, (2, 16))
    assert torch.equal(logits(model, tokens), logits(model, tokens))


@every_family
def test_a_shape_survives_pickling(name):
    shape = small(name)
    assert shape.params > 0  # kept beside the fields once it has been read
    again = pickle.loads(pickle.dumps(shape))
    assert again == shape
    assert again.params == shape.params


@every_family
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 36}, "not a multiple of the head size"),
        ({"depth": 0}, "depth must be at least 1"),
        ({"head_size": -8}, "head_size must be at least 1"),
    ],
)
def test_impossible_shapes_are_refused_in_one_line(name, change, message):
    with pytest.raises(ConfigError, match=message) as refusal:
        replace(small(name), **change)
    assert "\n" not in str(refusal.value)


@every_family
def test_an_odd_head_size_is_built_or_refused_in_one_line(name):
    message = None
    try:
        shape = replace(small(name), width=15, head_size=5)
    except ConfigError as refusal:
        message = str(refusal)
    if message is None:
        assert logits(build_model(shape, seed=0), torch.zeros(1, 4, dtype=torch.long)).shape == (1, 4, 100)
    else:
        assert "head_size=5" in message
        assert "\n" not in message


def test_an_unknown_family_is_refused_with_the_names_of_the_others():
    names = ", ".join(FAMILIES.names)
    with pytest.raises(ConfigError, match=rf"model\.architecture=rnn is not one of {names}$"):
        replace(small("gpt2"), architecture="rnn")


def test_llama_needs_pairs_of_coordinates():
    with pytest.raises(ConfigError, match=r"model\.head_size=5 must be even"):
        replace(small("llama"), width=15, head_size=5)


def test_gpt2_xl_has_its_published_size():
    xl = ModelShape("gpt2", width=1600, depth=48, head_size=64, vocabulary_size=50257, sequence_length=1024)
    assert xl.family.total_params(xl) == 1_557_611_200
