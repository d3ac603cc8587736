"""One trial: learns, repeats itself, and ends in a typed outcome whatever happens."""

import json
import math
import pickle
from dataclasses import replace

import pytest
import torch

from carbs_scaling.data.windows import training_windows, validation_indices, validation_windows
from carbs_scaling.errors import ConfigError
from carbs_scaling.models.build import build_model
from carbs_scaling.models.family import ModelShape
from carbs_scaling.training import batches, evaluation, step
from carbs_scaling.training.device import choose_device
from carbs_scaling.training.divergence import DivergenceCheck
from carbs_scaling.training.evaluation import evaluate
from carbs_scaling.training.job import micro_batch_size
from carbs_scaling.training.learning import bits_per_byte
from carbs_scaling.training.loop import train
from carbs_scaling.training.step import accumulate_gradients, window_loss
from carbs_scaling.trial import Completed, Diverged, OutOfMemory, TrialOutcome
from tests.small_models import NAMES, small_shape


def unigram_entropy(job) -> float:
    """Nats a token of the best guess that looks at no other token."""
    windows = training_windows(job.text, 32)
    counts = torch.bincount(windows.read(range_of(windows)).flatten()).double()
    shares = counts[counts > 0] / counts.sum()
    return -(shares * shares.log()).sum().item()


def range_of(windows):
    return validation_indices(len(windows), windows.sequence_length, 10**9)


def without_time(outcome: TrialOutcome) -> TrialOutcome:
    return replace(outcome, seconds=0.0)


@pytest.mark.parametrize("architecture", NAMES)
def test_it_learns_more_than_the_frequencies_of_bytes(job, changed, architecture, tmp_path):
    shape = small_shape(architecture, tmp_path, 32, 1, 16, 256, 32)
    outcome = train(changed(shape=shape, steps=150))
    assert isinstance(outcome, Completed)
    assert outcome.progress == 1
    assert outcome.seconds > 0
    assert outcome.device == "cpu"
    assert outcome.loss < unigram_entropy(job) - 0.5
    assert TrialOutcome.from_dict(json.loads(json.dumps(outcome.to_dict()))) == outcome


def test_same_recipe_same_result_and_global_random_state_untouched(job, changed):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = train(job)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(10)
    assert without_time(train(pickle.loads(pickle.dumps(job)))) == without_time(first)
    assert train(changed(seed=2)).loss != first.loss


def test_sgd_learns_too(job, changed):
    slow = changed(learning_rate=0.3, steps=100)
    outcome = train(replace(slow, optimizer=replace(job.optimizer, name="sgd")))
    assert isinstance(outcome, Completed)
    assert outcome.loss < 4.0


def test_absurd_learning_rate_diverges_and_is_charged_what_it_spent(job, changed, tmp_path):
    outcome = train(replace(changed(learning_rate=1e4, steps=400), curve_path=str(tmp_path / "curve")))
    assert isinstance(outcome, Diverged)
    assert outcome.metrics == {"epochs": 1.0}
    assert outcome.message
    assert 0 < outcome.progress < 1
    assert outcome.progress * 400 == round(outcome.progress * 400)
    for line in (tmp_path / "curve").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_infinite_weights_are_seen_at_the_end(changed, job):
    outcome = train(
        replace(changed(learning_rate=1e30, steps=1), optimizer=replace(job.optimizer, name="sgd"))
    )
    assert isinstance(outcome, Diverged)
    assert outcome.progress == 1
    assert "held-out loss" in outcome.message


@pytest.mark.parametrize(
    ("losses", "diverged"),
    [
        ([5.0] * 100, False),
        ([5.0] + [6.5] * 19, False),
        ([5.0] + [6.5] * 20, True),
        ([5.0] + [5.5] * 60, False),
        ([5.0] + [9.0] * 15 + [4.0] * 20, False),
        ([5.0, math.nan], True),
        ([5.0, math.inf], True),
    ],
)
def test_divergence_is_a_loss_that_stays_above_the_untrained(losses, diverged):
    check = DivergenceCheck(steps=100)
    chunks = [losses[i : i + 4] for i in range(0, len(losses), 4)]
    assert any(check.reason(chunk) for chunk in chunks) == diverged


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("x"),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
    ],
)
def test_out_of_memory_is_an_outcome(job, monkeypatch, error):
    done = iter(range(5))
    real = accumulate_gradients

    def fails_at_the_sixth(*args):
        if next(done, None) is None:
            raise error
        return real(*args)

    monkeypatch.setattr(step, "accumulate_gradients", fails_at_the_sixth)
    outcome = train(job)
    assert isinstance(outcome, OutOfMemory)
    assert outcome.progress == 5 / job.recipe.steps
    assert outcome.message


def test_a_model_larger_than_memory_is_out_of_memory(changed):
    # Its first matrix is larger than the address space, so that no setting of the machine lets it through.
    huge = ModelShape("gpt2", width=1 << 24, depth=1, head_size=16, vocabulary_size=2, sequence_length=2)
    outcome = train(changed(shape=huge))
    assert isinstance(outcome, OutOfMemory)
    assert outcome.progress == 0


