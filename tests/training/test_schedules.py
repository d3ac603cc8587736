"""The shapes of the learning rate."""

import pytest
import torch

from carbs_scaling.errors import ConfigError
from carbs_scaling.training.config import DECAY_SHAPES, SCHEDULES, ScheduleConfig
from carbs_scaling.training.schedules import build_scheduler, decay_factor, learning_rate_factor


def config(name: str, final: float = 0.1, decay: float = 0.2, shape: str = "linear", exponent: float = 2.0):
    return ScheduleConfig(name, final, decay, shape, exponent)


def factors(name: str, steps: int = 100, warmup: float = 0.1, **choices):
    schedule = config(name, **choices)
    return [learning_rate_factor(schedule, warmup, step, steps) for step in range(steps)]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 100])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.9])
def test_it_rises_to_the_peak_and_never_rises_again(name, steps, warmup):
    for shape in DECAY_SHAPES if name == "wsd" else ("linear",):
        values = factors(name, steps, warmup, shape=shape)
        assert all(0 < value <= 1 for value in values)
        peak = values.index(max(values))
        assert peak == min(round(warmup * steps), steps - 1)
        assert values[: peak + 1] == sorted(values[: peak + 1])
        assert values[peak:] == sorted(values[peak:], reverse=True)


def test_warmup_is_linear():
    assert factors("cosine")[:11] == pytest.approx([(i + 1) / 11 for i in range(11)])


def test_shapes_after_warmup():
    assert factors("constant")[10:] == [1.0] * 90
    assert factors("linear")[55] == pytest.approx(0.55)
    assert factors("cosine")[55] == pytest.approx(0.55)
    assert factors("cosine")[32] > factors("linear")[32]
    assert factors("power", final=0.0)[55] == pytest.approx(0.25)
    wsd = factors("wsd")
    assert wsd[10:81] == [1.0] * 71
    assert wsd[90] == pytest.approx(0.55)


def test_decays_of_wsd_at_half_their_way():
    half = {shape: factors("wsd", final=0.0, shape=shape, exponent=3.0)[90] for shape in DECAY_SHAPES}
    assert half == pytest.approx({"linear": 0.5, "cosine": 0.5, "sqrt": 1 - 0.5**0.5, "power": 0.125})


def test_a_power_of_one_is_the_straight_line():
    assert factors("power", exponent=1.0) == pytest.approx(factors("linear"))


@pytest.mark.parametrize("name", ["cosine", "linear", "power", "wsd"])
def test_the_last_step_is_near_the_final_fraction(name):
    assert factors(name, steps=1000)[-1] == pytest.approx(0.1, abs=0.01)
    assert factors(name, steps=1000, final=0.0)[-1] == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize("name", SCHEDULES)
def test_beyond_the_end_it_stays(name):
    """A trainer asks for the rate of the step after the last; it must not turn negative."""
    end = 1.0 if name == "constant" else 0.1
    for step in (100, 101, 250):
        assert learning_rate_factor(config(name), 0.1, step, 100) == pytest.approx(end)


def test_scheduler_scales_the_peak():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = build_scheduler(optimizer, config("linear", final=0.0), 0.0, 4)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == [2.0, 1.5, 1.0, 0.5]


def test_what_is_read_is_checked():
    with pytest.raises(ConfigError, match=r"schedule\.decay_exponent=0\.0"):
        config("power", exponent=0.0)
    with pytest.raises(ConfigError, match=r"schedule\.decay_shape=steps is not one of linear, cosine"):
        config("wsd", shape="steps")
    with pytest.raises(ValueError, match="no decay of shape"):
        decay_factor("steps", 0.5)
