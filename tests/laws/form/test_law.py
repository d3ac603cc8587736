"""The surface's derivatives and its special cases."""

import numpy as np

from carbs_scaling.laws.form import law as surface
from carbs_scaling.laws.prior.prior import law_prior


def some_point(rng):
    centre = np.log([1e8, 4e9, 2e-3, 2e5])
    prior = law_prior(2.5, centre)
    mean = prior.mean
    return mean + 0.3 * prior.scale * rng.normal(size=len(mean)), rng.normal(size=(40, 4))


def test_slopes_are_the_derivatives():
    theta, features = some_point(np.random.default_rng(0))
    shifts = {"rate": np.linspace(-1, 1, 40), "steepness": np.linspace(0, 0.5, 40), "batch": np.full(40, 0.2)}
    slopes = surface.value_and_slopes(theta, features, shifts)[2]
    for i in range(len(theta)):
        step = np.zeros_like(theta)
        step[i] = 1e-6
        up, down = (surface.value_and_slopes(theta + s * step, features, shifts)[0] for s in (1, -1))
        np.testing.assert_allclose(slopes[:, i], (up - down) / 2e-6, atol=1e-7)


def test_gamma_of_one_is_hoffmanns_sum_and_a_small_one_the_larger_term():
    theta, _ = some_point(np.random.default_rng(1))
    theta[surface.INDEX["logit_share"]] = 0.5
    n, d = np.linspace(-1, 1, 5), np.linspace(1, -1, 5)
    irreducible, scale = np.exp(theta[0]), np.exp(theta[1])
    share = 1 / (1 + np.exp(-theta[2]))
    alpha, beta = np.exp(theta[3]), np.exp(theta[4])
    theta[surface.INDEX["ln_gamma"]] = 0.0
    total = irreducible + scale * (share * np.exp(-alpha * n) + (1 - share) * np.exp(-beta * d))
    np.testing.assert_allclose(surface.floor(theta, n, d), total)
    theta[surface.INDEX["ln_gamma"]] = np.log(0.01)
    larger = irreducible + scale * np.maximum(np.exp(-alpha * n), np.exp(-beta * d))
    np.testing.assert_allclose(surface.floor(theta, n, d), larger, rtol=0.01)


def test_kaplans_law_is_a_case_of_it():
    from carbs_scaling.laws.prior.published import BY_NAME

    kaplan = BY_NAME["Kaplan"]
    n, d = np.array([1e7, 1e8, 1e9]), np.array([1e10, 1e9, 3e9])
    by_params, by_tokens = (6.4e13 / 1e8) ** (0.076 / 0.103), 1.8e13 / 1e9  # at the centre N0 = 1e8, D0 = 1e9
    theta = np.zeros(len(surface.NAMES))
    theta[:6] = [
        -40.0,
        0.103 * np.log(by_params + by_tokens),
        np.log(by_params / by_tokens),
        np.log(0.076),
        np.log(0.103),
        np.log(0.103),
    ]
    ours = surface.floor(theta, np.log(n / 1e8), np.log(d / 1e9))
    np.testing.assert_allclose(ours, [kaplan.loss(*point) for point in zip(n, d, strict=True)], rtol=1e-9)


def test_the_floor_lies_at_the_best_rate_and_batch():
    theta, features = some_point(np.random.default_rng(2))
    best = features.copy()
    best[:, 3] = surface.best_batch(theta, best[:, 0], best[:, 1])
    best[:, 2] = surface.best_rate(theta, best[:, 0], best[:, 1])
    value, height, _ = surface.value_and_slopes(theta, best)
    np.testing.assert_allclose(height, 0.0, atol=1e-12)
    np.testing.assert_allclose(value, surface.floor(theta, best[:, 0], best[:, 1]))
    assert (surface.value_and_slopes(theta, features)[0] >= value).all()
