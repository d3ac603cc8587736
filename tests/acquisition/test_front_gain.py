"""Expected gains against sampling and brute force, on our posteriors and on a stock model's."""

import numpy as np
import pytest
import torch
from botorch.models import SingleTaskGP
from botorch.models.deterministic import GenericDeterministicModel
from botorch.models.model import Model
from botorch.optim import optimize_acqf_discrete

from carbs_scaling.acquisition.front_gain import (
    ExpectedFrontGain,
    FrontLevels,
    expected_front_gain,
    expected_improvement,
)
from carbs_scaling.frontier import hypervolume
from carbs_scaling.surrogate.posterior import MixturePosterior

FLOPS = np.array([1e3, 1e4, 3e5])
LOSS = np.array([3.0, 2.5, 2.0])
REFERENCE = (6.0, 4.0)
FRONT = FrontLevels.of(FLOPS, LOSS, 2.0, REFERENCE)
# The first column of an input is its log10 FLOPs, from 2 to 6.
COST = GenericDeterministicModel(lambda X: 10 ** (2 + 4 * X[..., :1]))


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def gain_of(mean, sd, log_cost):
    return float(expected_front_gain(tensor(1.0), tensor([mean]), tensor([sd]), tensor(log_cost), FRONT)[0])


def grown(log_cost, loss):
    """How much a run of a loss adds to the front's area."""
    before = hypervolume(FLOPS, LOSS, REFERENCE)
    return hypervolume(np.append(FLOPS, 10**log_cost), np.append(LOSS, loss), REFERENCE) - before


@pytest.mark.parametrize(("mean", "sd"), [(2.0, 0.3), (3.5, 0.2), (2.6, 1e-9), (9.0, 0.1)])
def test_expected_improvement_agrees_with_sampling(mean, sd):
    draws = np.random.default_rng(0).normal(mean, sd, 400_000)
    found = float(expected_improvement(tensor(mean), tensor(sd), tensor(2.5)))
    assert found == pytest.approx(np.maximum(2.5 - draws, 0).mean(), abs=2e-3)


def test_expected_improvement_stays_positive_and_ordered_far_in_the_tail():
    values = expected_improvement(tensor(4.0, 5.0, 6.0), tensor(0.25), tensor(0.0))
    assert (values > 0).all()
    assert (values.diff() < 0).all()


@pytest.mark.parametrize(("loss", "log_cost"), [(2.2, 3.5), (1.5, 2.5), (1.9, 5.9), (3.2, 2.2), (3.9, 5.0)])
def test_a_certain_run_gains_exactly_the_area_it_adds(loss, log_cost):
    assert gain_of(loss, 1e-9, log_cost) == pytest.approx(grown(log_cost, loss), abs=1e-7)


def test_an_uncertain_run_gains_the_mean_area():
    draws = np.random.default_rng(1).normal(2.4, 0.4, 4_000)
    assert gain_of(2.4, 0.4, 3.6) == pytest.approx(np.mean([grown(3.6, y) for y in draws]), rel=0.05)


def test_the_front_as_steps():
    found = FRONT.at(tensor(2.5, 3.0, 4.9, 5.9))
    np.testing.assert_allclose(found.numpy(), [4.0, 3.0, 2.5, 2.0])


def stock_model():
    generator = torch.Generator().manual_seed(0)
    X = torch.rand(12, 2, generator=generator, dtype=torch.float64)
    Y = 3 - 1.5 * X[:, :1] + 0.3 * torch.sin(6 * X[:, 1:])
    return SingleTaskGP(X, Y)


def test_on_a_stock_model_it_agrees_with_a_monte_carlo_estimate():
    model = stock_model()
    X = torch.rand(6, 1, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        gain = ExpectedFrontGain(model, FRONT, COST)(X)
        samples = model.posterior(X).rsample(torch.Size([3000]))[..., 0, 0].numpy()
    for i in range(6):
        log_cost = 2 + 4 * float(X[i, 0, 0])
        areas = [grown(log_cost, y) for y in samples[:, i]]
        error = np.std(areas) / np.sqrt(len(areas))
        assert float(gain[i]) == pytest.approx(np.mean(areas), abs=4 * error + 1e-6)


def test_its_shape_is_that_of_the_batches_and_it_is_differentiable_on_a_stock_model():
    gain = ExpectedFrontGain(stock_model(), FRONT, COST)
    for batch_shape in ((5,), (2, 3), (1,)):
        X = torch.rand(*batch_shape, 1, 2, dtype=torch.float64, requires_grad=True)
        value = gain(X)
        assert value.shape == torch.Size(batch_shape)
        assert value.dtype == torch.float64
        value.sum().backward()
        assert (X.grad[..., 1] != 0).any()
    with pytest.raises(AssertionError):
        gain(torch.rand(5, 2, 2, dtype=torch.float64))  # one run at a time


def test_botorch_chooses_the_best_of_some_candidates_by_it():
    gain = ExpectedFrontGain(stock_model(), FRONT, COST)
    choices = torch.rand(40, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    best, value = optimize_acqf_discrete(gain, q=1, choices=choices, max_batch_size=7)
    with torch.no_grad():
        values = gain(choices[:, None])
    assert torch.equal(best[0], choices[values.argmax()])
    assert float(value) == pytest.approx(float(values.max()))


class Fixed(Model):
    """Components that do not depend on the inputs."""

    num_outputs = 1

    def __init__(self, weights, means, deviations):
        super().__init__()
        self.parts = weights, means, deviations

    def posterior(self, X, **_):
        weights, means, deviations = self.parts
        expanded = (v.reshape(-1, 1, 1).expand(-1, *X.shape[:-1]) for v in (means, deviations))
        return MixturePosterior(weights, *expanded)


def test_a_mixture_is_scored_component_by_component():
    weights, means, sds = tensor(0.7, 0.2, 0.1), tensor(2.4, 2.0, 3.0), tensor(0.1, 0.2, 0.4)
    X = torch.tensor([[[0.4, 0.0]], [[0.75, 0.0]]], dtype=torch.float64)
    found = ExpectedFrontGain(Fixed(weights, means, sds), FRONT, COST)(X)
    for i, log_cost in enumerate((3.6, 5.0)):
        parts = [gain_of(float(m), float(s), log_cost) for m, s in zip(means, sds, strict=True)]
        assert float(found[i]) == pytest.approx(float(weights @ tensor(*parts)))
