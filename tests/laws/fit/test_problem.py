"""Diverged runs as one-sided information: derivatives, what they change, and what they must not."""

import numpy as np
import pytest

from carbs_scaling import fit_law
from carbs_scaling.laws.fit import law_fit
from carbs_scaling.laws.fit.least_squares import CorrelatedErrors, IndependentErrors
from carbs_scaling.laws.fit.problem import Grouping, LawProblem
from carbs_scaling.laws.fit.scatter import groupings
from carbs_scaling.laws.form.bends import BENDS, bend_basis, reach_of
from carbs_scaling.laws.form.law import value
from carbs_scaling.laws.prior.prior import law_prior


def bends(features):
    basis = bend_basis(features[:, 0], features[:, 1], reach_of(features))
    return [Grouping("bend", kind, basis) for kind in BENDS]


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    features, diverged = rng.normal(size=(40, 4)), rng.normal(size=(12, 4))
    prior = law_prior(2.0, np.log([1e8, 1e10, 1e-3, 1e5]))
    loss = value(prior.mean, features)
    return LawProblem(features, loss, prior, bends(features), diverged)


def test_slopes_of_the_bound_are_its_derivatives(problem):
    z = problem.begin(problem.prior.mean)
    z[problem.size :] = 0.1
    _, slope, curvature = problem.too_high(z)
    for i in range(len(z)):
        step = np.zeros(len(z))
        step[i] = 1e-6
        numeric = (problem.too_high(z + step)[0] - problem.too_high(z - step)[0]) / 2e-6
        assert slope[i] == pytest.approx(numeric, abs=1e-5)
    assert np.linalg.eigvalsh(curvature).min() > -1e-9


def test_of_one_place_the_lowest_rate_counts():
    rates = np.array([[0, 0, 2.0, 1], [0, 0, 1.0, 1], [0, 0, 3.0, 2]])
    problem = LawProblem(np.zeros((1, 4)), np.ones(1), law_prior(1.0, np.zeros(4)), (), rates)
    np.testing.assert_array_equal(problem._bounds, [[0, 0, 1.0, 1], [0, 0, 3.0, 2]])


def one_sided(truth, cliff):
    """A sweep whose rates above e^cliff times the best one diverge."""
    frame = truth.draw(seed=3)
    off = np.log(frame.learning_rate / truth.rate(frame.params, frame.tokens))
    return frame.assign(loss=frame.loss.where(off <= cliff), diverged=off > cliff)


def test_they_pull_the_best_rate_below_where_runs_diverge(truth):
    frame = one_sided(truth, -0.3)  # even the best rate diverges: the finite runs alone see a slope
    with_bounds = fit_law(frame, check=False)
    without = fit_law(frame[~frame.diverged], check=False)
    assert with_bounds.support.diverged == frame.diverged.sum()
    n, d = frame.params.to_numpy(), frame.tokens.to_numpy()
    mean = [np.log(law.learning_rate(n, d) / truth.rate(n, d)).mean() for law in (with_bounds, without)]
    assert mean[0] < mean[1] - 0.02


def test_they_change_nothing_far_above_the_best_rate(runs, law):
    far = runs.assign(learning_rate=runs.learning_rate.max() * 30, loss=np.nan, diverged=True).iloc[:30]
    import pandas as pd

    again = fit_law(pd.concat([runs.assign(diverged=False), far], ignore_index=True), check=False)
    assert again.recommend(6e9, 6e10).learning_rate == pytest.approx(
        law.recommend(6e9, 6e10).learning_rate, rel=1e-3
    )


def test_what_is_kept_of_law_and_noise_by_turns_is_the_most_probable(truth, monkeypatch):
    runs = truth.draw(noise=0.02).sample(30, random_state=0)
    logs = np.log(runs[["params", "tokens", "learning_rate", "batch_tokens"]].to_numpy())
    centre = logs.mean(axis=0)
    features, loss = logs - centre, runs.loss.to_numpy()
    problem = LawProblem(features, loss, law_prior(loss.min(), centre), bends(features))
    passed, update = [], law_fit._with_noise

    def noted(*arguments):
        passed.append(update(*arguments))
        return passed[-1]

    monkeypatch.setattr(law_fit, "_with_noise", noted)
    kept = law_fit.most_probable(problem, [problem.prior.mean], (0.0025, 0.0025), turns=8)
    assert len(passed) > 1
    assert kept.objective == min(at.objective for at in passed)


def test_correlated_errors_without_correlation_are_independent_ones():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(60, 4))
    prior = law_prior(2.0, np.log([1e8, 1e10, 1e-3, 1e5]))
    truth = prior.mean + 0.3 * prior.scale * rng.normal(size=len(prior.mean))
    loss = value(truth, features) + 0.01 * rng.normal(size=60)
    problem = LawProblem(features, loss, prior)
    # Wide enough that no run lies beyond two deviations, where Huber's loss would differ.
    errors = IndependentErrors(np.full(60, 0.1**2))
    independent = problem.minimise(problem.begin(prior.mean), errors, steps=200)
    correlated = problem.minimise(problem.begin(prior.mean), CorrelatedErrors(0.1 * np.eye(60)), steps=200)
    np.testing.assert_allclose(
        value(problem.theta(independent), features), value(problem.theta(correlated), features), atol=0.01
    )


@pytest.mark.parametrize("has_role", [(True, True, True, False), (True, False, True, False), (False,) * 4])
def test_absent_roles_add_nothing(has_role):
    """Whatever the free parameters are, losses hang on the roles that are there alone."""
    rng = np.random.default_rng(2)
    prior = law_prior(2.0, np.log([1e8, 1e10, 1e-3, 1e5]), has_role)
    features = rng.normal(size=(30, 4)) * np.array(has_role)
    problem = LawProblem(features, np.full(30, 2.0), prior)
    z = problem.begin(prior.mean + prior.scale * rng.normal(size=len(prior.mean)))
    floor, height = problem.floor_and_height(z)
    if not any(has_role):
        np.testing.assert_allclose(floor, np.exp(z[0]), rtol=1e-6)
    if not any(has_role[2:]):
        np.testing.assert_allclose(height, 0.0, atol=1e-9)
    if not has_role[1]:  # a power law of N alone
        above = np.log(floor - np.exp(problem.theta(z)[0]))
        assert np.abs(np.diff(above[np.argsort(features[:, 0])], 1)).max() < 10
        line = np.polyfit(features[:, 0], above, 1) if has_role[0] else None
        if line is not None:
            np.testing.assert_allclose(np.polyval(line, features[:, 0]), above, atol=1e-6)


def test_sizes_of_one_cell_each_scatter_as_sizes(truth):
    runs = truth.draw(sizes=(2e7, 6e7), tokens=(4e9,))
    runs = runs.assign(tokens=runs.tokens * runs.params / 2e7)
    features = np.log(runs[["params", "tokens", "learning_rate", "batch_tokens"]].to_numpy())
    groups = groupings(features - features.mean(axis=0))
    assert {group.level for group in groups} == {"size"}
    assert min(fit_law(runs, check=False).spread) > 0
