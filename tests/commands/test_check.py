"""`check`: damage to a ledger is named by trial, and set aside without touching the rest."""

import json
import sqlite3
import subprocess
import sys

import pytest

from carbs_scaling.commands import check
from carbs_scaling.errors import StudyError
from carbs_scaling.ledger.study import Study
from carbs_scaling.trial import Status
from tests.toy_task import search, toy_config


def without_status(fields):
    return json.dumps({name: value for name, value in json.loads(fields).items() if name != "status"})


def cut_short(fields):
    return fields[: len(fields) // 2]


def with_odd_field(fields):
    return json.dumps({**json.loads(fields), "colour": 3})


def with_another_loss(fields):
    return json.dumps({**json.loads(fields), "loss": 0.001})


def of_another_kind(fields):
    return json.dumps({**json.loads(fields), "flops": "many"})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    config = toy_config(tmp_path_factory.mktemp("check"), "toy", "in_process", "random", flops=6e5)
    search(config)
    content = (config.study.folder / "study.db").read_bytes()

    def fresh():
        (config.study.folder / "study.db").write_bytes(content)
        return config.study

    return fresh


def damage(place, key, how):
    """Change one attribute of the first completed trial; returns its number."""
    number = next(record.number for record in Study.load(place).records() if record.completed)
    with sqlite3.connect(place.folder / "study.db") as connection:
        row = "key = ? AND trial_id = (SELECT trial_id FROM trials WHERE number = ?)"
        (content,) = connection.execute(
            f"SELECT value_json FROM trial_user_attributes WHERE {row}", (key, number)
        ).fetchone()
        connection.execute(
            f"UPDATE trial_user_attributes SET value_json = ? WHERE {row}", (how(content), key, number)
        )
    return number


def checked(composed, place, *overrides):
    check.run(composed(f"study.directory={place.directory}", "study.name=toy", *overrides, verb="check"))


def test_a_whole_ledger_is_said_to_be_so_and_is_not_touched(composed, whole, capsys):
    place = whole()
    before = (place.folder / "study.db").read_bytes()
    checked(composed, place, "mend=true")
    assert "0 with a fault" in capsys.readouterr().out
    assert (place.folder / "study.db").read_bytes() == before


def test_a_process_that_asked_nothing_else_before_can_check(whole):
    place = whole()
    words = "check", f"study.directory={place.directory}", "study.name=toy"
    command = [sys.executable, "-m", "carbs_scaling.cli", *words]
    assert "0 with a fault" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("key", "how", "leaves_a_trial"),
    [
        ("outcome_record", without_status, True),
        ("outcome_record", cut_short, True),
        ("outcome_record", with_odd_field, True),
        ("outcome_record", with_another_loss, True),
        ("record", cut_short, False),
        ("record", with_odd_field, False),
        ("record", of_another_kind, False),
    ],
)
def test_damage_is_named_left_out_and_set_aside(composed, whole, capsys, key, how, leaves_a_trial):
    place = whole()
    before = Study.load(place).records()
    number = damage(place, key, how)
    others = [record for record in before if record.number != number]
    capsys.readouterr()
    assert Study.load(place).records() == others
    warned = capsys.readouterr().err
    assert warned.startswith(f"carbs-scaling: warning: trial {number}: ")
    assert warned.count("\n") == 1
    with pytest.raises(StudyError, match="mend=true sets it aside"):
        checked(composed, place)
    assert f"trial {number}: " in capsys.readouterr().out
    checked(composed, place, "mend=true")
    after = {record.number: record for record in Study.load(place).records()}
    assert [after[r.number] for r in others] == others
    assert (number in after) == leaves_a_trial
    if leaves_a_trial:
        assert after[number].status is Status.MACHINE
        assert after[number].flops == 0
        assert "set aside by check" in after[number].outcome.message
    checked(composed, place)  # and nothing is wrong any more


def test_a_search_goes_on_beside_a_damaged_trial(whole):
    place = whole()
    number = damage(place, "outcome_record", cut_short)
    study = search(toy_config(place.directory, "toy", "in_process", "random", flops=8e5))
    assert number not in {record.number for record in study.records()}
    assert not any(record.running for record in study.records())


def test_gaps_and_numbers_that_are_there_twice_are_mended(composed, whole, capsys):
    place = whole()
    before = Study.load(place).records()
    with sqlite3.connect(place.folder / "study.db") as connection:
        connection.execute("UPDATE trials SET number = 1 WHERE number = 2")
        connection.execute("DELETE FROM trials WHERE number = 4")
    with pytest.raises(StudyError, match=r"is damaged \(the number 1 is there 2 times\).*mend=true"):
        search(toy_config(place.directory, "toy", "in_process", "random", flops=8e5))
    with pytest.raises(StudyError):
        checked(composed, place)
    said = capsys.readouterr().out
    for what in ("the number 1 is there 2 times", "no trial has the number 2", "no trial has the number 4"):
        assert what in said
    assert "rows of trial_params belong to no trial" in said
    checked(composed, place, "mend=true")
    after = Study.load(place).records()
    untouched = [record for record in before if record.number not in (1, 2, 4)]
    assert [record for record in after if record.number not in (1, 2, 4)] == untouched
    study = search(toy_config(place.directory, "toy", "in_process", "random", flops=8e5))
    assert sorted({t.number for t in study.optuna_study.trials}) == list(
        range(len(study.optuna_study.trials))
    )
    assert len(study.records()) > len(before)
    checked(composed, place)


def test_open_trials_that_nobody_runs_are_told_of(composed, whole, capsys):
    place = whole()
    with sqlite3.connect(place.folder / "study.db") as connection:
        connection.execute("UPDATE trials SET state = 'RUNNING' WHERE number = 3")
    checked(composed, place)
    assert "the next search runs the open trials again" in capsys.readouterr().out
