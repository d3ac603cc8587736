"""Curves drawn from known laws: tokens to a loss and the critical batch come back, with their intervals."""

from dataclasses import replace

import numpy as np
import pytest

from carbs_scaling.laws.convergence.fit import fit_convergence
from carbs_scaling.laws.convergence.loss_curves import (
    RunCurve,
    Steady,
    crossing,
    noise_scale_near,
    smooth,
    steady_part,
)
from carbs_scaling.laws.runs.table import LawError

N0, EXPONENT = 3e4, -0.4


def true_tokens(loss, params):
    """D_min: a power law in N, steep in the loss."""
    return 2e4 * (params / N0) ** EXPONENT * (loss / 3.5) ** -8


def true_critical(loss):
    return 1000 * (loss / 3.0) ** -5


def draw_curve(rng, params, batch, rate, tokens, schedule="constant", noise=0.02):
    """A run whose loss passes each level after D_min (1 + B / B_crit) e^valley tokens."""
    levels = np.geomspace(5.6, 0.5, 2000)
    best = np.log(0.02) - 0.3 * np.log(params / N0) + 0.4 * np.log(batch / 1000)
    valley = 0.3 * (np.log(rate) - best) ** 2
    ln_needed = np.log(true_tokens(levels, params) * (1 + batch / true_critical(levels))) + valley
    ln_needed += 0.05 * rng.standard_normal()
    seen = np.linspace(0, tokens, 150)
    progress = seen / tokens
    share = np.ones(150) if schedule == "constant" else 0.1 + 0.45 * (1 + np.cos(np.pi * progress))
    share = np.where(progress < 0.05, 0.1, share)
    loss = np.interp(np.log(np.maximum(seen, 1)), ln_needed, levels) + noise * rng.standard_normal(150)
    if schedule != "constant":
        loss = loss - 0.5 * (1 - share)  # what a falling rate gains: no news on tokens to a loss
    return RunCurve(params, batch, rate, 6 * params + 100 * params**0.5, seen, loss, rate * share)


def draw_runs(seed=0, runs=60, schedule="constant", **changes):
    rng = np.random.default_rng(seed)
    return [
        draw_curve(
            rng,
            params=rng.choice([3e3, 1e4, 3e4, 1e5, 3e5]),
            batch=2 ** rng.uniform(7, 14),
            rate=0.02 * np.exp(rng.uniform(-1.5, 1.5)),
            tokens=10 ** rng.uniform(5.3, 6.5),
            schedule=schedule,
            **changes,
        )
        for _ in range(runs)
    ]


def test_known_laws_come_back():
    fit = fit_convergence(draw_runs(), draws=30)
    assert len(fit.levels) == 4
    for index, level in enumerate(fit.levels):
        exponent = fit.size_exponent(index)
        assert exponent.value == pytest.approx(EXPONENT, abs=0.08)
        assert exponent.low - 0.03 < EXPONENT < exponent.high + 0.03
        for params in (3e3, 3e5, 3e6):  # the last is a decade beyond the runs
            assert fit.min_tokens(index, params).value == pytest.approx(true_tokens(level, params), rel=0.4)
        batch = fit.critical_batch(index, N0)
        assert batch.value == pytest.approx(true_critical(level), rel=0.35)
        assert batch.high < 4 * batch.low
        steps = fit.min_steps(index, N0).value
        assert steps == pytest.approx(fit.min_tokens(index, N0).value / batch.value)
        assert fit.min_flops(index, N0).value == pytest.approx(
            fit.min_tokens(index, N0).value * (6 * N0 + 100 * N0**0.5)
        )
    assert not any("identified" in line for line in fit.warnings)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    """90% intervals over independent studies; what is missed beyond 2 of 10 would be a wrong method."""
    held = {"tokens": 0, "batch": 0}
    for seed in range(5):
        fit = fit_convergence(draw_runs(seed + 10, runs=40), draws=30)
        for index in (0, len(fit.levels) - 1):
            level = fit.levels[index]
            tokens, batch = fit.min_tokens(index, N0), fit.critical_batch(index, N0)
            held["tokens"] += tokens.low <= true_tokens(level, N0) <= tokens.high
            held["batch"] += batch.low <= true_critical(level) <= batch.high
    assert min(held.values()) >= 8, held


