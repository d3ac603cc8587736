"""The shapes of the learning rate."""

import pytest
import torch

from carbs_scaling.config import SCHEDULES, ScheduleConfig
from carbs_scaling.training.schedules import build_scheduler, learning_rate_factor


def factors(name: str, steps: int = 100, warmup: float = 0.1, final: float = 0.1, decay: float = 0.2):
    schedule = ScheduleConfig(name=name, final_fraction=final, decay_fraction=decay)
    return [learning_rate_factor(schedule, warmup, step, steps) for step in range(steps)]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 100])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.9])
def test_it_rises_to_the_peak_and_never_rises_again(name, steps, warmup):
    values = factors(name, steps, warmup)
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
    wsd = factors("wsd")
    assert wsd[10:81] == [1.0] * 71
    assert wsd[90] == pytest.approx(0.55)


@pytest.mark.parametrize("name", ["cosine", "linear", "wsd"])
def test_the_last_step_is_near_the_final_fraction(name):
    assert factors(name, steps=1000)[-1] == pytest.approx(0.1, abs=0.01)
    assert factors(name, steps=1000, final=0.0)[-1] == pytest.approx(0.0, abs=0.01)


def test_scheduler_scales_the_peak():
    schedule = ScheduleConfig(name="linear", final_fraction=0.0, decay_fraction=0.2)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = build_scheduler(optimizer, schedule, 0.0, 4)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == [2.0, 1.5, 1.0, 0.5]
