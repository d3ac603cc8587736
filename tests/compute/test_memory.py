"""The estimate of memory against what PyTorch really keeps, for every family and both precisions."""

import dataclasses
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from carbs_scaling.compute.memory import activation_bytes, training_memory_bytes
from carbs_scaling.errors import ConfigError
from carbs_scaling.models.activations import SCORES_AT_ONCE
from carbs_scaling.models.build import build_model
from carbs_scaling.models.family import ModelShape
from carbs_scaling.optimizers.optimizer import (
    OPTIMIZERS,
    Hyperparameters,
    build_optimizer,
    hidden_matrices,
    load_optimizer,
)
from carbs_scaling.training import step
from tests.small_models import batch_of, losses_of, small_shape

# (width, depth, head size, vocabulary, sequence length), sequences: bytes and narrow; deep; a vocabulary
# that holds nearly all of the memory; wide, where weights and matrices do.
SHAPES = [
    ((16, 1, 16, 256, 64), 4),
    ((64, 4, 16, 256, 64), 2),
    ((32, 2, 16, 8_000, 64), 1),
    ((256, 1, 64, 256, 32), 8),
]

# Families that are counted by a rule, with a variant that has other code.
COUNTED = ("gpt2", "llama", "qwen3", "qwen3_moe")
CASES = (*COUNTED, "llama-grouped", "vit")