def test_censored_runs_count():
    """Every second run ends at the median time to the level: of those only the quick ones reach it."""
    rng = np.random.default_rng(3)
    curves = []
    for run in range(120):
        params = [3e3, 1e4, 3e4][run % 3]
        ends = true_tokens(2.5, params) * (10.0 if run % 2 else 1.0)
        # At the best rate, a batch far below the critical one, and slow or quick by chance.
        rate = 0.02 * (params / N0) ** -0.3 * 0.1**0.4
        slow = np.exp(0.4 * rng.standard_normal())
        curve = draw_curve(rng, params, 100, rate, ends / slow)
        curves.append(replace(curve, tokens=curve.tokens * slow))
    fit = fit_convergence(curves, levels=[2.5], draws=2)
    seen = fit.observations
    assert (~seen.reached).sum() > 20
    truth = np.log(true_tokens(2.5, 1e4) * (1 + 100 / true_critical(2.5)))
    assert np.log(fit.tokens(0, 1e4, 100).value) == pytest.approx(truth, abs=0.15)
    all_truths = np.log(true_tokens(2.5, seen.params) * (1 + 100 / true_critical(2.5)))
    assert (seen.ln_tokens - all_truths)[seen.reached].mean() < -0.05


def test_runs_below_a_level_from_their_beginning_count():
    """Left out, only those that are slow for their size would be seen of the large ones."""
    rng = np.random.default_rng(4)
    curves = []
    for run in range(120):
        params = [3e3, 1e4, 1e5][run % 3]
        rate = 0.02 * (params / N0) ** -0.3 * 0.1**0.4
        slow = np.exp(0.4 * rng.standard_normal())
        curve = draw_curve(rng, params, 100, rate, 2.5 * true_tokens(3.0, 3e3) / slow)
        curve = replace(curve, tokens=curve.tokens * slow)
        read = curve.tokens > true_tokens(3.0, 1e5) * (run % 2)
        kept = {name: getattr(curve, name)[read] for name in ("tokens", "loss", "rate")}
        curves.append(replace(curve, **kept))
    fit = fit_convergence(curves, levels=[3.0], draws=2)
    assert fit.supports[0].early >= 8
    truth = np.log(true_tokens(3.0, 1e5) * (1 + 100 / true_critical(3.0)))
    assert np.log(fit.tokens(0, 1e5, 100).value) == pytest.approx(truth, abs=0.3)
    seen = fit.observations.reached & (fit.observations.params == 1e5)
    assert fit.observations.ln_tokens[seen].mean() > truth + 0.05


def test_the_largest_size_is_held_out():
    rng = np.random.default_rng(0)
    runs = [
        draw_curve(rng, params, 2 ** rng.uniform(7, 13), 0.02, 3e6)
        for params in [3e3, 1e4, 3e4, 1e5]
        for _ in range(8)
    ]
    held = fit_convergence(runs, draws=2).held_out
    assert held.params == 1e5
    assert abs(held.bias) < 0.2
    assert abs(held.bias) <= held.error < 0.4


def test_a_falling_rate_is_not_read():
    """Cosines and constants tell the same: what the falling rate gains is beyond the part that is read."""
    constant = fit_convergence(draw_runs(5), levels=[3.0], draws=2)
    cosine = fit_convergence(draw_runs(5, schedule="cosine"), levels=[3.0], rate_share=0.9, draws=2)
    whole = fit_convergence(draw_runs(5, schedule="cosine"), levels=[3.0], rate_share=0.05, draws=2)
    right = np.log(constant.min_tokens(0, N0).value)
    assert np.log(cosine.min_tokens(0, N0).value) == pytest.approx(right, abs=0.2)
    assert np.log(whole.min_tokens(0, N0).value) < right - 0.2
    assert any("schedule=constant" in line for line in cosine.warnings)


