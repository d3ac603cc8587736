"""A database that goes away, a full disk, a killed coordinator: nothing lost, nothing counted twice."""

import dataclasses
import json
import sqlite3
import threading

import optuna
import pytest
import sqlalchemy

from carbs_scaling.errors import CarbsScalingError, StudyError
from carbs_scaling.ledger.database import LedgerFull, LedgerGone, storage_errors
from carbs_scaling.ledger.kept import FOLDER, KeptOutcomes
from carbs_scaling.ledger.study import Study
from carbs_scaling.trial import Completed
from tests import postgresql
from tests.toy_task import ToyTask, ledger, search, toy_config

FEW = {"flops": 4e5, "sampler": "random"}


class Interfered(ToyTask):
    """A task during whose third trial something happens once, and which counts its runs by number."""

    def __init__(self, interfere):
        super().__init__()
        self.interfere, self.runs = interfere, []

    def run(self, point, context):
        self.runs.append(context.number)
        if context.number == 2 and self.interfere is not None:
            interfere, self.interfere = self.interfere, None
            interfere()
        return super().run(point, context)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return ledger(search(toy_config(tmp_path_factory.mktemp("unbroken"), "toy", "in_process", **FEW)))


@pytest.fixture
def server():
    if postgresql.why_not():
        pytest.skip(postgresql.why_not())
    server = postgresql.Server()
    yield server
    server.remove()


def test_a_server_that_is_killed_and_comes_back_is_waited_for(server, tmp_path, unbroken, capsys):
    config = toy_config(tmp_path, "toy", "in_process", **FEW)
    config = dataclasses.replace(config, study=dataclasses.replace(config.study, storage=server.url()))

    def restart():
        server.stop()
        threading.Timer(3.0, server.start).start()

    task = Interfered(restart)
    study = search(config, task)
    log = (config.study.folder / "search.log").read_text()
    assert log.count(": waiting for it; trials go on, and are recorded when it is back") == 1
    assert "the ledger is there again" in log
    assert ledger(study) == unbroken
    assert sorted(task.runs) == list(range(len(task.runs)))  # each once
    assert not (config.study.folder / FOLDER).exists()


def test_a_locked_file_is_waited_for(tmp_path, unbroken, monkeypatch):
    monkeypatch.setattr("carbs_scaling.ledger.database._BUSY_SECONDS", 0.1)
    config = toy_config(tmp_path, "toy", "in_process", **FEW)

    def lock():
        other = sqlite3.connect(config.study.folder / "study.db", check_same_thread=False)
        other.execute("BEGIN EXCLUSIVE")
        threading.Timer(2.0, other.close).start()

    assert ledger(search(config, Interfered(lock))) == unbroken
    assert "waiting for it" in (config.study.folder / "search.log").read_text()


def test_what_ended_while_the_ledger_was_full_is_recorded_by_the_next_search(tmp_path, unbroken, monkeypatch):
    config, closed = toy_config(tmp_path, "toy", "in_process", **FEW), Study._close

    def full(self, frozen, outcome):
        if frozen.number == 2:
            raise LedgerFull("the disk of the ledger is full: free some space; nothing is lost")
        closed(self, frozen, outcome)

    monkeypatch.setattr(Study, "_close", full)
    with pytest.raises(CarbsScalingError, match="nothing is lost"):
        search(config)
    monkeypatch.undo()
    assert [record.running for record in Study.load(config.study).records()] == [False, False, True]
    assert json.loads((config.study.folder / FOLDER / "00002.json").read_text())["number"] == 2
    task = Interfered(None)
    assert ledger(search(config, task)) == unbroken
    assert 2 not in task.runs


def test_a_full_disk_is_said_in_one_line(tmp_path):
    config = toy_config(tmp_path, "toy", "in_process", **FEW)
    search(config)
    study = Study.load(config.study)
    engine = study.optuna_study._storage._backend.engine
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")  # of the one connection of its pool

    def fill():
        for number in range(2000):
            with storage_errors("here"):
                study.optuna_study.set_user_attr(f"key {number}", "x" * 1000)

    with pytest.raises(LedgerFull, match=r"is full.*free some space") as error:
        fill()
    assert "\n" not in str(error.value)


def test_outcomes_of_other_runs_of_a_trial_and_garbled_ones_are_dropped(tmp_path):
    config = toy_config(tmp_path, "toy", "in_process", **FEW)
    records = search(config).records()
    kept = KeptOutcomes(tmp_path)
    for record in records[:3]:
        assert kept.add(record, Completed(loss=1.0)) == ""
    (tmp_path / FOLDER / "00001.json").write_text('{"number": 1')
    other = dataclasses.replace(records[2], seed=records[2].seed + 1)
    found = KeptOutcomes(tmp_path)
    found.find([records[0], records[1], other])
    assert [(record.number, outcome.loss) for record, outcome in found.waiting] == [(0, 1.0)]
    assert [file.name for file in (tmp_path / FOLDER).glob("*.json")] == ["00000.json"]
    found.done()
    found.close()
    assert not (tmp_path / FOLDER).exists()


def test_an_outcome_is_kept_on_a_full_disk_by_giving_back_what_was_reserved(tmp_path, monkeypatch):
    config = toy_config(tmp_path, "toy", "in_process", **FEW)
    record = search(config).records()[0]
    kept = KeptOutcomes(tmp_path)
    reserve, written = tmp_path / FOLDER / ".reserve", []

    def write(path, content):
        if reserve.exists():
            raise CarbsScalingError("no space left")
        written.append(path.name)

    monkeypatch.setattr("carbs_scaling.ledger.kept.write_atomically", write)
    assert kept.add(record, Completed(loss=1.0)) == ""
    assert written == ["00000.json"]


def test_a_ledger_that_was_deleted_is_not_called_read_only(tmp_path):
    config = toy_config(tmp_path, "toy", "in_process", **FEW)

    def delete():
        (config.study.folder / "study.db").unlink()

    with pytest.raises(StudyError, match="was deleted or moved while it was open") as error:
        search(config, Interfered(delete))
    assert "read-only" not in str(error.value)


def test_a_second_query_in_a_broken_transaction_is_a_database_that_is_away():
    # Optuna falls back to a slower query when the first fails, in the transaction that broke with it.
    said = sqlalchemy.exc.PendingRollbackError("Can't reconnect until invalid transaction is rolled back.")
    with pytest.raises(LedgerGone), storage_errors("here"):
        raise optuna.exceptions.StorageInternalError("An exception is raised during the commit.") from said
