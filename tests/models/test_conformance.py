"""What every model family must do. Its memory is held to PyTorch's in `tests/compute/test_memory.py`."""

import json
import pickle
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from carbs_scaling.cli import configuration_folder
from carbs_scaling.compute.flops import training_flops
from carbs_scaling.errors import ConfigError
from carbs_scaling.models.activations import SCORES_AT_ONCE
from carbs_scaling.models.build import build_model, logits, token_losses
from carbs_scaling.models.family import FAMILIES, ModelShape, load_family
from carbs_scaling.training.saved_model import byte_tokenizer, save_model
from carbs_scaling.training.step import accumulate_gradients, window_loss
from tests.small_models import CASES, NAMES, small_shape

# (width, depth, head size, vocabulary, sequence length); in the last, attention is most of the FLOPs.
SIZES = [(32, 1, 16, 256, 64), (64, 3, 16, 512, 128), (128, 2, 32, 1000, 32), (16, 2, 8, 2, 1024)]

every_family = pytest.mark.parametrize("name", NAMES)
every_case = pytest.mark.parametrize("name", CASES)
# What is measured rather than counted, and variants, at two sizes.
every_size = pytest.mark.parametrize(
    ("name", "size"),
    [
        (name, size)
        for name in CASES
        for size in (SIZES if name in ("gpt2", "llama", "qwen3", "qwen3_moe") else SIZES[1::2])
    ],
)


@pytest.fixture(scope="session")
def shape_of(tmp_path_factory):
    """A shape of a case and of sizes."""
    folder = tmp_path_factory.mktemp("pretrained")
    return lambda case, *sizes: small_shape(case, folder, *sizes)


@pytest.fixture
def small(shape_of):
    return lambda case: shape_of(case, 32, 2, 8, 256, 16)


def blocks_of(model: nn.Module) -> nn.ModuleList:
    return max(
        (module for module in model.modules() if isinstance(module, nn.ModuleList)),
        key=lambda blocks: sum(p.numel() for p in blocks.parameters()),
    )


def counted(model: nn.Module) -> nn.Module:
    """With experts whose FLOPs PyTorch's counter knows."""
    if getattr(model.config, "_experts_implementation", None) is not None:
        model.set_experts_implementation("eager")
    return model


@pytest.mark.parametrize("name", FAMILIES.names)
def test_it_is_called_as_its_file_and_has_an_option(name):
    assert load_family(name).name == name
    assert (configuration_folder() / "model" / f"{name}.yaml").is_file()


@every_size
def test_counts_of_parameters_are_those_of_the_model(name, size, shape_of):
    shape = shape_of(name, *size)
    model, family = build_model(shape, seed=0), shape.family
    experts = [p for n, p in model.named_parameters() if ".experts." in n]
    matrices = sum(p.numel() for p in blocks_of(model).parameters() if p.ndim >= 2)
    assert family.block_params(shape) == matrices
    idle = 0.0
    if experts:
        idle = 1 - model.config.num_experts_per_tok / model.config.num_experts
    assert shape.params == matrices - idle * sum(p.numel() for p in experts)
    assert family.head_params(shape) == model.get_output_embeddings().weight.numel()
    assert family.total_params(shape) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3", "qwen3_moe"])
def test_initial_weights_spread_as_gpt2s_at_its_width_and_wider_in_narrow_models(name, small):
    """By a constant .02 a second block of a narrow model learns nothing in a short run."""
    assert replace(small(name), width=768).initial_weight_sd == pytest.approx(0.02)
    for width in (32, 128):
        shape = replace(small(name), width=width)
        blocks = blocks_of(build_model(shape, seed=0))
        # Matrices that write to the residual stream may be drawn smaller, by depth.
        widest = max(float(p.detach().std()) for p in blocks.parameters() if p.ndim >= 2)
        assert widest == pytest.approx(0.02 * (768 / width) ** 0.5, rel=0.1)


@every_size
def test_predicted_flops_are_those_that_pytorch_counts(name, size, shape_of):
    shape = shape_of(name, *size)
    model = counted(build_model(shape, seed=0))
    batch = torch.randint(shape.vocabulary_size, (3, shape.sequence_length + 1))
    # The fused kernels count as zero on the CPU; the plain one has the whole T x T square.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        accumulate_gradients(model, batch, micro_batch=3)
    predicted = training_flops(shape, 3 * shape.sequence_length, "6N+head+attention")
    assert counter.get_total_flops() == pytest.approx(predicted, rel=0.01)


