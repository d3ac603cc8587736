"""Slurm's own: a job that is sent away comes back, and one that outlives its coordinator is taken over."""

import os
import signal
import subprocess
import time

import pytest

from carbs_scaling.errors import ConfigError
from carbs_scaling.executors import queues
from carbs_scaling.executors.slurm import SlurmExecutor
from carbs_scaling.trial import Completed
from tests.executors.engines import engine_config
from tests.executors.jobs import FirstAttempt, attempts, kept

pytestmark = pytest.mark.slow


@pytest.fixture(params=["slurm", "slurm local"])
def config(request, monkeypatch):
    monkeypatch.setattr(queues.SlurmQueue, "look_seconds", 0.5)
    return engine_config(request.param, request.getfixturevalue)


@pytest.fixture
def executor(config, tmp_path):
    executor = SlurmExecutor(config, tmp_path / "executor")
    yield executor
    executor.close()


def wait_for(holds, executor=None):
    deadline = time.monotonic() + 180
    while not (found := holds()):
        assert time.monotonic() < deadline
        assert executor is None or executor.wait(0.1) == []
    return found


def test_a_preempted_job_keeps_its_state_and_goes_on(executor, config, tmp_path):
    executor.submit(0, FirstAttempt("wait", tmp_path / "log"))
    (first,) = wait_for(lambda: attempts(tmp_path / "log"), executor)
    job = executor._running[0].handle
    os.kill(first, signal.SIGUSR2)
    wait_for(lambda: kept(tmp_path / "log"), executor)
    if not config.local:  # Slurm lets a job that comes back wait for two minutes
        wait_for(lambda: executor._queue.alive([job]).get(job) == "PENDING", executor)
        subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=True)
    assert wait_for(lambda: executor.wait(0.1)) == [(0, Completed(loss=7.0))]
    assert len(attempts(tmp_path / "log")) == 2


def test_a_job_that_outlives_its_coordinator_is_taken_over_and_runs_once(executor, config, tmp_path):
    executor.submit(0, FirstAttempt("sleep", tmp_path / "log"))
    successor = SlurmExecutor(config, tmp_path / "executor")
    wait_for(lambda: attempts(tmp_path / "log"))
    successor.submit(0, FirstAttempt("sleep", tmp_path / "log"))
    assert wait_for(lambda: successor.wait(0.1)) == [(0, Completed(loss=7.0))]
    assert len(attempts(tmp_path / "log")) == 1
    executor._running.clear()


def test_a_job_that_nobody_knows_any_more_is_cancelled_at_the_end(executor, config, tmp_path):
    executor.submit(0, FirstAttempt("wait", tmp_path / "log"))
    job = executor._running[0].handle
    wait_for(lambda: attempts(tmp_path / "log"))
    executor._running.clear()
    SlurmExecutor(config, tmp_path / "executor").close()
    wait_for(lambda: executor._queue.alive([job]) == {})
    assert len(attempts(tmp_path / "log")) == 1


def test_what_slurm_refuses_is_one_line(request, tmp_path):
    config = engine_config("slurm", request.getfixturevalue, partition="nowhere")
    executor = SlurmExecutor(config, tmp_path / "executor")
    with pytest.raises(ConfigError, match=r"executor=slurm: .*nowhere|executor=slurm: .*[Pp]artition"):
        executor.submit(0, FirstAttempt("sleep", tmp_path / "log"))
    assert not list((tmp_path / "executor").glob("*"))
