"""The fit: coverage on runs drawn from a law, and hard histories."""

import numpy as np
import pytest

from carbs_scaling.laws.form.law import INDEX
from carbs_scaling.surrogate.fit import SurrogateFitter


def moments(law_runs, model, cube, features):
    """Mean and variance of the losses, shape (m,) each."""
    posterior = model.posterior(law_runs.inputs_of(cube, features))
    return posterior.mean[:, 0].numpy(), posterior.variance[:, 0].numpy()


def test_unseen_runs_fall_where_the_surrogate_says(law_runs):
    surrogate = law_runs.fitted(40)
    cube, features, loss = law_runs.drawn_runs(200, seed=5, noise=0.0)
    mean, variance = moments(law_runs, surrogate, cube, features)
    z = (loss - mean) / np.sqrt(variance + surrogate.noise_sd**2)
    assert np.sqrt(np.mean((loss - mean) ** 2)) < 0.03
    assert np.mean(np.abs(z) < 2) > 0.85


def test_the_truth_lies_among_the_laws_of_the_ensemble(law_runs):
    truth = {
        "ln_alpha": np.log(0.35),
        "ln_beta": np.log(0.36),
        "a_N": -0.4,
        "a_B": 0.4,
        "b_D": 0.5,
        "b_N": 0.0,
    }
    inside = []
    for seed in range(4):
        drawn = law_runs.fitted(60, seed=seed).members.thetas
        for name, value in truth.items():
            column = drawn[:, INDEX[name]]
            inside.append(abs(column.mean() - value) < 2.5 * column.std())
    assert np.mean(inside) > 0.85


def test_losses_that_are_not_positive_are_those_shifted(law_runs):
    """A law is of positive losses; a search of others, such as log losses, must not fail at it."""
    cube, features, loss = law_runs.drawn_runs(40)
    fitter = SurrogateFitter(law_runs.CENTRE, law_runs.ALL, floor_field=law_runs.FIELD)
    model = fitter.fit(cube, features, loss - 5.0, np.random.default_rng(0))
    new = law_runs.drawn_runs(50, seed=6, noise=0.0)
    mean, variance = moments(law_runs, model, *new[:2])
    assert np.sqrt(np.mean((new[2] - 5.0 - mean) ** 2)) < 0.05
    assert (variance > 0).all()


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
