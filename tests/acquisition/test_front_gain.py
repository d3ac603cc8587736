"""Expected gains against sampling, and the limits in which they are known."""

import numpy as np
import pytest

from carbs_scaling.acquisition.front_gain import (
    FrontLevels,
    ValleyDoubt,
    expected_front_gain,
    expected_improvement,
    expected_learning_gain,
    expected_repeat_gain,
    gittins_index,
)
from carbs_scaling.frontier import hypervolume

FLOPS = np.array([1e3, 1e4, 3e5])
LOSS = np.array([3.0, 2.5, 2.0])
REFERENCE = (6.0, 4.0)
FRONT = FrontLevels.of(FLOPS, LOSS, 2.0, REFERENCE)


@pytest.mark.parametrize(("mean", "sd"), [(2.0, 0.3), (3.5, 0.2), (2.6, 1e-9), (9.0, 0.1)])
def test_expected_improvement_agrees_with_sampling(mean, sd):
    draws = np.random.default_rng(0).normal(mean, sd, 400_000)
    assert expected_improvement(mean, sd, 2.5) == pytest.approx(np.maximum(2.5 - draws, 0).mean(), abs=2e-3)


def test_expected_improvement_stays_positive_and_ordered_far_in_the_tail():
    values = expected_improvement(np.array([4.0, 5.0, 6.0]), 0.25, 0.0)
    assert (values > 0).all()
    assert (np.diff(values) < 0).all()


@pytest.mark.parametrize(("loss", "log_cost"), [(2.2, 3.5), (1.5, 2.5), (1.9, 5.9), (3.2, 2.2), (3.9, 5.0)])
def test_a_certain_run_gains_exactly_the_area_it_adds(loss, log_cost):
    gain = expected_front_gain(np.array([loss]), np.array([1e-9]), np.array([log_cost]), FRONT)[0]
    before = hypervolume(FLOPS, LOSS, REFERENCE)
    after = hypervolume(np.append(FLOPS, 10**log_cost), np.append(LOSS, loss), REFERENCE)
    assert gain == pytest.approx(after - before, abs=1e-7)


def test_an_uncertain_run_gains_the_mean_area():
    draws = np.random.default_rng(1).normal(2.4, 0.4, 4_000)
    before = hypervolume(FLOPS, LOSS, REFERENCE)
    areas = [hypervolume(np.append(FLOPS, 10**3.6), np.append(LOSS, y), REFERENCE) for y in draws]
    gain = expected_front_gain(np.array([2.4]), np.array([0.4]), np.array([3.6]), FRONT)[0]
    assert gain == pytest.approx(np.mean(areas) - before, rel=0.05)


def test_an_improvement_below_the_threshold_is_worth_nothing():
    repeat = expected_front_gain(np.array([2.5]), np.array([1e-9]), np.array([4.0]), FRONT, threshold=0.01)
    assert repeat[0] == 0.0


def test_an_ensemble_is_scored_member_by_member():
    mean, sd, cost = np.array([[2.4, 2.0], [2.6, 1.8]]), np.array([0.1, 0.2]), np.array([3.6, 5.0])
    together = expected_front_gain(mean, sd, cost, FRONT)
    for member in range(2):
        np.testing.assert_allclose(together[member], expected_front_gain(mean[member], sd, cost, FRONT))


def test_the_front_as_steps():
    np.testing.assert_allclose(FRONT.at(np.array([2.5, 3.0, 4.9, 5.9])), [4.0, 3.0, 2.5, 2.0])


def test_the_gittins_index_is_where_looking_just_pays():
    mean, sd, shares, price = (
        np.array([[2.0], [2.4]]),
        np.array([0.3]),
        np.array([0.5, 0.5]),
        np.array([0.05]),
    )
    index = gittins_index(mean, sd, shares, price)
    assert shares @ expected_improvement(mean, sd, index) == pytest.approx(0.05, rel=1e-6)
    assert gittins_index(mean, sd, shares, 2 * price) > index


def test_a_run_that_the_laws_disagree_on_teaches_and_one_they_agree_on_does_not():
    rng = np.random.default_rng(2)
    rates = rng.normal(0, 0.5, size=(200, 1))
    doubt = ValleyDoubt(
        rates=rates,
        batches=np.zeros((200, 1)),
        rate_curvature=np.array([0.1]),
        batch_curvature=np.array([0.1]),
        width=np.array([2.0]),
        shares=np.full(200, 1 / 200),
    )
    telling, silent = 3 + rates[:, 0], np.full(200, 3.0)
    gain = expected_learning_gain(np.column_stack([telling, silent]), np.array([1e-6, 1e-6]), doubt)
    assert gain[1] == 0.0
    # All doubt goes: width x curvature x variance of the best rate.
    assert gain[0] == pytest.approx(2.0 * 0.1 * rates.var(), rel=0.02)


def test_a_repeat_is_worth_what_choosing_by_the_new_means_gains():
    """Against draws: two near ties that hang together by `correlation`, and a clear winner at its cost."""
    mean, noise_sd, reference = np.array([1.5, 2.01, 2.0]), 0.02, (11.0, 3.0)
    log_cost, draws = np.array([10.0, 9.0, 9.0]), np.random.default_rng(0).normal(size=400_000)

    def area(values):
        cheap = np.minimum(values[:, 1], values[:, 2])
        return (3 - cheap) + (3 - np.minimum(cheap, values[:, 0]))

    gains = []
    for correlation in (0.0, 0.6, 0.9999):
        covariance = 0.02**2 * np.array([[1, 0, 0], [0, 1, correlation], [0, correlation, 1]])
        gain = expected_repeat_gain(mean, covariance, noise_sd, log_cost, reference)
        for i in (1, 2):
            step = covariance[i] / np.sqrt(covariance[i, i] + noise_sd**2)
            real = area(mean + step * draws[:, None]).mean() - area(mean[None])[0]
            assert gain[i] == pytest.approx(real, rel=0.05, abs=3e-5)
        assert gain[0] < 1e-12
        gains.append(gain[2])
    assert gains[0] > gains[1] > 1e3 * max(gains[2], 1e-15)  # neighbours that are alike teach nothing
