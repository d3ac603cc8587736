"""Limits beside FLOPs: the search ends within a trial of each, goes on from the ledger, and says why."""

import pytest

from carbs_scaling.errors import ConfigError
from carbs_scaling.ledger.study import Study
from carbs_scaling.search_limits import SearchLimits
from tests.toy_task import ToyTask, search, toy_config

SECONDS = 0.1  # of a trial, which takes as long whatever its FLOPs


class SlowTask(ToyTask):
    """Says how long it took."""

    def run(self, point, context):
        outcome = super().run(point, context)
        return type(outcome)(**{**vars(outcome), "seconds": self.seconds})


def ended_by(config):
    return [
        line
        for line in (config.study.folder / "search.log").read_text().splitlines()
        if "the search ends" in line
    ]


@pytest.fixture
def configure(tmp_path):
    return lambda name, **options: toy_config(tmp_path, name, "in_process", "random", **options)


def test_trials_are_counted_over_the_whole_study(configure):
    for trials in (3, 5):
        config = configure("counted", trials=trials)
        assert len(search(config).records()) == trials
    assert "budget.trials=5" in ended_by(config)[-1]


def test_a_search_ends_within_a_trial_of_its_hours_and_says_so(configure):
    hours = 12 * SECONDS / 3600
    config = configure("timed", hours=hours)
    study = search(config, SlowTask(seconds=SECONDS))
    assert len(study.records()) <= 12
    # No trial began that the time did not pay for: at most what starting it takes lies beyond.
    assert study.wall_seconds <= (hours * 3600) + SECONDS
    # Nor did it end long before: a busy machine makes trials seem long, and the last of them too long.
    assert study.wall_seconds >= hours * 3600 / 4
    assert "budget.hours" in ended_by(config)[-1]
    # The same command has nothing more to do: time is counted from the ledger.
    trials = len(study.records())
    assert len(search(config, SlowTask(seconds=SECONDS)).records()) == trials
    assert Study.load(config.study).wall_seconds == study.wall_seconds


def test_flops_that_are_spent_first_end_it_and_are_named(configure):
    config = configure("cheap", hours=1.0, flops=2e5)
    search(config)
    assert "budget.flops" in ended_by(config)[-1]


def test_gpu_hours_need_a_gpu(configure):
    with pytest.raises(ConfigError, match="no GPU here"):
        search(configure("none", gpu_hours=1.0))


def test_gpu_hours_are_told_in_gpu_hours(configure, monkeypatch):
    monkeypatch.setattr("carbs_scaling.search_limits.gpus_in_use", lambda executor: 4)
    limits = SearchLimits(configure("four", gpu_hours=2.0))
    limits._before = 1800.0
    assert "2 of 2 GPU hours have passed" in limits.reached([], 1.0)


def test_the_ledger_says_what_a_trial_took_from_its_proposal_to_its_end(configure):
    records = search(configure("took", trials=3), SlowTask(seconds=SECONDS)).records()
    assert all(record.wall_seconds >= SECONDS for record in records)
