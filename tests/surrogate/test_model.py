"""The surrogate: agreement with BoTorch, coverage on runs drawn from a law, and hard histories."""

import numpy as np
import pytest
import torch
from carbs_scaling.laws.loss import PARAMETERS, law_value

from carbs_scaling.space.floor_field import FloorField, field_correlation
from carbs_scaling.surrogate.ensemble import sample_laws
from carbs_scaling.surrogate.hyperparameters import ResidualPrior, fit_residual
from carbs_scaling.surrogate.model import SurrogateFitter, stable_cholesky

ALL = (True, True, True, True)
CENTRE = (np.log(1e8), np.log(5e9), np.log(2e-3), np.log(2e5))
HALF = np.array([2.5, 2.0, 2.5, 2.5])


def drawn_runs(count, seed=0, noise=0.003):
    rng = np.random.default_rng(seed)
    cube = rng.random((count, 4))
    features = (2 * cube - 1) * HALF
    n, d, e, b = features.T
    loss = (
        1.8
        + 0.7 * np.exp(-0.35 * n)
        + 0.6 * np.exp(-0.36 * d)
        + 0.03 * (e + 0.4 * n - 0.4 * b) ** 2
        + 0.02 * (b - 0.5 * d) ** 2
    )
    return cube, features, loss + noise * rng.normal(size=count)


def fitted(count, seed=0, **options):
    cube, features, loss = drawn_runs(count, seed)
    return SurrogateFitter(CENTRE, ALL, **options).fit(cube, features, loss, np.random.default_rng(seed))


# Of a space whose cube is its features: the first two columns are N and D, and no shape is left.
FIELD = FloorField(np.array([0, 1]), np.diag(1 / (2 * HALF[:2])))


def inputs_of(cube, features):
    return torch.from_numpy(np.column_stack([cube, features]))


def test_predictions_are_those_of_the_botorch_model():
    surrogate = fitted(20, members=6, floor_field=FIELD)
    cube, features, _ = drawn_runs(7, seed=9)
    inputs = inputs_of(cube, features)
    mean, sd = surrogate.predict(inputs)
    posterior = surrogate.botorch_model().posterior(inputs.expand(6, -1, -1))
    np.testing.assert_allclose(posterior.mean[..., 0].detach().numpy() * surrogate.scale, mean, atol=1e-4)
    common = posterior.variance[0, :, 0].detach().sqrt() * surrogate.scale
    expected = common * surrogate.kernel.relative_sd(surrogate.mean.thetas, inputs)
    np.testing.assert_allclose(expected.numpy(), sd, rtol=0.02, atol=1e-4)


def test_the_kernel_is_the_same_by_diagonal_by_batch_and_by_pair():
    kernel = fitted(20, members=1, floor_field=FIELD).kernel
    left, right = (inputs_of(*drawn_runs(5, seed=seed)[:2]) for seed in (7, 8))
    with torch.no_grad():
        pairs = kernel(left, right).to_dense()
        torch.testing.assert_close(kernel(left, right, diag=True), pairs.diagonal())
        batch = kernel(torch.stack([right, left]), torch.stack([left, right])).to_dense()
    torch.testing.assert_close(batch[1], pairs)
    torch.testing.assert_close(batch[0], pairs.T)


def test_the_laws_stated_residual_is_that_of_the_runs():
    cube, features, loss = drawn_runs(40)
    # A floor that no law of the form has.
    loss = loss + 0.04 * np.sin(2 * features[:, 0])
    law = (
        SurrogateFitter(CENTRE, ALL, floor_field=FIELD)
        .fit(cube, features, loss, np.random.default_rng(0))
        .law
    )
    off = loss - law_value(np.array(law.theta), features, ALL)
    assert law.residual_sd == pytest.approx(np.sqrt(np.mean(off**2)))


def test_a_law_with_lower_walls_is_surer_of_what_they_hide():
    """Else one flat law in an ensemble of steep ones hopes for losses below the floor far up the walls."""
    surrogate = fitted(20, members=4)
    theta = surrogate.kernel.theta
    flat = theta.copy()
    flat[PARAMETERS.index("ln_k_e")] -= np.log(8)
    far, near = np.array([[0.0, 0.0, 2.4, 0.0]]), np.array([[0.0, 0.0, 0.0, 0.0]])
    inputs = inputs_of(np.full((2, 4), 0.5), np.concatenate([far, near]))
    relative = surrogate.kernel.relative_sd(np.stack([theta, flat]), inputs).numpy()
    np.testing.assert_allclose(relative[0], 1.0)
    assert relative[1, 0] < 0.8
    assert relative[1, 1] == pytest.approx(1.0, abs=0.05)


