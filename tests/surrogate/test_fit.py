"""The fit: coverage on runs drawn from a law, and hard histories."""

import numpy as np
import pytest

from carbs_scaling.laws.loss import PARAMETERS, law_value
from carbs_scaling.surrogate.fit import SurrogateFitter


def moments(law_runs, model, cube, features):
    """Mean and variance of the losses, shape (m,) each."""
    posterior = model.posterior(law_runs.inputs_of(cube, features))
    return posterior.mean[:, 0].numpy(), posterior.variance[:, 0].numpy()


def test_the_laws_stated_residual_is_that_of_the_runs(law_runs):
    cube, features, loss = law_runs.drawn_runs(40)
    # A floor that no law of the form has.
    loss = loss + 0.04 * np.sin(2 * features[:, 0])
    law = (
        SurrogateFitter(law_runs.CENTRE, law_runs.ALL, floor_field=law_runs.FIELD)
        .fit(cube, features, loss, np.random.default_rng(0))
        .law
    )
    off = loss - law_value(np.array(law.theta), features, law_runs.ALL)
    assert law.residual_sd == pytest.approx(np.sqrt(np.mean(off**2)))


def test_unseen_runs_fall_where_the_surrogate_says(law_runs):
    surrogate = law_runs.fitted(40)
    cube, features, loss = law_runs.drawn_runs(200, seed=5, noise=0.0)
    mean, variance = moments(law_runs, surrogate, cube, features)
    z = (loss - mean) / np.sqrt(variance + surrogate.noise_sd**2)
    assert np.sqrt(np.mean((loss - mean) ** 2)) < 0.03
    assert np.mean(np.abs(z) < 2) > 0.85


def test_the_truth_lies_inside_the_laws_stated_intervals(law_runs):
    truth = {"ln_alpha": np.log(0.35), "ln_beta": np.log(0.36), "a1": -0.4, "a3": 0.4, "b1": 0.5, "b2": 0.0}
    inside = []
    for seed in range(4):
        law = law_runs.fitted(60, seed=seed).law
        sd = np.sqrt(np.diag(np.array(law.covariance)))
        for name, value in truth.items():
            inside.append(abs(law.parameter(name) - value) < 2.5 * sd[PARAMETERS.index(name)])
    assert np.mean(inside) > 0.85


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
def test_hard_histories_give_finite_predictions(law_runs, spoil):
    cube, features, loss = spoil(*law_runs.drawn_runs(30))
    fitter = SurrogateFitter(law_runs.CENTRE, law_runs.ALL, floor_field=law_runs.FIELD)
    surrogate = fitter.fit(cube, features, loss, np.random.default_rng(0))
    test_cube, test_features, _ = law_runs.drawn_runs(20, seed=3)
    mean, variance = moments(law_runs, surrogate, test_cube, test_features)
    assert np.isfinite(mean).all()
    assert np.isfinite(variance).all()
    assert (variance > 0).all()
