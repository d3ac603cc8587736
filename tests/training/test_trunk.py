"""A run that begins with the trunk of a shorter one is the run in one piece."""

import json
from dataclasses import replace

import pytest

from carbs_scaling.training.checkpoint import CheckpointPlan
from carbs_scaling.training.config import ScheduleConfig
from carbs_scaling.training.loop import train
from carbs_scaling.training.schedules import learning_rate_factor, trunk_steps
from carbs_scaling.trial import Completed, ParentLost

SCHEDULE = ScheduleConfig("wsd", 0.0, 0.3, "linear", 1.0, warmup_steps=6)


@pytest.fixture
def run(changed, tmp_path):
    """A job of so many steps that leaves a trunk in the folder `leaves`, and begins with that in `begins`."""

    def build(steps, leaves=None, begins=None, curve=None):
        def plan(name):
            return None if name is None else CheckpointPlan(str(tmp_path / name), 0.0, "a recipe")

        return replace(
            changed(steps=steps),
            schedule=SCHEDULE,
            curve_path=None if curve is None else str(tmp_path / curve),
            trunk=plan(leaves),
            goes_on_from=plan(begins),
        )

    return build


def test_a_chain_of_continued_runs_is_each_run_in_one_piece(run, tmp_path):
    train(run(20, leaves="a", curve="a.jsonl"))
    middle = train(run(30, leaves="b", begins="a", curve="b.jsonl"))
    last = train(run(44, begins="b", curve="c.jsonl"))
    for steps, continued, name in ((30, middle, "b.jsonl"), (44, last, "c.jsonl")):
        whole = train(run(steps, curve="whole.jsonl"))
        assert isinstance(continued, Completed)
        assert continued.loss == whole.loss
        curves = [
            [json.loads(line) for line in (tmp_path / file).read_text().splitlines()]
            for file in (name, "whole.jsonl")
        ]
        keys = ("step", "progress", "tokens", "train_loss", "learning_rate")
        read = [[[p[k] for k in keys if k in p] for p in curve] for curve in curves]
        assert read[0] == read[1]


def test_a_trunk_that_is_not_whole_trains_nothing(run, tmp_path):
    assert isinstance(train(run(30, begins="a")), ParentLost)
    train(run(20, leaves="a"))
    file = next((tmp_path / "a").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-8] + bytes(8))
    assert isinstance(train(run(30, begins="a")), ParentLost)


@pytest.mark.parametrize("shape", ["wsd", "cosine", "constant"])
def test_a_fixed_warmup_is_the_same_in_runs_of_any_length(shape):
    schedule = replace(SCHEDULE, name=shape)
    short, long = ([learning_rate_factor(schedule, 0.5, i, n) for i in range(n)] for n in (20, 60))
    assert short[:6] == pytest.approx([(i + 1) / 7 for i in range(6)])
    same = {"wsd": 14, "cosine": 7, "constant": 20}[shape]
    assert short[:same] == long[:same]
    assert short[6:] == sorted(short[6:], reverse=True)
    assert trunk_steps(schedule, 20) == (14 if shape == "wsd" else 0)


def test_a_decay_that_begins_in_the_warmup_begins_at_the_rate_reached():
    rates = [learning_rate_factor(replace(SCHEDULE, warmup_steps=100), 0.1, i, 20) for i in range(20)]
    assert rates[13] == pytest.approx(14 / 101)
    assert rates[14] == pytest.approx(15 / 101)
    assert rates[15] < rates[14]
    assert rates[-1] == pytest.approx(15 / 101 / 6)
