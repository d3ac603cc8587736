"""Reading a ledger creates nothing, and two that create its tables at once do not break each other."""

import optuna
import pytest
import sqlalchemy
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState

from carbs_scaling.config import StudyConfig
from carbs_scaling.errors import WrongStudy
from carbs_scaling.ledger.database import storage_to_read, storage_to_write
from carbs_scaling.ledger.study import Study


def test_reading_creates_no_file_and_no_table(tmp_path):
    own, file = StudyConfig("mine", str(tmp_path), None, 0), tmp_path / "mine" / "study.db"
    elsewhere = StudyConfig("mine", str(tmp_path), f"sqlite:///{tmp_path / 'other.db'}", 0)
    for config in (own, elsewhere):
        with pytest.raises(WrongStudy, match="no study 'mine'"):
            Study.load(config)
    assert list(tmp_path.iterdir()) == []
    file.parent.mkdir()
    file.touch()  # as SQLite leaves it for a moment
    with pytest.raises(WrongStudy, match="no study 'mine'"):
        Study.load(own)
    assert file.read_bytes() == b""


def test_tables_that_another_process_creates_at_this_moment_are_taken_over(tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    config = StudyConfig("mine", str(tmp_path), url, 0)
    met = []

    def meanwhile(*_, **__):
        if not met:
            met.append(True)
            with pytest.raises(KeyError):
                storage_to_read(config)
            RDBStorage(url)

    table = models.StudyModel.__table__
    sqlalchemy.event.listen(table, "before_create", meanwhile)
    try:
        storage_to_write(config).create_new_study(directions=[], study_name="mine")
    finally:
        sqlalchemy.event.remove(table, "before_create", meanwhile)
    assert met
    assert [study.study_name for study in storage_to_read(config).get_all_studies()] == ["mine"]


def test_all_trials_read_at_once_are_those_that_optuna_reads(tmp_path):
    config = StudyConfig("mine", str(tmp_path), f"sqlite:///{tmp_path / 'study.db'}", 0)
    storage = storage_to_write(config)
    for name in ("mine", "another"):
        study = optuna.create_study(study_name=name, storage=storage, directions=["minimize"] * 2)
        for number in range(4):
            trial = study.ask()
            trial.suggest_float("rate", 1e-4, 1.0, log=True)
            trial.suggest_categorical("kind", ["a", None, 3])
            trial.set_user_attr("note", {"of": name, "number": number})
            if number == 1:
                study.tell(trial, state=TrialState.FAIL)
            elif number:
                study.tell(trial, [float("inf"), 2.0])
        found = storage._get_trials(study._study_id, None, set(), -1)
        assert len(found) == 4
        assert found == RDBStorage._get_trials(storage, study._study_id, None, set(), -1)


def test_open_trials_are_made_anew_when_something_was_written_to_them_alone(tmp_path):
    config = StudyConfig("mine", str(tmp_path), f"sqlite:///{tmp_path / 'study.db'}", 0)
    storage = storage_to_write(config)
    study = optuna.create_study(study_name="mine", storage=storage, directions=["minimize"] * 2)
    trials = [study.ask({"rate": optuna.distributions.FloatDistribution(1e-4, 1.0)}) for _ in range(4)]
    ids = [trial._trial_id for trial in trials]

    def read():
        found = storage._get_trials(study._study_id, None, set(ids[:3]), ids[1])
        assert found == RDBStorage._get_trials(storage, study._study_id, None, set(ids[:3]), ids[1])
        return found

    before = read()
    assert [trial._trial_id for trial in before] == ids
    # Somebody else writes, as a dashboard or a search of another host does.
    others = optuna.load_study(study_name="mine", storage=storage_to_read(config))
    others._storage.set_trial_user_attr(ids[1], "note", 1)
    others.tell(2, [1.0, 2.0])
    after = read()
    assert [new is old for new, old in zip(after, before, strict=True)] == [True, False, False, True]
    assert (after[1].user_attrs, after[2].state) == ({"note": 1}, TrialState.COMPLETE)
    assert storage._get_trials(study._study_id, None, set(), ids[-1]) == []


def test_a_study_that_somebody_deleted_is_missed(tmp_path):
    config = StudyConfig("mine", str(tmp_path), f"sqlite:///{tmp_path / 'study.db'}", 0)
    study = optuna.create_study(study_name="mine", storage=storage_to_write(config))
    study.tell(study.ask(), 1.0)
    study.get_trials()
    optuna.delete_study(study_name="mine", storage=storage_to_read(config))
    with pytest.raises(KeyError, match="does not exist"):
        study.get_trials()
