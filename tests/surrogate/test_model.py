"""The surrogate as a BoTorch model: against a stock one, and under BoTorch's own acquisitions."""

import math

import numpy as np
import pytest
import torch
from botorch.acquisition import (
    PosteriorMean,
    UpperConfidenceBound,
    qLogExpectedImprovement,
    qUpperConfidenceBound,
)
from botorch.acquisition.objective import GenericMCObjective, PosteriorTransform
from botorch.exceptions import UnsupportedError
from botorch.models import SingleTaskGP
from botorch.optim import optimize_acqf_discrete
from botorch.posteriors import TransformedPosterior
from botorch.sampling import SobolQMCNormalSampler
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood

from carbs_scaling.acquisition.front_gain import expected_improvement
from carbs_scaling.surrogate.law_mean import features_of
from carbs_scaling.surrogate.model import stable_cholesky


@pytest.fixture
def uneven(law_runs):
    """A model whose members have unequal weights: some runs were conditioned on."""
    model = law_runs.fitted(15, members=7, floor_field=law_runs.FIELD)
    cube, features, loss = law_runs.drawn_runs(3, seed=8)
    more = model.condition_on_observations(
        law_runs.inputs_of(cube, features), torch.from_numpy(loss + 0.02)[:, None]
    )
    assert more.member_weights.max() > 1.5 * more.member_weights.min()
    return more


def test_predictions_are_those_of_stock_models_one_a_member(law_runs):
    model = law_runs.fitted(20, members=6, floor_field=law_runs.FIELD)
    X = law_runs.inputs_of(*law_runs.drawn_runs(7, seed=9)[:2])
    stock = SingleTaskGP(
        model.inputs.expand(6, -1, -1),
        model.target.expand(6, -1)[..., None],
        likelihood=FixedNoiseGaussianLikelihood(noise=model.noise.expand(6, -1)),
        mean_module=model.members,
        covar_module=model.kernel,
        outcome_transform=None,
    )
    expected, ours = stock.posterior(X.expand(6, -1, -1)), model.posterior(X)
    torch.testing.assert_close(expected.mean[..., 0] * model.scale, ours.means, atol=1e-4, rtol=1e-4)
    value, floor = model.members.value_and_floor(features_of(X))
    relative = model.kernel.relative_sd(value - floor, X) * model.scale
    sd = relative * expected.variance[..., 0].sqrt()
    torch.testing.assert_close(sd, ours.deviations, rtol=0.02, atol=1e-4)
    covariance = expected.distribution.covariance_matrix[0]
    sd = covariance.diagonal().sqrt()
    torch.testing.assert_close(covariance / sd / sd[:, None], ours.correlation, atol=0.02, rtol=0.02)


def test_shapes_are_those_of_a_model_with_one_output(law_runs, uneven):
    assert (uneven.num_outputs, uneven.batch_shape) == (1, torch.Size())
    rows = law_runs.inputs_of(*law_runs.drawn_runs(24, seed=2)[:2])
    for dtype in (torch.float64, torch.float32):
        for shape in ((24,), (6, 4), (24, 1), (3, 2, 4), (2, 3, 4, 1)):
            X = rows.reshape(*shape, 8).to(dtype)
            posterior = uneven.posterior(X)
            assert posterior.dtype == torch.float64
            assert posterior.mean.shape == posterior.variance.shape == torch.Size([*shape, 1])
            assert posterior.covariance_matrix.shape == torch.Size([*shape, shape[-1]])
            assert posterior.rsample(torch.Size([5])).shape == torch.Size([5, *shape, 1])
            flat = uneven.posterior(rows.to(dtype))
            torch.testing.assert_close(posterior.mean.reshape(-1), flat.mean[:, 0])
            torch.testing.assert_close(posterior.variance.reshape(-1), flat.variance[:, 0])
            diagonal = posterior.covariance_matrix.diagonal(dim1=-2, dim2=-1)
            torch.testing.assert_close(diagonal, posterior.variance[..., 0])


def test_what_it_cannot_do_is_refused(law_runs, uneven):
    X = law_runs.inputs_of(*law_runs.drawn_runs(3)[:2])
    for arguments in ({"output_indices": [1]}, {"observation_noise": True}):
        with pytest.raises(UnsupportedError):
            uneven.posterior(X, **arguments)
    with pytest.raises(UnsupportedError):
        uneven.condition_on_observations(X[None], torch.zeros(1, 3, 1))


def test_a_changed_input_is_predicted_anew(law_runs, uneven):
    X = law_runs.inputs_of(*law_runs.drawn_runs(4, seed=1)[:2])
    before = uneven.posterior(X).mean
    X[:, 4:6] += 0.5
    assert (uneven.posterior(X).mean - before).abs().min() > 1e-3


class Negated(PosteriorTransform):
    """What is minimised, as something to maximise."""

    scalarize = False

    def evaluate(self, Y, X=None):
        return -Y

    def forward(self, posterior, X=None):
        return TransformedPosterior(posterior, lambda Y: -Y, lambda m, v: -m, lambda m, v: v)