@every_family
def test_weights_follow_the_seed_and_global_random_state_is_untouched(name, small):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = build_model(small(name), seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    again = build_model(small(name), seed=1).state_dict()
    other = build_model(small(name), seed=2).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert name == "pretrained" or any(not torch.equal(first[key], other[key]) for key in first)


@every_case
def test_later_tokens_do_not_change_earlier_scores(name, small):
    model = build_model(small(name), seed=0).eval()
    tokens = torch.randint(256, (3, 16), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[:, 9] = (changed[:, 9] + 1) % 256
    with torch.no_grad():
        scores, later = logits(model, tokens), logits(model, changed)
    assert scores.shape == (3, 16, 256)
    torch.testing.assert_close(scores[:, :9], later[:, :9])
    assert not torch.allclose(scores[:, 9:], later[:, 9:])


@every_case
def test_scores_are_those_of_the_attention_in_transformers(name, small):
    model = build_model(small(name), seed=0).eval()
    tokens = torch.randint(256, (3, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = logits(model, tokens)
        model.set_attn_implementation("eager")
        torch.testing.assert_close(ours, logits(model, tokens))


@every_case
def test_head_is_tied_as_asked_and_there_is_no_dropout(name, small):
    shape = small(name)
    model = build_model(shape, seed=0).train()
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == getattr(shape.options, "tied_head", model.config.tie_word_embeddings)
    tokens = torch.randint(256, (2, 16))
    assert torch.equal(logits(model, tokens), logits(model, tokens))


@every_case
def test_a_saved_model_is_one_of_transformers_with_the_same_loss(name, small, tmp_path):
    model = build_model(small(name), seed=3)
    batch = torch.randint(256, (3, 17), generator=torch.Generator().manual_seed(0))
    reported, auxiliary = token_losses(model, batch)
    # The targets are shifted here: T tokens have T targets, where `transformers` would drop the last.
    given = {"input_ids": batch[:, :-1], "shift_labels": batch[:, 1:].contiguous(), "use_cache": False}
    theirs = model(**given, labels=batch[:, :-1])
    objective = reported if auxiliary is None else reported + auxiliary
    torch.testing.assert_close(theirs.loss, objective)
    save_model(model, byte_tokenizer(), tmp_path / "saved")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(loaded(**given, labels=batch[:, :-1]).loss, reported)


@every_family
def test_the_loss_in_parts_has_the_gradient_of_the_whole(name, small, monkeypatch):
    shape = small(name)
    batch = torch.randint(256, (5, 17), generator=torch.Generator().manual_seed(0))

    def losses_and_gradients():
        model = build_model(shape, seed=0)
        loss = accumulate_gradients(model, batch, micro_batch=4)
        with torch.inference_mode():
            total = window_loss(model, batch, reduction="sum")
        return [loss, total, *(p.grad for p in model.parameters())]

    whole = losses_and_gradients()
    # Seven tokens at once, the last part with fewer.
    monkeypatch.setitem(SCORES_AT_ONCE, "cpu", 7 * 256)
    if shape.family.has_plain_head:
        monkeypatch.setattr("carbs_scaling.models.build.cross_entropy", None)
    for ours, theirs in zip(losses_and_gradients(), whole, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


@every_family
def test_a_shape_survives_pickling_and_json(name, small):
    shape = small(name)
    assert shape.params > 0  # kept beside the fields once it has been read
    again = pickle.loads(pickle.dumps(shape))
    assert again == shape
    assert again.params == shape.params
    assert ModelShape(**json.loads(json.dumps(asdict(shape)))) == shape


@every_family
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 33, "head_size": 8}, "not a multiple of the head size"),
        ({"depth": 0}, "depth must be at least 1"),
        ({"head_size": -8}, "head_size must be at least 1"),
    ],
)
def test_impossible_shapes_are_refused_in_one_line(name, change, message, small):
    shape = small(name)
    with pytest.raises(ConfigError, match=message) as refusal:
        replace(shape, **change)
    assert "\n" not in str(refusal.value)


@every_family
def test_an_odd_head_size_is_built_or_refused_in_one_line(name, small):
    message = None
    try:
        shape = replace(small(name), width=15, head_size=5)
    except ConfigError as refusal:
        message = str(refusal)
    if message is None:
        assert logits(build_model(shape, seed=0), torch.zeros(1, 4, dtype=torch.long)).shape == (1, 4, 256)
    else:
        assert "head_size=5" in message or "by its options" in message
        assert "\n" not in message


def test_an_unknown_family_is_refused_with_the_names_of_the_others(small):
    names = ", ".join(FAMILIES.names)
    with pytest.raises(ConfigError, match=rf"model\.architecture=rnn is not one of {names}$"):
        replace(small("gpt2"), architecture="rnn")


def test_llama_needs_pairs_of_coordinates(small):
    with pytest.raises(ConfigError, match=r"model\.head_size=5 must be even"):
        replace(small("llama"), width=15, head_size=5)


def test_gpt2_xl_has_its_published_size():
    xl = ModelShape("gpt2", width=1600, depth=48, head_size=64, vocabulary_size=50257, sequence_length=1024)
    assert xl.family.total_params(xl) == 1_557_611_200
