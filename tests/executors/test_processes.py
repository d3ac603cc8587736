"""Worker processes: one that dies takes one trial with it, and none outlives its coordinator."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import wait
from functools import partial

import pytest

from carbs_scaling.errors import ConfigError
from carbs_scaling.executors import processes
from carbs_scaling.executors.processes import ProcessExecutor, worker_environments
from carbs_scaling.trial import Completed, Diverged, MachineFailure, OutOfMemory


class Job:
    """What the worker does is `act`."""

    def __init__(self, act, *arguments):
        self.act = act
        self.arguments = arguments

    def __call__(self):
        return self.act(*self.arguments)


def finish(loss):
    return Completed(loss=loss, device=os.environ.get("SLOT", ""))


def die_once(marker):
    if not marker.exists():
        marker.write_text("died")
        os.kill(os.getpid(), signal.SIGKILL)
    return finish(7)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def end(kind, **fields):
    """An outcome that names its process."""
    return kind(device=str(os.getpid()), **fields)


def no_space():
    raise OSError(28, "No space left on device", "curve.jsonl")


def sleep_until_stopped(begun, stopped):
    """Leaves a file at the start, and one when it is told to stop."""
    begun.touch()
    try:
        time.sleep(600)
    except KeyboardInterrupt:
        stopped.touch()
        raise


@pytest.fixture
def executor():
    executor = ProcessExecutor([{"SLOT": "a"}, {"SLOT": "b"}], trials_per_worker=None, retries=1)
    yield executor
    executor.close()


def collect(executor, count):
    outcomes = {}
    deadline = time.monotonic() + 60
    while len(outcomes) < count and time.monotonic() < deadline:
        outcomes.update(executor.wait(0.5))
    return outcomes


def test_each_slot_trains_one_job_in_its_own_environment(executor):
    assert executor.free == 2
    executor.submit(0, Job(finish, 3))
    executor.submit(1, Job(finish, 4))
    assert executor.free == 0
    outcomes = collect(executor, 2)
    assert {number: outcome.loss for number, outcome in outcomes.items()} == {0: 3, 1: 4}
    assert {outcome.device for outcome in outcomes.values()} == {"a", "b"}
    assert executor.free == 2


def test_a_dead_workers_trial_is_tried_again_and_the_other_goes_on(executor, tmp_path):
    executor.submit(0, Job(die_once, tmp_path / "marker"))
    executor.submit(1, Job(finish, 4))
    outcomes = collect(executor, 2)
    assert outcomes[0].loss == 7
    assert outcomes[1].loss == 4


def test_a_trial_that_always_kills_its_worker_is_the_machines_failure(executor):
    executor.submit(0, Job(die))
    outcome = collect(executor, 1)[0]
    assert isinstance(outcome, MachineFailure)
    executor.submit(1, Job(finish, 4))
    assert collect(executor, 1)[1].loss == 4


@pytest.mark.parametrize(
    ("kind", "fields", "kept"),
    [
        (Completed, {"loss": 1.0}, True),
        (Diverged, {"progress": 1.0}, True),
        (OutOfMemory, {"progress": 0.5}, False),
    ],
)
def test_a_worker_is_kept_unless_its_trial_lacked_memory(executor, kind, fields, kept):
    executor.submit(0, Job(partial(end, kind, **fields)))
    first = collect(executor, 1)[0]
    assert isinstance(first, kind)
    executor.submit(1, Job(partial(end, Completed, loss=1.0)))
    assert (collect(executor, 1)[1].device == first.device) == kept


def test_a_full_disk_reaches_the_coordinator(executor):
    executor.submit(0, Job(no_space))
    with pytest.raises(OSError, match="No space left"):
        collect(executor, 1)


def test_outcomes_beside_a_raised_error_are_told_before_it(executor):
    executor.submit(0, Job(no_space))
    executor.submit(1, Job(finish, 4))
    wait([slot.future for slot in executor._slots], timeout=60)
    assert [number for number, _ in executor.wait(0)] == [1]
    with pytest.raises(OSError, match="No space left"):
        executor.wait(0)


def test_a_running_trial_may_keep_its_state_when_it_is_stopped(executor, tmp_path):
    begun, stopped = tmp_path / "begun", tmp_path / "stopped"
    executor.submit(0, Job(sleep_until_stopped, begun, stopped))
    while not begun.exists():
        assert executor.wait(0.1) == []
    executor.close()
    assert stopped.exists()
    assert not multiprocessing.active_children()


def test_workers_end_with_a_killed_coordinator(tmp_path):
    script = tmp_path / "coordinator.py"
    script.write_text(
        "import functools, multiprocessing, time\n"
        "from carbs_scaling.executors.processes import ProcessExecutor\n"
        "if __name__ == '__main__':\n"
        "    executor = ProcessExecutor([{}], None, 0)\n"
        "    executor.submit(0, functools.partial(time.sleep, 600))\n"
        "    executor.wait(3)\n"
        "    print(multiprocessing.active_children()[0].pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    coordinator = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    worker = int(coordinator.stdout.readline())
    coordinator.kill()
    coordinator.wait()
    coordinator.stdout.close()
    for _ in range(100):
        if not os.path.exists(f"/proc/{worker}"):  # noqa: PTH110 (a process, not a file)
            return
        time.sleep(0.1)
    pytest.fail("the worker outlived its coordinator")


def test_cpu_workers_have_one_thread_each():
    environments = worker_environments("cpu", 3)
    assert environments == [{"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}] * 3


def test_gpus_go_to_workers_by_so_many_a_trial(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 5)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    seen = [environment["CUDA_VISIBLE_DEVICES"] for environment in worker_environments("auto", 3, 2)]
    assert seen == ["0,1", "2,3", "0,1"]
    with pytest.raises(ConfigError, match=r"executor\.gpus_per_trial=6"):
        worker_environments("auto", None, 6)


def stop_once(marker):
    if not marker.exists():
        marker.write_text("stopped")
        os.kill(os.getpid(), signal.SIGSTOP)
    return finish(7)


def sleep_once(marker):
    if not marker.exists():
        marker.write_text("asleep")
        time.sleep(600)
    return finish(7)


@pytest.mark.parametrize("act", [stop_once, sleep_once])
def test_a_worker_that_hangs_is_ended_and_its_trial_retried(tmp_path, monkeypatch, act):
    # A stopped one beats no more; one that sleeps still does, and only the limit on its time ends it.
    monkeypatch.setattr(processes, "SILENT_SECONDS", 8.0 if act is stop_once else 600.0)
    minutes = None if act is stop_once else 8 / 60
    executor = ProcessExecutor([{}], trials_per_worker=None, retries=1, trial_minutes=minutes)
    try:
        executor.submit(3, Job(act, tmp_path / "marker"))
        assert collect(executor, 1)[3].loss == 7
    finally:
        executor.close()


def test_a_trial_that_always_takes_too_long_says_so():
    executor = ProcessExecutor([{}], trials_per_worker=None, retries=0, trial_minutes=1e-3)
    try:
        executor.submit(0, Job(time.sleep, 600))
        outcome = collect(executor, 1)[0]
    finally:
        executor.close()
    assert outcome == MachineFailure(message="it took longer than executor.trial_minutes=0.001")
