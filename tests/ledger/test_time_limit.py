"""Seconds by FLOPs: a power law recovered from runs drawn from it."""

import numpy as np
import pytest

from carbs_scaling.ledger.record import TrialRecord
from carbs_scaling.ledger.time_limit import speed_of
from carbs_scaling.trial import Completed


def runs(flops, seconds):
    return [
        TrialRecord(i, {}, {}, {}, float(f), 0, Completed(loss=1.0, seconds=float(s)), {})
        for i, (f, s) in enumerate(zip(flops, seconds, strict=True))
    ]


def test_a_power_law_of_seconds_is_recovered_with_what_trials_take_beside():
    flops = np.geomspace(1e10, 1e13, 20)
    noise = np.exp(0.05 * np.random.default_rng(0).normal(size=20))
    records = runs(flops, 1e-7 * flops**0.7 * noise)
    in_runs = sum(record.outcome.seconds for record in records)
    speed = speed_of(records, wall_seconds=(in_runs + 20 * 3.0) / 2, workers=2)
    assert speed.overhead_seconds == pytest.approx(3.0)
    assert speed.seconds(1e14) == pytest.approx(1e-7 * 1e14**0.7, rel=0.2)
    assert speed.flops(speed.seconds(1e12)) == pytest.approx(1e12)
    assert speed.flops(2.0) == 0


def test_few_runs_give_seconds_in_proportion_and_no_runs_give_none():
    assert speed_of([], 10.0, 1) is None
    speed = speed_of(runs([1e10, 1e12], [1.0, 1.0]), 2.0, 1)
    assert speed.seconds(1e13) == pytest.approx(10 * speed.seconds(1e12))
