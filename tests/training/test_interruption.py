"""A run ended by hand loses nothing: it stops between two steps, with a checkpoint of the last one."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from carbs_scaling.training import loop, step
from carbs_scaling.training.checkpoint import CheckpointPlan
from carbs_scaling.training.interruption import stop_after_a_step
from carbs_scaling.training.loop import train


@pytest.fixture(autouse=True)
def own_signals():
    """Handlers as a program at a terminal has them: what runs in the background ignores Ctrl-C."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def job(changed, tmp_path):
    """A job whose next checkpoint is an hour away."""
    plan = CheckpointPlan(str(tmp_path / "checkpoints"), 60, "this run")
    return replace(changed(steps=120), checkpoints=plan)


def signalled(number, at_step):
    """Watches a run and sends its process a signal."""

    def watch(steps, seconds, loss):
        if steps >= at_step:
            os.kill(os.getpid(), number)

    return watch


def kept_steps(job):
    return [int(path.stem) for path in Path(job.checkpoints.folder).glob("*.json")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_goes_on_from_its_last_step(job, monkeypatch, number):
    before = signal.getsignal(number)
    unbroken = train(replace(job, checkpoints=None))
    with pytest.raises(KeyboardInterrupt):
        train(job, signalled(number, 50))
    [stopped] = kept_steps(job)
    assert 50 <= stopped <= 50 + loop.CHECK_STEPS
    assert signal.getsignal(number) is before
    taken = []
    real = step.accumulate_gradients
    monkeypatch.setattr(step, "accumulate_gradients", lambda *args: (taken.append(1), real(*args))[1])
    outcome = train(job)
    assert len(taken) == 120 - stopped
    assert outcome.loss == pytest.approx(unbroken.loss, abs=1e-6)


def test_a_stop_while_the_model_is_scored_takes_no_step_again(job, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    real = loop.evaluate
    monkeypatch.setattr(loop, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(job)
    assert kept_steps(job) == [120]
    monkeypatch.setattr(loop, "evaluate", real)
    monkeypatch.setattr(step, "accumulate_gradients", None)
    assert train(job).progress == 1


def test_a_long_run_keeps_its_last_step_until_it_is_scored(job):
    assert kept_steps(job) == []
    train(replace(job, checkpoints=replace(job.checkpoints, minutes=0)))
    assert max(kept_steps(job)) == 120


def test_the_second_signal_does_what_it_did_before():
    with stop_after_a_step(True) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_after_a_step(True) as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert not stop.asked
    finally:
        signal.signal(signal.SIGINT, before)
