"""What a run teaches about one large model."""

import numpy as np
import pytest
import torch
from botorch.acquisition import UpperConfidenceBound

from carbs_scaling.acquisition.target_information import TargetInformation, TargetModel
from carbs_scaling.laws.form.bends import bend_basis
from carbs_scaling.laws.loss import PARAMETERS, best_batch_feature, best_rate_feature, law_floor, law_value
from carbs_scaling.laws.loss_prior import law_prior

ALL_ROLES = (True,) * 4
CENTRE = tuple(np.log([2e8, 1e10, 1e-3, 3e5]))
TARGET = np.array([2.0, 1.0])


@pytest.fixture
def prior():
    return law_prior(2.3, CENTRE, ALL_ROLES)


def true_law(prior):
    theta = prior.mean.copy()
    for name, move in {"a0": 0.4, "a1": -0.15, "a2": 0.2, "b0": -0.3, "ln_k_e": 0.5}.items():
        theta[PARAMETERS.index(name)] += move
    return theta


def runs_of(theta, count, seed, noise=0.003, sizes=(-2.0, 1.0)):
    """Runs within a neper of the law's floor."""
    rng = np.random.default_rng(seed)
    features = np.column_stack([rng.uniform(*sizes, (count, 2)), np.zeros((count, 2))])
    features[:, 3] = best_batch_feature(theta, features) + rng.uniform(-1, 1, count)
    features[:, 2] = best_rate_feature(theta, features) + rng.uniform(-1, 1, count)
    return features, law_value(theta, features, ALL_ROLES) + noise * rng.normal(size=count)


def information(model, features):
    """Nats that runs of some features, whose other columns do not matter, tell about the target."""
    rows = torch.from_numpy(np.column_stack([np.full((len(features), 2), 0.5), features]))
    told = TargetInformation(model)(rows[:, None])
    assert torch.equal(TargetInformation(model)(rows[None, :, None])[0], told)
    return told.numpy()


def truth_at(theta):
    at = np.array([[*TARGET, 0.0, 0.0]])
    at[0, 3] = best_batch_feature(theta, at)[0]
    return np.array([best_rate_feature(theta, at)[0], at[0, 3], law_floor(theta, at, ALL_ROLES)[0]])


def test_the_recipe_at_the_target_is_the_laws_within_its_intervals(prior):
    theta, z = true_law(prior), []
    for seed in range(12):
        features, loss = runs_of(theta, 60, seed)
        mean, covariance = TargetModel.of(theta, prior, features, loss, TARGET).recipe()
        z.append((mean - truth_at(theta)) / np.sqrt(np.diag(covariance)))
    assert np.abs(z).max() < 2.5
    assert np.abs(np.mean(z, axis=0)).max() < 1.0


def test_runs_correct_a_law_that_was_fitted_wrongly(prior):
    theta = true_law(prior)
    features, loss = runs_of(theta, 80, 1)
    wrong = theta.copy()
    wrong[PARAMETERS.index("a0")] += 0.2
    mean, _ = TargetModel.of(wrong, prior, features, loss, TARGET).recipe()
    assert abs(mean[0] - truth_at(theta)[0]) < 0.15


def test_information_is_what_the_recipes_covariance_loses(prior):
    theta = true_law(prior)
    features, loss = runs_of(theta, 25, 2)
    more, _ = runs_of(theta, 6, 3)
    before = TargetModel.of(theta, prior, features, loss, TARGET)
    told = information(before, more)
    for i in range(6):
        after = grown(before, more[i : i + 1])
        volumes = [np.linalg.slogdet(d.recipe()[1])[1] for d in (before, after)]
        assert told[i] == pytest.approx((volumes[0] - volumes[1]) / 2, rel=1e-3, abs=1e-6)


def grown(design, run):
    """The same law and noise with one more run."""
    features = np.concatenate([design.features, run])
    covariance = design._covariance(features, features)
    covariance[np.diag_indices(len(features))] += design._noise(features)
    factor = np.linalg.cholesky(covariance)
    whitened = np.append(design.whitened, 0.0)
    return TargetModel(
        design.theta, design.prior, features, design.at, design.noise_sd, factor, whitened, design.reach
    )


