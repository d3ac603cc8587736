"""Diverged runs as one-sided information: derivatives, what they change, and what they must not."""

import numpy as np
import pytest

from carbs_scaling import fit_law
from carbs_scaling.laws.fit import mixed
from carbs_scaling.laws.fit.groups import bends, groupings
from carbs_scaling.laws.form import law as surface
from carbs_scaling.laws.prior.prior import weak_prior


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    features, diverged = rng.normal(size=(40, 4)), rng.normal(size=(12, 4))
    prior = weak_prior(2.0, np.log([1e8, 1e10, 1e-3, 1e5]))
    loss = surface.value_and_slopes(prior.mean, features)[0]
    return mixed._Problem(features, loss, prior, bends(features), diverged)


def test_slopes_of_the_bound_are_its_derivatives(problem):
    z = np.concatenate([problem.mean, 0.1 * np.ones(6)])
    _, slope, curvature = problem.too_high(z)
    for i in range(len(z)):
        step = np.zeros(len(z))
        step[i] = 1e-6
        numeric = (problem.too_high(z + step)[0] - problem.too_high(z - step)[0]) / 2e-6
        assert slope[i] == pytest.approx(numeric, abs=1e-5)
    assert np.linalg.eigvalsh(curvature).min() > -1e-9


def test_of_one_place_the_lowest_rate_counts():
    rates = np.array([[0, 0, 2.0, 1], [0, 0, 1.0, 1], [0, 0, 3.0, 2]])
    np.testing.assert_array_equal(mixed._lowest_rates(rates), [[0, 0, 1.0, 1], [0, 0, 3.0, 2]])


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


def test_what_is_kept_of_law_and_noise_by_turns_is_the_most_probable(truth):
    runs = truth.draw(noise=0.02).sample(30, random_state=0)
    logs = np.log(runs[["params", "tokens", "learning_rate", "batch_tokens"]].to_numpy())
    centre = logs.mean(axis=0)
    features, loss = logs - centre, runs.loss.to_numpy()
    problem = mixed._Problem(features, loss, weak_prior(loss.min(), centre), bends(features))
    passed, update = [], problem._update_noise
    problem._update_noise = lambda state: passed.append(update(state).objective) or state
    kept = problem.descend(problem.begin(problem.mean), rounds=8)
    assert len(passed) > 1
    assert kept.objective == min(passed)


def test_sizes_of_one_cell_each_scatter_as_sizes(truth):
    runs = truth.draw(sizes=(2e7, 6e7), tokens=(4e9,))
    runs = runs.assign(tokens=runs.tokens * runs.params / 2e7)
    features = np.log(runs[["params", "tokens", "learning_rate", "batch_tokens"]].to_numpy())
    groups = groupings(features - features.mean(axis=0))
    assert {group.level for group in groups} == {"size"}
    assert all(group.witnesses == 0 for group in groups)  # two sizes: the law goes through both
    assert min(fit_law(runs, check=False).spread) > 0
