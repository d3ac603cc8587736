"""Faults of engines with other machines: a job killed, hung, or stopped with the search."""

import os
import time

import pytest

from carbs_scaling.executors import EXECUTORS, queues
from carbs_scaling.executors import attempts as shared
from carbs_scaling.trial import Completed, MachineFailure
from tests.executors.engines import engine_config
from tests.executors.jobs import FirstAttempt, attempts, kept

pytestmark = pytest.mark.slow


@pytest.fixture(params=["ray", "slurm", "slurm local"])
def start(request, tmp_path, monkeypatch):
    """Starts an executor of the engine with some options."""
    monkeypatch.setattr(queues.SlurmQueue, "look_seconds", 0.5)
    monkeypatch.setattr(queues.SlurmQueue, "file_seconds", 0.5)
    started = []

    def start_engine(**options):
        config = engine_config(request.param, request.getfixturevalue, **options)
        started.append(EXECUTORS.load(config.name).from_config(config, tmp_path / "mine" / "executor"))
        return started[-1]

    yield start_engine
    for executor in started:
        executor.close()


def outcome_of(executor, number=0):
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        for ended, outcome in executor.wait(0.5):
            assert ended == number
            return outcome
    raise TimeoutError


@pytest.mark.parametrize("act", ["die", "stop"])
def test_a_job_that_is_killed_or_hangs_is_begun_again(start, tmp_path, monkeypatch, act):
    monkeypatch.setattr(shared, "SILENT_SECONDS", 4.0)
    monkeypatch.setattr(shared, "LOOK_SECONDS", 0.5)
    executor = start()
    executor.submit(0, FirstAttempt(act, tmp_path / "log"))
    assert outcome_of(executor) == Completed(loss=7.0)
    # One that was only stopped may wake up as it is cancelled, and end.
    assert len(attempts(tmp_path / "log")) in ((2,) if act == "die" else (1, 2))
    assert executor.free == 1


HANGS_ONCE = """
import os, pathlib, signal, sys
log = pathlib.Path({log!r})
if "SUBMITIT_EXECUTOR" in os.environ and "submitit" in str(sys.orig_argv) and not log.exists():
    log.touch()
    os.kill(os.getpid(), signal.SIGSTOP)
"""


@pytest.mark.parametrize("start", ["slurm local"], indirect=True)
def test_a_job_that_hangs_before_its_first_sign_of_life_is_begun_again(start, tmp_path, monkeypatch):
    monkeypatch.setattr(shared, "SILENT_SECONDS", 8.0)
    monkeypatch.setattr(shared, "LOOK_SECONDS", 0.5)
    executor = start()
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "sitecustomize.py").write_text(HANGS_ONCE.format(log=str(tmp_path / "hung")))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'first'}{os.pathsep}{os.environ['PYTHONPATH']}")
    executor.submit(0, FirstAttempt("none", tmp_path / "log"))
    assert outcome_of(executor) == Completed(loss=7.0)
    assert (tmp_path / "hung").exists()


def test_a_trial_that_takes_too_long_is_a_failure_of_the_machine(start, tmp_path):
    executor = start(retries=0, trial_minutes=1e-3)
    executor.submit(0, FirstAttempt("wait", tmp_path / "log"))
    assert outcome_of(executor) == MachineFailure(message="it took longer than executor.trial_minutes=0.001")


def test_a_running_trial_may_keep_its_state_when_the_search_is_stopped(start, tmp_path):
    executor = start(workers=2)
    executor.submit(0, FirstAttempt("wait", tmp_path / "log"))
    executor.submit(1, FirstAttempt("wait", tmp_path / "other"))
    while not attempts(tmp_path / "log"):
        assert executor.wait(0.1) == []
    executor.close()
    assert kept(tmp_path / "log")
    assert not list(tmp_path.glob("mine/executor/*-*"))
    time.sleep(1)
    assert len(attempts(tmp_path / "log")) == 1  # nothing has put it into the queue again
