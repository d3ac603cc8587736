"""Seconds by FLOPs: a power law recovered from runs drawn from it."""

from dataclasses import replace

import numpy as np
import pytest

from carbs_scaling.ledger.record import TrialRecord
from carbs_scaling.ledger.time_limit import speed_of
from carbs_scaling.trial import Completed


def runs(flops, seconds, beside=1.0):
    return [
        TrialRecord(i, {}, {}, {}, float(f), 0, Completed(loss=1.0, seconds=float(s)), {}, float(s + beside))
        for i, (f, s) in enumerate(zip(flops, seconds, strict=True))
    ]


def test_a_power_law_of_seconds_is_recovered_with_what_trials_take_beside():
    flops = np.geomspace(1e10, 1e13, 20)
    noise = np.exp(0.05 * np.random.default_rng(0).normal(size=20))
    records = runs(flops, 1e-7 * flops**0.7 * noise, beside=3.0)
    speed = speed_of(records)
    assert speed.overhead_seconds == pytest.approx(3.0)
    assert speed.seconds(1e14) == pytest.approx(1e-7 * 1e14**0.7, rel=0.2)
    assert speed.flops(speed.seconds(1e12)) == pytest.approx(1e12)
    assert speed.flops(2.0) == 0


def test_few_runs_give_seconds_in_proportion_and_no_runs_give_none():
    assert speed_of([]) is None
    speed = speed_of(runs([1e10, 1e12], [1.0, 1.0], beside=0.0))
    assert speed.seconds(1e13) == pytest.approx(10 * speed.seconds(1e12))


def test_running_trials_and_a_break_are_no_overhead():
    records = runs([1e10] * 3, [5.0] * 3)
    running = [TrialRecord(i, {}, {}, {}, 1e12, 0, None, {}) for i in (3, 4)]
    resumed = replace(records[0], number=5, wall_seconds=8e4)
    assert speed_of([*records, *running, resumed]) == speed_of(records)
    assert speed_of(records).overhead_seconds == pytest.approx(1.0)
