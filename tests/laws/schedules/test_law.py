"""Schedule laws: their sums against plain loops, laws recovered from their own curves, the best schedule."""

import numpy as np
import pytest

from carbs_scaling.laws.schedules.fit import LossCurve, agreement, best_schedule, fit_schedule_law
from carbs_scaling.laws.schedules.law import (
    MultiPowerLaw,
    NoiseLaw,
    Schedule,
    TissueLaw,
    merged_drops,
)

PEAK = 3e-4
STEPS = 3000
MULTI_POWER = MultiPowerLaw(2.8, 0.4, 0.5, 400.0, 0.5, 0.5, 0.6)
TISSUE = TissueLaw(2.8, 0.4, 0.5, 0.5, 2e-3)
NOISE = NoiseLaw(2.8, 0.4, 0.5, 8000.0, 20.0)


def constant():
    return Schedule(np.full(STEPS, PEAK), warmup_area=0.05)


def cosine():
    return Schedule(PEAK * (0.55 + 0.45 * np.cos(np.pi * np.arange(STEPS) / STEPS)), warmup_area=0.05)


def drop(share=0.3):
    return Schedule(np.where(np.arange(STEPS) < 1500, PEAK, share * PEAK), warmup_area=0.05)


def curve(law, schedule):
    steps = np.arange(50, STEPS + 1, 25)
    return LossCurve(schedule, steps, law.loss(schedule, steps))


def test_multi_power_law_is_the_papers_double_sum():
    schedule, t = cosine(), 2000
    rates = schedule.learning_rates
    law = MULTI_POWER
    total = 0.0
    for k in range(1, t):
        since = rates[k:t].sum()
        reach = law.drop_rate * rates[k] ** -law.rate_exponent * since
        total += (rates[k - 1] - rates[k]) * (1 - (reach + 1) ** -law.drop_exponent)
    area = 0.05 + rates[:t].sum()
    expected = law.floor + law.amplitude * area**-law.exponent - law.drop_gain * total
    assert law.loss(schedule, np.array([t]))[0] == pytest.approx(expected, rel=1e-5)


def test_annealing_area_is_the_papers_double_sum():
    schedule, t = drop(), 1600
    rates = schedule.learning_rates
    decay = 1 - TISSUE.forgetting
    annealed = sum(
        (rates[k - 1] - rates[k]) * decay ** (i - k)
        for i in range(1, t)
        for k in range(1500, min(i, 1500) + 1)
    )
    area = 0.05 + rates[:t].sum()
    expected = TISSUE.floor + TISSUE.amplitude * area**-TISSUE.exponent - TISSUE.annealing * annealed
    assert TISSUE.loss(schedule, np.array([t]))[0] == pytest.approx(expected, rel=1e-9)


def test_noise_term_is_the_variance_of_the_simulated_sde():
    """dw = -lr h w + lr xi: the law's V(t) against ten thousand simulated weights."""
    rates = drop(0.1).learning_rates * 300  # steps large enough to simulate few
    schedule = Schedule(rates[:3000:5])
    curvature, rng = 0.5, np.random.default_rng(0)
    law = NoiseLaw(0.0, 0.0, 1.0, 1.0, curvature)
    first = schedule.learning_rates[0]
    weights = rng.normal(size=10_000) * np.sqrt(first / (2 * curvature))
    for rate in schedule.learning_rates:
        weights += -rate * curvature * weights + rate * rng.normal(size=weights.size)
    predicted = law.loss(schedule, np.array([len(schedule.learning_rates)]))[0]
    assert predicted == pytest.approx(weights.var(), rel=0.08)


@pytest.mark.parametrize("law", [MULTI_POWER, TISSUE, NOISE], ids=lambda law: law.name)
def test_a_law_is_recovered_where_it_is_asked_for(law):
    """Fitted on two curves drawn from it, it predicts a third kind of schedule to a thousandth."""
    fitted = fit_schedule_law(type(law), [curve(law, constant()), curve(law, cosine())], starts=3, points=50)
    unseen = agreement(fitted, curve(law, drop()))
    assert unseen.r_squared > 0.995
    assert abs(unseen.final_error) < 0.01


def test_at_equal_area_annealing_lowers_the_loss_of_every_law():
    for law in (MULTI_POWER, TISSUE, NOISE):
        annealed = law.loss(drop(), np.array([2500]))[0]
        same_area = np.searchsorted(constant().area, drop().area[2499]) + 1
        assert annealed < law.loss(constant(), np.array([same_area]))[0] - 1e-3


def test_merging_drops_keeps_their_sum_and_changes_little():
    schedule = cosine()
    at, drops, _ = merged_drops(schedule, most=50)
    assert len(at) == 50
    assert drops.sum() == pytest.approx(schedule.drops.sum())
    assert len(merged_drops(constant())[0]) == 1


def test_the_best_schedule_is_flat_and_then_decays():
    best = best_schedule(MULTI_POWER, STEPS, PEAK, warmup_area=0.05, knots=16)
    rates = best.learning_rates / PEAK
    assert (np.diff(rates) <= 1e-9).all()
    assert rates[STEPS // 4] > 0.9
    assert rates[-1] < 0.3
    last = np.array([STEPS])
    assert MULTI_POWER.loss(best, last)[0] < MULTI_POWER.loss(cosine(), last)[0]


def test_impossible_input_is_refused():
    with pytest.raises(ValueError, match="above 0"):
        Schedule(np.array([1e-3, 0.0]))
    with pytest.raises(ValueError, match="outside"):
        LossCurve(constant(), np.array([STEPS + 1]), np.array([3.0]))
    with pytest.raises(ValueError, match="at least one"):
        fit_schedule_law(TissueLaw, [])
