"""What every executor must do, whatever its jobs are."""

import time

import pytest

from carbs_scaling.errors import DataError
from carbs_scaling.executors import EXECUTORS
from carbs_scaling.trial import Completed, Diverged, MachineFailure, OutOfMemory
from tests.executors.engines import CASES, engine_config


class Job:
    """A picklable job."""

    def __init__(self, act, *arguments):
        self.act = act
        self.arguments = arguments

    def __call__(self):
        return self.act(*self.arguments)


def end(outcome):
    return outcome


def fail(error):
    raise error


def fail_times(count, log):
    """The machine fails the first `count` runs; each leaves a letter in the file `log`."""
    with log.open("a") as file:
        file.write("x")
    if len(log.read_text()) <= count:
        raise RuntimeError("CUDA error")
    return Completed(loss=1.0)


def test_every_executor_is_tested():
    assert {case.split()[0] for case in CASES} == set(EXECUTORS.names)


@pytest.fixture(params=CASES)
def executor(request, tmp_path):
    config = engine_config(request.param, request.getfixturevalue)
    executor = EXECUTORS.load(config.name).from_config(config, tmp_path / "mine" / "executor")
    yield executor
    executor.close()
    # What is pickled in there is for nobody else.
    assert not [path for path in tmp_path.glob("mine/executor/**/") if path.stat().st_mode & 0o077]


def collect(executor, count):
    outcomes = {}
    deadline = time.monotonic() + 120
    while len(outcomes) < count and time.monotonic() < deadline:
        outcomes.update(executor.wait(0.5))
    return outcomes


@pytest.mark.parametrize(
    "outcome",
    [
        Completed(loss=1.5, seconds=2.0, metrics={"a": 1.0}),
        Diverged(progress=0.5, message="why"),
        OutOfMemory(progress=0.1, message="why"),
    ],
)
def test_an_outcome_comes_back_under_its_number_and_the_slot_is_free_again(executor, outcome):
    assert executor.free == 1
    for number in (5, 6):
        executor.submit(number, Job(end, outcome))
        assert executor.free == 0
        assert collect(executor, 1) == {number: outcome}
        assert executor.free == 1


def test_without_a_job_there_is_nothing_to_wait_for(executor):
    assert executor.wait(0.01) == []


def test_a_runtime_error_is_the_machines(executor):
    executor.submit(0, Job(fail, RuntimeError("CUDA error: unspecified launch failure\nsecond line")))
    outcome = collect(executor, 1)[0]
    assert isinstance(outcome, MachineFailure)
    assert outcome.message == "CUDA error: unspecified launch failure"
    executor.submit(1, Job(end, Completed(loss=1.0)))
    assert collect(executor, 1) == {1: Completed(loss=1.0)}


@pytest.mark.parametrize(("failures", "kind"), [(1, Completed), (2, MachineFailure)])
def test_what_the_machine_failed_is_begun_again_as_often_as_retries_says(executor, tmp_path, failures, kind):
    log = tmp_path / "runs"
    executor.submit(0, Job(fail_times, failures, log))
    assert isinstance(collect(executor, 1)[0], kind)
    assert log.read_text() == "xx"


@pytest.mark.parametrize("error", [OSError(28, "No space left"), DataError("no text")])
def test_what_stops_the_search_reaches_it(executor, error):
    executor.submit(0, Job(fail, error))
    with pytest.raises(type(error)):
        collect(executor, 1)


def test_a_closed_executor_stops_at_once(executor):
    begun = time.monotonic()
    executor.submit(0, Job(time.sleep, 600))
    executor.close()
    assert time.monotonic() - begun < 60
