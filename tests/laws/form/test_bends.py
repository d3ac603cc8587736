"""Bends of the best rate and batch are kept as far as sizes agree on them, and no further."""

from dataclasses import replace

import numpy as np
import pytest

from carbs_scaling import fit_law
from carbs_scaling.laws.form.bends import _KEPT_BEND, bend_basis, kept_bends, wander_beyond
from carbs_scaling.laws.form.law import NAMES

SIZES = (2e7, 6e7, 2e8, 6e8)
REACH = ((-2.0, 2.0), (-1.0, 1.0))


def with_rates_moved(truth, sizes, move, seed=0):
    """Runs whose best learning rate is e^move(N) times the power law's: each is run so much higher."""
    runs = truth.draw(sizes=sizes, seed=seed)
    return runs.assign(learning_rate=runs.learning_rate * np.exp(runs.params.map(move)))


def off_beyond(law, truth, move, params=5e9, tokens=4e9):
    """ln of the recommended learning rate over the best one."""
    return float(np.log(law.learning_rate(params, tokens) / truth.rate(params, tokens))) - move(params)


def test_beyond_the_runs_a_bend_goes_on_along_its_tangent_and_levels_off():
    steps = np.array([1.9999, 2.0, 2.0001, 12.0, 13.0])
    basis = bend_basis(steps, np.zeros(5), REACH)[:, 0]
    # Slope 2 at the edge, from either side; a neper's worth of it in the end.
    np.testing.assert_allclose(np.diff(basis[:3]) / 1e-4, 2.0, rtol=1e-3)
    np.testing.assert_allclose(basis[3:], 2.0 + 2.0, rtol=1e-3)
    inside = bend_basis(np.array([1.0]), np.array([0.5]), REACH)[0]
    np.testing.assert_allclose(inside, [0.5, 0.5, 0.125])


def test_belief_is_bayes_rule_for_a_normal_prior():
    covariance = np.array([[0.04, 0.03], [0.03, 0.09]])
    z, left = kept_bends(np.array([1.0, 0.6]), covariance, 1)
    prior = _KEPT_BEND**2
    assert z[1] == pytest.approx(0.6 * prior / (prior + 0.09))
    assert z[0] == pytest.approx(1.0 - 0.03 / (prior + 0.09) * 0.6)
    assert left[1, 1] == pytest.approx(0.09 * prior / (prior + 0.09))
    assert np.linalg.eigvalsh(left).min() > 0


def test_one_size_that_is_off_is_no_curve_to_follow(truth):
    def move(params):
        return 0.7 * (params == SIZES[1])

    law = fit_law(with_rates_moved(truth, SIZES, move), check=False)
    # Followed along its tangent, the curve through the four sizes is 1.2 nepers too low at 5e9.
    assert abs(off_beyond(law, truth, lambda params: 0.0)) < 0.8
    low, high = law.recommend(5e9, 4e9).interval("learning_rate")
    assert low < truth.rate(5e9, 4e9) < high


def test_a_bend_that_many_sizes_show_is_followed(truth):
    def move(params):
        return 0.08 * np.log(params / 2e8) ** 2

    runs = with_rates_moved(truth, tuple(np.geomspace(1e7, 1e9, 8)), move)
    law = fit_law(runs, check=False)
    straight = with_rates_moved(truth, tuple(np.geomspace(1e7, 1e9, 8)), lambda params: 0.0)
    unbent = off_beyond(fit_law(straight, check=False), truth, move, params=2e9)
    assert abs(off_beyond(law, truth, move, params=2e9)) < 0.5 * abs(unbent)


def test_two_sizes_do_not_settle_how_the_rate_goes_with_size(truth):
    two = fit_law(truth.draw(sizes=SIZES[:2]), check=False)
    four = fit_law(truth.draw(sizes=SIZES), check=False)
    width = [np.ptp(np.log(law.recommend(5e9, 4e9).interval("learning_rate"))) for law in (two, four)]
    # It asks for four nepers beyond sizes that lie one apart.
    assert width[0] > 2 * width[1]
    assert two.standard_error("a_N") > 0.1


def test_doubt_grows_with_the_way_beyond_the_runs():
    inside, near, far = map(wander_beyond, (0.0, 1.0, 2.0))
    assert inside == 0.0
    assert far == pytest.approx(near * 2**1.5)


def test_the_loss_wanders_by_its_slope_whatever_of_it_is_irreducible(law):
    """With exponents a third smaller and a lower E the loss and its slopes at the centre are the same."""
    law = replace(law, spread=(0.0, 0.0, 0.0), seed_sd=0.0, bend=((0.0,) * 3,) * 3)
    moved = {"ln_R": np.log(1.5), "ln_alpha": -np.log(1.5), "ln_beta": -np.log(1.5)}
    lower_e = np.log(np.exp(law.parameter("ln_E")) - 0.5 * np.exp(law.parameter("ln_R")))
    moved["ln_E"] = lower_e - law.parameter("ln_E")
    other = replace(law, theta=tuple(v + moved.get(k, 0.0) for k, v in zip(NAMES, law.theta, strict=True)))
    centre = np.exp(law.centre[:2])
    assert other.loss(*centre) == pytest.approx(law.loss(*centre))
    params, tokens = 7e8, 4e9
    wander = [one.scatter(params, tokens)[2] for one in (law, other)]
    assert 0 < wander[0] < wander[1] < 1.35 * wander[0]
    reducible = [one.loss(params, tokens) - np.exp(one.parameter("ln_E")) for one in (law, other)]
    assert reducible[1] > 1.6 * reducible[0]