def test_botorchs_upper_confidence_bound_agrees_with_a_direct_computation(law_runs, uneven):
    X = law_runs.inputs_of(*law_runs.drawn_runs(40, seed=3)[:2])
    weights, means, sd = uneven.member_weights, uneven.posterior(X).means, uneven.posterior(X).deviations
    mean = weights @ means
    variance = weights @ (sd**2 + means**2) - mean**2
    found = UpperConfidenceBound(uneven, beta=2.0, maximize=False)(X[:, None])
    torch.testing.assert_close(found, -mean + (2 * variance).sqrt(), atol=1e-3, rtol=0)
    best, value = optimize_acqf_discrete(
        UpperConfidenceBound(uneven, beta=2.0, maximize=False), q=1, choices=X
    )
    assert value == pytest.approx(float(found.max()))
    assert torch.equal(best[0], X[found.argmax()])
    torch.testing.assert_close(PosteriorMean(uneven, maximize=False)(X[:, None]), -mean)


def test_botorchs_log_expected_improvement_agrees_with_a_direct_computation(law_runs, uneven):
    X = law_runs.inputs_of(*law_runs.drawn_runs(20, seed=4)[:2])
    posterior = uneven.posterior(X)
    level = posterior.mean.median()
    weights = uneven.member_weights
    exact = weights @ expected_improvement(posterior.means, posterior.deviations, level)
    for options in (
        {"objective": GenericMCObjective(lambda Y, X: -Y[..., 0])},
        {"posterior_transform": Negated()},
    ):
        log_gain = qLogExpectedImprovement(
            uneven,
            best_f=-level,
            sampler=SobolQMCNormalSampler(torch.Size([2**14]), seed=0),
            fat=False,
            tau_relu=1e-9,
            **options,
        )(X[:, None])
        torch.testing.assert_close(log_gain.exp(), exact, atol=1e-3, rtol=1e-3)


def test_a_batch_of_points_is_drawn_together(law_runs, uneven):
    X = law_runs.inputs_of(*law_runs.drawn_runs(8, seed=4)[:2]).reshape(4, 2, 8)
    samples = uneven.posterior(X).sample(torch.Size([40_000]))[..., 0]
    exact = uneven.posterior(X)
    for i in range(4):
        covariance = np.cov(samples[:, i].T.numpy())
        np.testing.assert_allclose(covariance, exact.covariance_matrix[i], rtol=0.06, atol=3e-5)
    # beta = 2 / pi makes it the mean of |y - mean|, of the larger of two.
    joint = qUpperConfidenceBound(
        uneven, beta=0.2, sampler=SobolQMCNormalSampler(torch.Size([2**13]), seed=0)
    )
    scaled = math.sqrt(0.2 * math.pi / 2) * (samples - exact.mean[..., 0]).abs()
    expected = (exact.mean[..., 0] + scaled).amax(dim=-1).mean(dim=0)
    torch.testing.assert_close(joint(X), expected, atol=2e-3, rtol=0)


def test_conditioning_is_the_product_of_the_rules_of_chance(law_runs):
    """Weights by each member's density of the new losses, means by the stock model's own conditioning."""
    model = law_runs.fitted(12, members=5)
    X = law_runs.inputs_of(*law_runs.drawn_runs(2, seed=8)[:2])
    Y = model.posterior(X).mean + torch.tensor([[0.03], [-0.02]])
    predicted = model.posterior(X)
    with torch.no_grad():
        stock = SingleTaskGP(
            model.inputs.expand(5, -1, -1),
            model.target.expand(5, -1)[..., None],
            likelihood=FixedNoiseGaussianLikelihood(noise=model.noise.expand(5, -1)),
            mean_module=model.members,
            covar_module=model.kernel,
            outcome_transform=None,
        ).posterior(X.expand(5, -1, -1))
        covariance = stock.distribution.covariance_matrix[0] + model.repeat_noise * torch.eye(2)
        density = torch.distributions.MultivariateNormal(predicted.means / model.scale, covariance)
        expected = density.log_prob(Y[:, 0] / model.scale).softmax(dim=0)
    after = model.condition_on_observations(X, Y)
    torch.testing.assert_close(after.member_weights, expected, atol=1e-3, rtol=1e-2)
    # A new run moves every member towards it.
    off_before = (predicted.means - Y[:, 0]).abs()
    off_after = (after.posterior(X).means - Y[:, 0]).abs()
    assert (off_after < off_before + 1e-9).all()


def test_believing_a_pending_run_keeps_its_mean_and_shrinks_its_deviation(law_runs):
    model = law_runs.fitted(15)
    X = law_runs.inputs_of(*law_runs.drawn_runs(3, seed=8)[:2])
    before, after = model.posterior(X), model.believe(X).posterior(X)
    largest = float(before.variance.sqrt().max())
    torch.testing.assert_close(after.mean, before.mean, atol=0.3 * largest, rtol=0)
    assert (after.variance < before.variance).all()
    assert model.believe(X[:0]) is model


def test_a_singular_covariance_gets_the_least_jitter():
    factor = stable_cholesky(torch.ones(4, 4, dtype=torch.float64))
    np.testing.assert_allclose((factor @ factor.T).numpy(), np.ones((4, 4)), atol=1e-3)