def test_smoothing_keeps_lines_and_halves_noise():
    x = np.sort(np.random.default_rng(0).uniform(0, 3, 150))
    assert smooth(x, 2 - 0.5 * x) == pytest.approx(2 - 0.5 * x)
    noise = np.random.default_rng(1).standard_normal(150)
    assert smooth(x, noise)[20:-20].std() < 0.5
    assert smooth(np.array([0.0, 5.0]), np.array([1.0, 2.0])) == pytest.approx([1.0, 2.0])


def test_crossings():
    part = Steady(np.array([0.0, 1.0, 2.0]), np.array([3.0, 2.0, 1.0]))
    assert crossing(part, 1.5).ln_tokens == pytest.approx(1.5)
    assert crossing(part, 1.5).reached
    assert crossing(part, 0.5) == type(crossing(part, 0.5))(2.0, False)
    early = crossing(part, 3.5)
    assert (early.ln_tokens, early.reached, early.early) == (0.0, False, True)


def test_noise_scale_at_a_level_is_a_ratio_of_sums():
    curve = draw_curve(np.random.default_rng(0), 1e4, 128, 0.02, 1e6, noise=0.0)
    square = np.full(150, np.nan)
    square[::10] = 2.0
    measured = replace(curve, gradient_square=square, gradient_variance=square * 300)
    parts = [steady_part(measured)]
    level = float(parts[0].loss[80])
    assert noise_scale_near([measured], parts, level, within=0.2) == pytest.approx(300)
    assert noise_scale_near([curve], parts, level) is None
    assert noise_scale_near([replace(measured, gradient_square=-square)], parts, level, within=0.2) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda runs: [], "no loss curves"),
        (lambda runs: runs[:1], "1 runs of 1 sizes"),
        (lambda runs: [replace(r, params=1e4) for r in runs], "60 runs of 1 sizes"),
        (lambda runs: [replace(r, loss=np.linspace(4.0, 4.1, 150)) for r in runs], "no loss is reached"),
        (lambda runs: [replace(r, rate=r.rate * 0) for r in runs], "0 runs"),
        (lambda runs: [replace(r, loss=r.loss * np.nan) for r in runs], "0 runs"),
    ],
)
def test_degenerate_curves_get_one_line(change, said):
    with pytest.raises(LawError, match=said) as error:
        fit_convergence(change(draw_runs()), draws=2)
    assert "\n" not in str(error.value)


def test_levels_that_nobody_reaches_are_named_and_left_out():
    fit = fit_convergence(draw_runs(), levels=[3.0, 0.1], draws=2)
    assert fit.levels.tolist() == [3.0]
    assert any("loss 0.1 is left out" in line for line in fit.warnings)
    with pytest.raises(LawError, match=r"loss 0\.1"):
        fit_convergence(draw_runs(), levels=[0.1], draws=2)


def test_a_batch_that_was_not_varied_gives_no_critical_batch():
    runs = [replace(r, batch_tokens=500.0) for r in draw_runs()]
    fit = fit_convergence(runs, draws=40)
    assert any("critical batch is a guess" in line for line in fit.warnings)
    assert any("not identified" in line for line in fit.warnings)


def test_a_narrow_range_of_sizes_is_warned_of():
    rng = np.random.default_rng(0)
    runs = [
        draw_curve(rng, params, 2 ** rng.uniform(7, 13), 0.02, 2e6)
        for params in [1e4, 2e4, 4e4]
        for _ in range(8)
    ]
    assert any("under a decade" in line for line in fit_convergence(runs, draws=2).warnings)