def test_other_errors_are_not_swallowed(job, monkeypatch):
    def fail(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(step, "accumulate_gradients", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        train(job)


@pytest.mark.parametrize("micro_batch", [1, 3, 5])
def test_accumulated_gradient_is_that_of_the_whole_batch(job, micro_batch):
    model = build_model(job.recipe.shape, seed=0)
    batch = training_windows(job.text, 32).read(validation_indices(100, 32, 5 * 32))
    whole_loss = accumulate_gradients(model, batch, 5)
    whole = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    loss = accumulate_gradients(model, batch, micro_batch)
    torch.testing.assert_close(loss, whole_loss)
    for parameter, gradient in zip(model.parameters(), whole, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-4)


def test_micro_batch_is_at_least_one_sequence_and_at_most_the_batch(job):
    sizes = [micro_batch_size(job.recipe, tokens) for tokens in (None, 1, 64, 100, 10**6)]
    assert sizes == [8, 1, 2, 3, 8]
    # Attention on a GPU takes 65,535 sequences times heads at once.
    huge = replace(job.recipe, batch_size=1 << 22)
    assert [micro_batch_size(huge, tokens) for tokens in (None, 10**9)] == [65_535 // huge.shape.heads] * 2


def test_micro_batches_train_the_same_model(job):
    assert train(replace(job, micro_batch_tokens=64)).loss == pytest.approx(train(job).loss, abs=1e-3)


def test_evaluation_is_the_mean_over_all_windows(job, monkeypatch):
    model = build_model(job.recipe.shape, seed=0)
    windows = validation_windows(job.text, 32)
    indices = validation_indices(len(windows), 32, 50 * 32)
    expected = window_loss(model, windows.read(indices)).item()
    assert expected == pytest.approx(math.log(256), abs=0.3)
    for tokens in (32, 7 * 32, 10**6):
        monkeypatch.setitem(evaluation.EVALUATION_TOKENS, "cpu", tokens)
        assert evaluate(model, windows, indices, torch.device("cpu")) == pytest.approx(expected, abs=1e-5)


def test_bits_per_byte(job):
    assert bits_per_byte(math.log(2), 1.0) == 1.0
    assert bits_per_byte(8 * math.log(2), 4.0) == 2.0
    outcome = train(job)
    bits = outcome.loss / math.log(2) / job.text.bytes_per_token
    assert outcome.metrics == {"nats_per_token": outcome.loss, "bits_per_byte": bits, "epochs": 1.0}
    in_bits = replace(job, objective=replace(job.objective, metric="bits_per_byte"))
    assert train(in_bits).loss == bits


@pytest.mark.parametrize("steps", [3, 150, 450])
def test_loss_curve(changed, tmp_path, steps):
    path = tmp_path / "curve.jsonl"
    path.write_text("left over\n")
    small = ModelShape("gpt2", width=16, depth=1, head_size=16, vocabulary_size=256, sequence_length=8)
    job = replace(changed(steps=steps, shape=small, batch_size=2), curve_path=str(path))
    outcome = train(job)
    *points, last = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(points) == steps or 100 <= len(points) <= 200
    names = {"progress", "step", "tokens", "seconds", "train_loss", "learning_rate"}
    assert all(set(p) == names and p["progress"] == p["step"] / steps for p in points)
    assert [p["step"] for p in points] == sorted({p["step"] for p in points})
    assert points[-1]["step"] == steps
    tokens = steps * job.recipe.batch_tokens
    assert last == {"progress": 1.0, "step": steps, "tokens": tokens, "validation_loss": outcome.loss}


def test_a_curve_that_cannot_be_written_is_an_error(job, tmp_path):
    with pytest.raises(OSError, match="curve"):
        train(replace(job, curve_path=str(tmp_path / "no such folder" / "curve")))


def test_every_trial_of_a_process_is_compiled(job, changed, monkeypatch):
    # Dynamo gives up on a function after so many shapes, and would run the rest as they are.
    compile_model = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **how: compile_model(model, backend="eager", **how))
    with torch._dynamo.config.patch(recompile_limit=1, fail_on_recompile_limit_hit=True):
        for width in (16, 32, 48):
            compiled = changed(shape=replace(job.recipe.shape, width=width), steps=2)
            assert isinstance(train(replace(compiled, compile=True)), Completed)


@pytest.mark.parametrize("sizes", [[3, 3, 3, 2], [40, 40, 1], [5]])
def test_batches_that_travel_together_arrive_as_they_were(job, monkeypatch, sizes):
    monkeypatch.setattr(batches, "PARCEL_TOKENS", 8 * 32)
    windows = training_windows(job.text, 32)
    order, start = [], 0
    for size in sizes:
        order.append(torch.arange(start, start + size).numpy())
        start += size
    parcels = list(batches._parcels(iter(order), 8))
    arrived = [indices.tolist() for parcel in parcels for indices in parcel]
    assert arrived == [indices.tolist() for indices in order]
    assert all(len(parcel) == 1 or sum(map(len, parcel)) <= 8 for parcel in parcels)
    if torch.cuda.is_available():
        sent = batches.device_batches(windows, iter(order), torch.device("cuda"))
        for batch, indices in zip(sent, order, strict=True):
            assert torch.equal(batch.cpu(), windows.read(indices))


def test_no_gpu_is_said_in_one_line():
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="use the device cpu or auto"):
        choose_device("cuda:99")
