"""One coordinator a study, from any host and folder; on SQLite and PostgreSQL alike."""

import dataclasses
import subprocess
import sys
import threading
import time

import pytest
import sqlalchemy

from carbs_scaling.config import StudyConfig
from carbs_scaling.errors import StudyError
from carbs_scaling.ledger import lease as leases
from carbs_scaling.ledger.database import ledger_engine
from carbs_scaling.ledger.lease import LEASES, Holder, LeaseLost, ask_to_stop, sole_coordinator, who_searches
from carbs_scaling.ledger.study import Study
from carbs_scaling.samplers.carbs import CarbsSampler
from carbs_scaling.trial import Completed
from tests import postgresql
from tests.toy_task import ToyTask

TASK = ToyTask()


@pytest.fixture(scope="module")
def server():
    if postgresql.why_not():
        pytest.skip(postgresql.why_not())
    server = postgresql.Server()
    yield server
    server.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def config(request, tmp_path):
    """Two folders with one ledger: `config`, and `other(config)`."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'shared.db'}"
    else:
        url = request.getfixturevalue("server").create(f"d{time.monotonic_ns()}")
    return StudyConfig("s", str(tmp_path / "one"), url, 0)


def other(config):
    return dataclasses.replace(config, directory=f"{config.directory}-too")


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(leases, "LEASE_SECONDS", 0.4)
    monkeypatch.setattr(leases, "SEEN_SECONDS", 0.2)


def begin(config, lease):
    sampler = CarbsSampler(TASK.space, TASK.flops, TASK.roles, TASK.project, budget_flops=1e7, seed=0)
    return Study.begin(config, TASK, 1e7, sampler, lease)


def as_if_from_elsewhere(config):
    """The holder's process cannot be seen from here, as on another machine."""
    holder = dataclasses.replace(Holder.this_process(), host="elsewhere", place="another machine")
    with ledger_engine(config).begin() as connection:
        connection.execute(LEASES.update().values(holder=holder.as_text()))


def test_a_second_one_is_refused_from_another_folder_and_leaves_nothing(config, tmp_path):
    with sole_coordinator(config):
        with pytest.raises(StudyError, match="study 's' is being searched by process") as error:
            sole_coordinator(other(config)).__enter__()
        assert "\n" not in str(error.value)
        assert not (tmp_path / "one-too").exists()
        assert who_searches(other(config))[0] == Holder.this_process()
        with sole_coordinator(dataclasses.replace(config, name="t")):  # another study is free
            pass
    assert who_searches(config) is None
    with sole_coordinator(other(config)):
        pass


def test_one_on_another_machine_is_refused_while_it_counts_and_taken_over_when_it_stopped(
    config, quick, capsys
):
    with sole_coordinator(config) as lease:
        as_if_from_elsewhere(config)
        with pytest.raises(StudyError, match=r"searched by process \d+ on elsewhere"):
            sole_coordinator(other(config)).__enter__()
        assert who_searches(config)[0].host == "elsewhere"
        assert "on elsewhere searched study 's': waiting up to" in capsys.readouterr().err
        study = begin(config, lease)
        first, second = (study.ask(TASK, {}) for _ in range(2))
        study.tell(first.number, Completed(loss=1.0))
        lease._ended.set()  # it hangs
        lease._thread.join()
        assert who_searches(config) is None
        with sole_coordinator(other(config)) as new:
            taken_over = begin(other(config), new)
            assert [r.number for r in taken_over.unfinished(TASK, {})] == [second.number]
            # And comes back: nothing that it writes is kept.
            for write in (
                lambda: study.tell(second.number, Completed(loss=2.0)),
                lambda: study.ask(TASK, {}),
                lambda: study.set_wall_seconds(1.0),
                lease.stop_request,
            ):
                with pytest.raises(LeaseLost, match="was taken over"):
                    write()
            assert [record.running for record in taken_over.records()] == [False, True]
            taken_over.tell(second.number, Completed(loss=3.0))
            assert [record.loss for record in Study.load(config).records()] == [1.0, 3.0]


def test_of_many_that_want_it_at_once_one_gets_it(config):
    got, refused, at_once = [], [], threading.Barrier(6)

    def want(number):
        at_once.wait()
        try:
            with sole_coordinator(dataclasses.replace(config, directory=f"{config.directory}{number}")):
                got.append(number)
                ended.wait(30)
        except StudyError:
            refused.append(number)
            if len(refused) == 5:
                ended.set()

    ended = threading.Event()
    threads = [threading.Thread(target=want, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 5)


def test_one_that_was_killed_here_is_taken_over_at_once(config):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    with sole_coordinator(config) as lease:
        dead = dataclasses.replace(Holder.this_process(), pid=ended.pid)
        assert not dataclasses.replace(dead, started=1).lives
        ended.wait()
        with ledger_engine(config).begin() as connection:
            connection.execute(LEASES.update().values(holder=dead.as_text()))
        assert who_searches(config) is None
        with sole_coordinator(other(config)), pytest.raises(LeaseLost):
            lease.stop_request()


def test_a_clock_that_is_moved_changes_nothing(config, quick, monkeypatch):
    with sole_coordinator(config):
        as_if_from_elsewhere(config)
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + 1e6)
        with pytest.raises(StudyError, match="on elsewhere"):
            sole_coordinator(other(config)).__enter__()


def test_a_request_to_stop_reaches_it_through_the_ledger(config):
    with sole_coordinator(config) as lease:
        assert lease.stop_request() is None
        ask_to_stop(other(config), now=True)
        assert lease.stop_request() == leases.NOW
        assert who_searches(config)[1] == leases.NOW
    with sole_coordinator(config) as lease:
        assert lease.stop_request() is None


def test_reading_makes_no_table(config):
    assert who_searches(config) is None
    assert sqlalchemy.inspect(ledger_engine(config)).get_table_names() == []