def test_the_same_run_again_tells_less_and_a_run_of_another_size_more(prior):
    theta = true_law(prior)
    features, loss = runs_of(theta, 20, 4)
    design = TargetModel.of(theta, prior, features, loss, TARGET)
    aside = np.array([[-1.0, -1.0, 0.0, 0.0], [1.0, 0.5, 0.0, 0.0]])
    aside[:, 3] = best_batch_feature(theta, aside)
    aside[:, 2] = best_rate_feature(theta, aside) + 0.6
    crowded = grown(grown(grown(design, aside[:1]), aside[:1]), aside[:1])
    assert information(crowded, aside[:1])[0] < 0.5 * information(design, aside[:1])[0]
    assert information(crowded, aside)[1] > 2 * information(crowded, aside)[0]


def test_far_up_the_walls_a_run_tells_less_than_near_the_floor(prior):
    theta = true_law(prior)
    features, loss = runs_of(theta, 30, 5)
    design = TargetModel.of(theta, prior, features, loss, TARGET)
    rows = np.array([[0.5, 0.5, 0.0, 0.0]] * 2)
    rows[:, 3] = best_batch_feature(theta, rows)
    rows[:, 2] = best_rate_feature(theta, rows) + np.array([0.8, 3.5])
    near, far = information(design, rows)
    assert near > far


def test_a_best_rate_whose_exponent_changes_is_followed_to_the_target(prior):
    # An exponent that falls by .3 a neper of N, of which a power law through the runs knows nothing.
    theta, reach, errors = true_law(prior), ((-2.0, 1.0), (-2.0, 1.0)), []
    bend = np.array([-0.3, 0.0, 0.0])
    for seed in range(4):
        features, _ = runs_of(theta, 80, seed)
        straight = features.copy()
        features[:, 2] += bend_basis(features[:, 0], features[:, 1], reach) @ bend
        loss = law_value(theta, straight, ALL_ROLES) + 0.003 * np.random.default_rng(seed).normal(size=80)
        recipe, covariance = TargetModel.of(theta, prior, features, loss, TARGET).recipe()
        truth = truth_at(theta)[0] + float(bend_basis(TARGET[0], TARGET[1], reach) @ bend)
        errors.append((recipe[0] - truth) / np.sqrt(covariance[0, 0]))
        assert abs(recipe[0] - truth) < 0.25 < abs(truth_at(theta)[0] - truth)
    assert np.abs(errors).max() < 2.5


def test_losses_of_runs_are_those_of_the_linear_law_given_the_others(prior):
    """Against the rule for jointly normal variables, and under one of BoTorch's own acquisitions."""
    theta = true_law(prior)
    features, loss = runs_of(theta, 20, 6)
    model = TargetModel.of(theta, prior, features, loss, TARGET)
    rows = torch.from_numpy(runs_of(theta, 6, 7)[0])
    posterior = model.posterior(rows)
    new = rows.numpy()
    cross, own = model._covariance(new, features), model._covariance(new, new)
    noisy = model._covariance(features, features) + np.diag(model._noise(features))
    covariance = own - cross @ np.linalg.solve(noisy, cross.T)
    found = posterior.covariance_matrix.numpy()
    np.testing.assert_allclose(found, covariance, atol=1e-6 * covariance.max())
    assert np.abs(posterior.mean[:, 0].numpy() - law_value(theta, new, ALL_ROLES)).max() < 0.05
    pairs = model.posterior(rows.reshape(3, 2, 4))
    torch.testing.assert_close(pairs.mean.reshape(-1), posterior.mean[:, 0])
    torch.testing.assert_close(pairs.variance.reshape(-1), posterior.variance[:, 0], atol=1e-8, rtol=1e-5)
    bound = UpperConfidenceBound(model, beta=1.0, maximize=False)(rows[:, None])
    torch.testing.assert_close(
        bound, posterior.variance[:, 0].sqrt() - posterior.mean[:, 0], rtol=1e-5, atol=1e-6
    )