def test_unseen_runs_fall_where_the_surrogate_says():
    surrogate = fitted(40)
    cube, features, loss = drawn_runs(200, seed=5, noise=0.0)
    mean, sd = surrogate.marginal(inputs_of(cube, features))
    z = (loss - mean) / np.hypot(sd, surrogate.noise_sd)
    assert np.sqrt(np.mean((loss - mean) ** 2)) < 0.03
    assert np.mean(np.abs(z) < 2) > 0.85


def test_the_truth_lies_inside_the_laws_stated_intervals():
    truth = {"ln_alpha": np.log(0.35), "ln_beta": np.log(0.36), "a1": -0.4, "a3": 0.4, "b1": 0.5, "b2": 0.0}
    inside = []
    for seed in range(4):
        law = fitted(60, seed=seed).law
        sd = np.sqrt(np.diag(np.array(law.covariance)))
        from carbs_scaling.laws.loss import PARAMETERS

        for name, value in truth.items():
            inside.append(abs(law.parameter(name) - value) < 2.5 * sd[PARAMETERS.index(name)])
    assert np.mean(inside) > 0.85


def test_believing_a_pending_run_keeps_its_mean_and_shrinks_its_deviation():
    surrogate = fitted(15)
    cube, features, _ = drawn_runs(3, seed=8)
    inputs = inputs_of(cube, features)
    before, after = surrogate.marginal(inputs), surrogate.believe(inputs).marginal(inputs)
    np.testing.assert_allclose(after[0], before[0], atol=0.3 * before[1].max())
    assert (after[1] < before[1]).all()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda cube, features, loss: (cube[:2], features[:2], loss[:2]),
        lambda cube, features, loss: tuple(np.repeat(a[:3], 10, axis=0) for a in (cube, features, loss)),
        lambda cube, features, loss: (cube, features, np.full_like(loss, 3.0)),
        lambda cube, features, loss: (cube, features, np.where(np.arange(len(loss)) == 4, 1e9, loss)),
        lambda cube, features, loss: (cube, features, -loss * 1e-6),
        lambda cube, features, loss: (cube, features, loss * 1e8),
        lambda cube, features, loss: (np.full_like(cube, 0.5), np.zeros_like(features), loss),
        lambda cube, features, loss: (cube + 1e-12 * features, features, loss),
    ],
)
def test_hard_histories_give_finite_predictions(spoil):
    cube, features, loss = spoil(*drawn_runs(30))
    fitter = SurrogateFitter(CENTRE, ALL, floor_field=FIELD)
    surrogate = fitter.fit(cube, features, loss, np.random.default_rng(0))
    test_cube, test_features, _ = drawn_runs(20, seed=3)
    mean, sd = surrogate.marginal(inputs_of(test_cube, test_features))
    assert np.isfinite(mean).all()
    assert np.isfinite(sd).all()
    assert (sd > 0).all()


def test_the_hyperparameters_gradient_is_the_derivative():
    rng = np.random.default_rng(0)
    cube, surprise, spread = rng.random((12, 2)), 0.2 * rng.normal(size=12), 0.1 * rng.random(12)
    basis, lack = rng.normal(size=(12, 3)), rng.random(12)
    floors = np.outer(lack, lack) * field_correlation(cube, cube)
    from scipy.optimize import check_grad

    seen = {}

    def spy(function, start, **options):
        seen["function"] = function
        return type("Result", (), {"x": start})()

    import carbs_scaling.surrogate.hyperparameters as residual

    original, residual.minimize = residual.minimize, spy
    try:
        fit_residual(cube, surprise, basis @ basis.T, floors, np.full(12, 1e-3), spread, ResidualPrior(2))
    finally:
        residual.minimize = original
    at = ResidualPrior(2).mean + 0.3
    assert check_grad(lambda x: seen["function"](x)[0], lambda x: seen["function"](x)[1], at) < 5e-3


def test_a_singular_covariance_gets_the_least_jitter():
    factor = stable_cholesky(torch.ones(4, 4, dtype=torch.float64))
    np.testing.assert_allclose((factor @ factor.T).numpy(), np.ones((4, 4)), atol=1e-3)


def test_drawn_laws_follow_a_normal_posterior_where_it_is_normal():
    from carbs_scaling.laws.loss import PARAMETERS
    from carbs_scaling.laws.loss_fit import LawFit

    count = len(PARAMETERS)
    covariance = np.zeros((count, count))
    covariance[0, 0], covariance[1, 1] = 0.25, 1.0
    fit = LawFit(theta=np.ones(count), covariance=covariance, objective=0.0, converged=True)

    def log_density(thetas):
        return -0.5 * ((thetas[:, 0] - 1) ** 2 / 0.25 + (thetas[:, 1] - 1) ** 2)

    draws = sample_laws(fit, log_density, 2000, np.random.default_rng(0))
    assert draws[:, 0].std() == pytest.approx(0.5, rel=0.08)
    assert draws[:, 1].std() == pytest.approx(1.0, rel=0.08)
    assert (draws[:, 2:] == 1).all()
