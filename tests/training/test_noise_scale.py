"""The noise scale: unbiased where mean and covariance are known, and without effect on the run."""

import json
from dataclasses import replace

import pytest
import torch

from carbs_scaling.data.windows import training_windows, validation_indices
from carbs_scaling.models.build import build_model
from carbs_scaling.training.loop import train
from carbs_scaling.training.noise_scale import NoiseMeter, gradient_moments, mean_moments
from carbs_scaling.training.step import accumulate_gradients
from carbs_scaling.trial import TrialOutcome


def measured(job, **changes):
    return replace(job, objective=replace(job.objective, gradient_noise_scale=True), **changes)


@pytest.mark.parametrize("sizes", [(8, 8), (4, 4, 4, 4), (6, 6, 3)])
def test_moments_of_gradients_with_known_mean_and_covariance(sizes):
    """Per-sample gradients drawn as g + noise, in parts of equal and of unequal size."""
    torch.manual_seed(0)
    deviations = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)
    expected = torch.tensor([1.0, -0.5, 0.25, 0.0], dtype=torch.float64)
    batch = sum(sizes)
    found = []
    for _ in range(3000):
        samples = expected + deviations * torch.randn(batch, 4, dtype=torch.float64)
        parts = [part.mean(0).square().sum().item() for part in samples.split(list(sizes))]
        whole = samples.mean(0).square().sum().item()
        found.append(gradient_moments(parts, [size / batch for size in sizes], whole, batch))
    mean = mean_moments(found)
    assert mean.square == pytest.approx(expected.square().sum().item(), rel=0.05)
    assert mean.variance == pytest.approx(deviations.square().sum().item(), rel=0.03)
    assert mean.noise_scale_tokens == pytest.approx(14.25 / 1.3125, rel=0.06)


def test_linear_regression_through_autograd(job):
    """A shift s from the true weights, normal inputs: E g = s, tr Sigma = (d + 1) |s|^2 + d noise^2."""
    torch.manual_seed(1)
    dimension, shift, noise, recipe = 6, 0.5, 1.5, replace(job.recipe, steps=10**6)
    weights = torch.nn.Parameter(torch.full((dimension,), shift))
    meter = NoiseMeter([weights], recipe)
    found = []
    for step in range(1500):
        for _ in range(4):
            inputs = torch.randn(recipe.batch_size // 4, dimension)
            error = inputs @ weights - noise * torch.randn(len(inputs))  # the true weights are 0
            (error.square().mean() / 2 / 4).backward()
            meter.take_part(0.25)
        meter.end_step(step)
        weights.grad = None
    found = meter.read()
    square = dimension * shift**2
    variance = (dimension + 1) * square + dimension * noise**2
    assert found["gradient_square"] == pytest.approx(square, rel=0.15)
    # Samples are sequences, counted in tokens.
    assert found["gradient_variance"] / recipe.shape.sequence_length == pytest.approx(variance, rel=0.07)
    assert meter.read() == {}


def test_identical_parts_have_no_noise_and_noise_alone_has_no_scale():
    quiet = gradient_moments([4.0, 4.0], [0.5, 0.5], 4.0, 100)
    assert (quiet.square, quiet.variance) == (4.0, 0.0)
    assert gradient_moments([4.0, 4.0], [0.5, 0.5], 1.0, 100).noise_scale_tokens is None
    assert mean_moments([]) is None
    with pytest.raises(ValueError, match="two"):
        gradient_moments([1.0], [1.0], 1.0, 8)


@pytest.mark.parametrize("part", [2, 3])
def test_the_gradient_is_bit_for_bit_that_of_the_same_micro_batches(job, part):
    model = build_model(job.recipe.shape, seed=0)
    batch = training_windows(job.text, 32).read(validation_indices(100, 32, 8 * 32))
    accumulate_gradients(model, batch, part)
    plain = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    meter = NoiseMeter(list(model.parameters()), job.recipe)
    accumulate_gradients(model, batch, part, meter.take_part)
    assert all(p.grad is None for p in model.parameters())
    meter.end_step(0)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), plain, strict=True))


def test_it_does_not_change_a_run_in_micro_batches_and_only_rounds_otherwise(job):
    def result(outcome):
        losses = {k: v for k, v in outcome.metrics.items() if k != "noise_scale_tokens"}
        return replace(outcome, seconds=0.0, metrics=losses)

    split = replace(job, micro_batch_tokens=64)
    outcome = train(measured(split))
    assert result(outcome) == result(train(split))
    assert outcome.metrics.get("noise_scale_tokens", 1.0) > 0
    assert train(measured(job)).loss == pytest.approx(train(job).loss, abs=1e-3)


def test_curve_and_record_hold_it(job, changed, tmp_path):
    path = tmp_path / "curve"
    outcome = train(measured(changed(steps=200), curve_path=str(path)))
    points = [json.loads(line) for line in path.read_text().splitlines()]
    seen = [point for point in points if "gradient_square" in point]
    assert len(seen) == 10  # every 20 steps
    late = [point for point in seen if point["step"] > 100]
    scale = sum(p["gradient_variance"] for p in late) / sum(p["gradient_square"] for p in late)
    assert outcome.metrics["noise_scale_tokens"] == pytest.approx(scale, rel=1e-4)
    assert TrialOutcome.from_dict(json.loads(json.dumps(outcome.to_dict()))) == outcome


def test_a_batch_of_one_sequence_is_never_measured(changed, tmp_path):
    path = tmp_path / "curve"
    outcome = train(measured(changed(batch_size=1, steps=60), curve_path=str(path)))
    assert "noise_scale_tokens" not in outcome.metrics
    assert "gradient_square" not in path.read_text()