@pytest.fixture(scope="session")
def shape_of(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    return lambda case, *sizes: small_shape(case, folder, *sizes)


HYPERPARAMETERS = Hyperparameters(learning_rate=1e-3, weight_decay=0.0, beta1=0.9, beta2=0.95, epsilon=1e-8)


def autocast(bytes_per_activation):
    # The CPU's autocast stands for CUDA's: both multiply matrices in bfloat16 and add residuals in float32.
    return torch.autocast("cpu", torch.bfloat16, enabled=bytes_per_activation == 2)


def saved_bytes(shape, sequences, bytes_per_activation):
    """Distinct storages that autograd keeps, the weights left out."""
    model = build_model(shape, seed=0)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage  # held, so that its address stays its own
        return tensor

    with (
        autocast(bytes_per_activation),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        losses_of(shape)(model, batch_of(shape, sequences))
    return sum(storage.nbytes() for storage in kept.values())


class LiveBytes(TorchDispatchMode):
    """Bytes of all storages that are alive, and the most there ever were."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._seen = weakref.WeakSet()

    def add(self, tensor):
        storage = tensor.untyped_storage()
        if storage not in self._seen:
            self._seen.add(storage)
            weakref.finalize(storage, self._freed, storage.nbytes())
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)

    def _freed(self, size):
        self.now -= size

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.add(leaf)
        return result


def peak_bytes(shape, sequences, optimizer, bytes_per_activation, monkeypatch):
    """Most bytes alive in a step of two micro-batches, optimizer state and gradients being there."""
    monkeypatch.setattr(step, "autocast", lambda device: autocast(bytes_per_activation))
    model = build_model(shape, seed=0)
    parameters = list(model.parameters())
    stepper = build_optimizer(optimizer, model, HYPERPARAMETERS)
    batch = batch_of(shape, 2 * sequences)
    with LiveBytes() as live:
        for parameter in parameters:
            live.add(parameter)
        for _ in range(2):  # the state is there from the first step on
            stepper.zero_grad(set_to_none=True)
            step.accumulate_gradients(model, batch, sequences, losses=losses_of(shape))
            torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
            stepper.step()
    return live.peak


@pytest.mark.parametrize("bytes_per_activation", [4, 2])
@pytest.mark.parametrize("architecture", CASES)
@pytest.mark.parametrize(("sizes", "sequences"), SHAPES)
def test_activations_are_those_that_autograd_keeps(
    architecture, sizes, sequences, bytes_per_activation, shape_of
):
    shape = shape_of(architecture, *sizes)
    kept = saved_bytes(shape, sequences, bytes_per_activation)
    assert activation_bytes(shape, sequences, bytes_per_activation) == pytest.approx(kept, rel=0.01)


# One optimizer of each size of state, in either precision: together they take long.
@pytest.mark.parametrize(
    ("optimizer", "bytes_per_activation"),
    [("adamw", 4), ("sgd", 2), ("muon", 4)],
)
@pytest.mark.parametrize("architecture", CASES)
@pytest.mark.parametrize(("sizes", "sequences"), SHAPES)
def test_the_estimate_is_at_the_peak_of_a_step_or_just_above(
    architecture, sizes, sequences, bytes_per_activation, optimizer, monkeypatch, shape_of
):
    shape = shape_of(architecture, *sizes)
    peak = peak_bytes(shape, sequences, optimizer, bytes_per_activation, monkeypatch)
    estimate = training_memory_bytes(shape, sequences, optimizer, bytes_per_activation)
    assert 0.99 * peak < estimate < 1.15 * peak


@pytest.mark.parametrize(
    "architecture", ["auto", "auto-moe", "pretrained", "pretrained-classes", "gpt2-classes", "qwen3-classes"]
)
def test_what_is_measured_is_within_fifteen_percent_of_the_peak(architecture, monkeypatch, shape_of):
    shape = shape_of(architecture, 64, 4, 16, 256, 64)
    peak = peak_bytes(shape, 2, "adamw", 4, monkeypatch)
    assert training_memory_bytes(shape, 2, "adamw") == pytest.approx(peak, rel=0.15)


@pytest.mark.parametrize("architecture", COUNTED)
def test_a_loss_in_parts_needs_what_is_estimated(architecture, monkeypatch, shape_of):
    monkeypatch.setitem(SCORES_AT_ONCE, "cpu", 16 * 8_000)
    shape = shape_of(architecture, 32, 2, 16, 8_000, 64)
    kept = saved_bytes(shape, 2, 4)
    assert activation_bytes(shape, 2) == pytest.approx(kept, rel=0.01)
    peak = peak_bytes(shape, 2, "adamw", 4, monkeypatch)
    assert 0.99 * peak < training_memory_bytes(shape, 2, "adamw") < 1.15 * peak
    # Compiled or on several devices, a model has no plain head that anyone could see.
    monkeypatch.setattr(shape.family, "has_plain_head", False)
    kept = saved_bytes(shape, 2, 4)
    assert activation_bytes(shape, 2, whole_scores=True) == pytest.approx(kept, rel=0.01)


@pytest.mark.cuda
@pytest.mark.parametrize("optimizer", OPTIMIZERS.names)
@pytest.mark.parametrize("architecture", COUNTED)
@pytest.mark.parametrize(
    ("sizes", "sequences"), [((256, 4, 64, 256, 256), 64), ((512, 8, 64, 8192, 512), 16)]
)
def test_a_gpu_needs_what_is_estimated(architecture, sizes, sequences, optimizer):
    shape = ModelShape(architecture, *sizes)
    device = torch.device("cuda")
    model = build_model(shape, seed=0).to(device)
    stepper = build_optimizer(optimizer, model, HYPERPARAMETERS)
    batch = batch_of(shape, 2 * sequences).to(device)
    torch.ones(64, 64, device=device) @ torch.ones(64, 64, device=device)  # cuBLAS takes its workspace
    held = torch.cuda.memory_allocated() - sum(p.nbytes for p in model.parameters())
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        stepper.zero_grad(set_to_none=True)
        step.accumulate_gradients(model, batch, sequences, losses=losses_of(shape))
        stepper.step()
    estimate = training_memory_bytes(shape, sequences, optimizer, bytes_per_activation=2)
    # CUDA's cross-entropy holds less at its peak than the CPU's (`compute.memory`).
    assert torch.cuda.max_memory_allocated() - held == pytest.approx(estimate, rel=0.2)


def test_without_the_rest_a_block_is_the_published_count():
    # Korthikanti et al. 2022, table 2: 34 s b h bytes a block in 16 bits, of which 2 are dropout's masks.
    one = ModelShape("gpt2", 1024, 1, 64, 256, 128)
    two = dataclasses.replace(one, depth=2)
    values = (activation_bytes(two, 1) - activation_bytes(one, 1)) / 4 / one.sequence_length
    statistics = 4 + one.heads
    assert 2 * (values - statistics) == (34 - 2) * one.width


@pytest.mark.parametrize("architecture", COUNTED)
def test_memory_grows_with_every_size_and_with_the_state_of_the_optimizer(architecture):
    shape = ModelShape(architecture, 64, 2, 16, 256, 64)
    base = training_memory_bytes(shape, 2, "adamw")
    for name, value in (("width", 96), ("depth", 3), ("vocabulary_size", 257), ("sequence_length", 65)):
        assert training_memory_bytes(dataclasses.replace(shape, **{name: value}), 2, "adamw") > base
    assert training_memory_bytes(shape, 3, "adamw") > base
    for name in OPTIMIZERS.names:
        kind, adamw = load_optimizer(name), load_optimizer("adamw")
        model = build_model(shape, 0)
        hidden = sum(p.numel() for p in hidden_matrices(model))
        outer = sum(p.numel() for p in model.parameters()) - hidden
        more = (kind.state_bytes - adamw.state_bytes) * outer
        more += (kind.hidden_state_bytes - adamw.hidden_state_bytes) * hidden
        assert training_memory_bytes(shape, 2, name) - base == more


@pytest.mark.parametrize(
    ("sequences", "optimizer", "size", "told"),
    [
        (0, "adamw", 4, "sequences"),
        (1, "unheard", 4, r"optimizer\.name=unheard"),
        (1, "adamw", 1, "bytes_per_activation"),
    ],
)
def test_what_it_does_not_know_is_refused(sequences, optimizer, size, told):
    with pytest.raises((ValueError, ConfigError), match=told):
        training_memory_bytes(ModelShape("gpt2", 16, 1, 16, 256, 8), sequences, optimizer, size)
