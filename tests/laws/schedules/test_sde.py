"""The SDEs of SGD and Adam against their closed forms and against real SGD and Adam; their best schedules."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from carbs_scaling.laws.schedules.law import FunctionalLaw, Schedule
from carbs_scaling.laws.schedules.sde import OPTIMIZERS, FunctionalExponents, PowerLawTask, best_schedule

# Learning rates at which a few hundred steps learn much and stay far from the edge of stability.
PEAK = {"sgd": 0.05, "adam": 0.01}


def decaying(optimizer, steps=300):
    return PEAK[optimizer] * np.linspace(1, 0.05, steps)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_functional_law_is_the_end_of_the_mode_equations(optimizer):
    dynamics = PowerLawTask(0.8, 1.7, 200).dynamics(optimizer, batch=4)
    rates = decaying(optimizer)
    assert dynamics.final_loss(rates)[0] == pytest.approx(dynamics.loss_curve(rates)[-1], rel=1e-10)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_simulated_paths_meet_the_closed_form(optimizer):
    dynamics = PowerLawTask(0.8, 1.7, 50).dynamics(optimizer, batch=4)
    rates = decaying(optimizer)
    rng, errors = np.random.default_rng(1), np.tile(dynamics.errors, (1000, 1))
    simulated, expected = np.empty(len(rates)), dynamics.loss_curve(rates)
    for step, rate in enumerate(rates):  # Euler and Maruyama: the optimizer itself under normal noise
        errors += rng.normal(size=errors.shape) * (rate * dynamics.noise) - rate * dynamics.drift * errors
        simulated[step] = 0.5 * np.mean(errors**2 @ dynamics.eigenvalues)
    assert simulated[[20, 100, 299]] == pytest.approx(expected[[20, 100, 299]], rel=0.06)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_gradient_is_that_of_the_final_loss(optimizer):
    dynamics = PowerLawTask(0.8, 1.7, 50).dynamics(optimizer, batch=4)
    rates = decaying(optimizer, 30)
    slopes = approx_fprime(rates, lambda r: dynamics.final_loss(r, block=10.0)[0], 1e-7)
    assert dynamics.final_loss(rates, block=10.0)[1] == pytest.approx(slopes, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_real_updates_on_sampled_data_follow_the_law(optimizer):
    """SGD, and Adam with its running second moment, on regressions drawn afresh every step."""
    task, batch, runs = PowerLawTask(1.0, 1.5, 12, label_noise=25.0), 4, 400
    dynamics = task.dynamics(optimizer, batch)
    rates = decaying(optimizer, 400)
    rng = np.random.default_rng(0)
    errors = np.tile(dynamics.errors, (runs, 1))
    # Adam's average begins where it would be after many steps; its memory is short against the run.
    second, beta2 = task.label_noise * dynamics.eigenvalues / batch * np.ones_like(errors), 0.95
    losses = []
    for rate in rates:
        inputs = rng.normal(size=(runs, batch, 12)) * np.sqrt(dynamics.eigenvalues)
        residual = np.einsum("rbm,rm->rb", inputs, errors) + 5.0 * rng.normal(size=(runs, batch))
        gradient = np.einsum("rbm,rb->rm", inputs, residual) / batch
        if optimizer == "adam":
            second = beta2 * second + (1 - beta2) * gradient**2
            gradient = gradient / np.sqrt(second)
        errors -= rate * gradient
        losses.append(0.5 * np.mean(errors**2 @ dynamics.eigenvalues))
    at = [40, 150, 399]
    # What is left out, such as the misfit's own noise in Adam's average, is below a tenth here.
    assert np.array(losses)[at] == pytest.approx(dynamics.loss_curve(rates)[at], rel=0.1)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_signal_and_noise_fall_with_the_exponents_of_the_law(optimizer):
    task = PowerLawTask(0.75, 2.4, 3000)
    seen, dynamics = task.exponents(optimizer), task.dynamics(optimizer, 1)
    # Where the sums are power laws: many modes decayed, and many not.
    time = np.geomspace(300, 3000, 5) if optimizer == "sgd" else np.geomspace(30, 300, 5)
    fading = np.exp(-2 * np.outer(time, dynamics.drift))
    signal = fading @ (dynamics.eigenvalues * dynamics.errors**2)
    kernel = fading @ (dynamics.eigenvalues * dynamics.noise**2)
    for values, exponent in ((signal, seen.source), (kernel, 2 - 1 / seen.capacity)):
        assert -np.polyfit(np.log(time), np.log(values), 1)[0] == pytest.approx(exponent, rel=0.04)


@pytest.mark.parametrize(("optimizer", "rule"), [("sgd", 1.0), ("adam", 0.5)])
def test_the_batch_rule_keeps_the_run(optimizer, rule):
    """Four times the batch, a quarter of the steps: linear rule for SGD, square-root rule for Adam."""
    task = PowerLawTask(0.8, 1.7, 100)
    small, large = (task.dynamics(optimizer, batch) for batch in (2, 8))
    rates = decaying(optimizer, 400)
    scaled = 4**rule * rates.reshape(100, 4).mean(axis=1)
    assert large.loss_curve(scaled)[-1] == pytest.approx(small.loss_curve(rates)[-1], rel=0.01)
    assert large.loss_curve(scaled / 2)[-1] != pytest.approx(small.loss_curve(rates)[-1], rel=0.05)


@pytest.mark.parametrize(("optimizer", "source", "capacity"), [("sgd", 1.5, 2.0), ("adam", 0.75, 4.0)])
def test_the_best_schedule_of_an_easy_task_is_the_power_decay(optimizer, source, capacity):
    task = PowerLawTask(source, capacity, 500)
    seen, dynamics = task.exponents(optimizer), task.dynamics(optimizer, 1)
    assert seen.easy
    assert seen.decay_exponent == 3
    position = (np.arange(60) + 0.5) / 60
    peaks = {}
    for steps in (1e7, 1e8):
        rates = best_schedule(dynamics, steps, largest_rate=1.0)
        peaks[steps] = rates[0]
    early = position < 0.5  # the later part is shorter than the kernel's own beginning
    exponent = np.polyfit(np.log(1 - position[early]), np.log(rates[early]), 1)[0]
    assert exponent == pytest.approx(3, abs=0.35)  # comes nearer with the steps: 2.2 at 1e4, 2.7 at 1e8
    assert -np.log10(peaks[1e8] / peaks[1e7]) == pytest.approx(seen.peak_exponent, abs=0.05)
    # At any number of steps: what each step adds to the noise, per unit of intrinsic time, is in balance.
    left = np.append(np.cumsum(rates[::-1])[::-1], 0.0) * 1e8 / 60
    fading = np.exp(-np.outer(left[:-1] + left[1:], dynamics.drift))  # at the middle of each block
    balance = rates**2 * (fading @ (dynamics.eigenvalues * dynamics.noise**2))
    assert balance[:45] == pytest.approx(np.full(45, balance[0]), rel=0.02)


def test_the_best_schedule_of_a_hard_task_is_warmup_stable_decay():
    task = PowerLawTask(0.2, 3.0, 300)
    assert not task.exponents("sgd").easy
    shares = [best_schedule(task.dynamics("sgd", 1), steps, 1.0) for steps in (1e4, 1e5)]
    stable = [np.mean(rates > 0.999) for rates in shares]
    assert 0.8 < stable[0] < stable[1]  # the decay is a vanishing share of the run
    assert all((np.diff(rates) < 1e-6).all() and rates[-1] < 0.1 for rates in shares)


def test_the_law_of_curves_is_the_same_noise():
    """`FunctionalLaw` leaves out what a constant rate would leave, which it holds in L0."""
    rates = 3e-4 * np.linspace(1, 0.1, 200)
    law = FunctionalLaw(2.0, 1e-9, 0.5, drop_gain=50.0, forgetting_rate=30.0, forgetting_exponent=0.5)
    left = np.append(np.cumsum(rates[::-1])[::-1], 0.0)
    forgotten = 50.0 * (30.0 * left + 1) ** -0.5  # G
    noise = rates @ np.diff(forgotten) + rates[0] * forgotten[0]
    assert law.loss(Schedule(rates), np.array([200]))[0] == pytest.approx(
        2.0 - 50 * rates[0] + noise, rel=1e-6
    )


def test_exponents_of_known_cases():
    assert FunctionalExponents(1.0, 1.0).decay_exponent == 1  # the straight line
    assert FunctionalExponents(1.5, 2.0).peak_exponent == pytest.approx(0.5)
    assert FunctionalExponents(0.2, 3.0).peak_exponent == 0
    assert PowerLawTask(0.6, 3.0).exponents("adam") == FunctionalExponents(1.2, 1.5)


def test_impossible_tasks_are_refused():
    with pytest.raises(ValueError, match="capacity"):
        PowerLawTask(1.0, 0.9)
    with pytest.raises(ValueError, match="above 1/2"):
        FunctionalExponents(1.0, 0.2)
    with pytest.raises(ValueError, match="not one of sgd, adam"):
        PowerLawTask(1.0, 2.0).dynamics("lion", 1)
