"""Outcomes: only a completed trial has a loss, all come back from JSON, and what was done is charged."""

import json
from math import inf, nan

import pytest

from carbs_scaling.trial import (
    Completed,
    Diverged,
    MachineFailure,
    OutOfMemory,
    Stopped,
    TrialOutcome,
    flops_so_far,
)

OUTCOMES = [
    Completed(loss=2.5, seconds=3.0, device="cpu", metrics={"height": 1.0}),
    Diverged(progress=0.25, message="NaN"),
    OutOfMemory(progress=0.1, peak_memory_bytes=7),
    Stopped(progress=0.5),
    MachineFailure(message="lost"),
]


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: outcome.status)
def test_an_outcome_comes_back_from_json(outcome):
    assert TrialOutcome.from_dict(json.loads(json.dumps(outcome.to_dict()))) == outcome
    assert hasattr(outcome, "loss") == (outcome.status == "completed")


def test_a_trial_is_charged_for_what_was_done_of_it():
    assert [flops_so_far(1e6, outcome) for outcome in OUTCOMES] == [1e6, 2.5e5, 1e5, 5e5, 0]


@pytest.mark.parametrize("loss", [nan, inf])
def test_a_loss_is_finite_and_progress_a_share(loss):
    with pytest.raises(ValueError, match="finite"):
        Completed(loss=loss)
    with pytest.raises(ValueError, match="progress"):
        Diverged(progress=1.5)
