"""`status` and `stop`: a search seen and ended from another terminal."""

import json

import optuna
import pytest
from optuna.trial import TrialState

from carbs_scaling.commands import status, stop
from carbs_scaling.errors import StudyError
from carbs_scaling.ledger.lease import ask_to_stop, who_searches
from carbs_scaling.ledger.study import Study
from carbs_scaling.trial import Status
from tests.toy_task import ToyTask, search, toy_config

FEW = {"flops": 4e5, "sampler": "random"}


class Interfered(ToyTask):
    """A task during whose third trial something is done from outside."""

    def run(self, point, context):
        if context.number == 2 and self.interfere is not None:
            self.interfere()
        return super().run(point, context)


def interfered(interfere):
    task = Interfered()
    task.interfere = interfere
    return task


def told(composed, capsys, folder, *overrides, verb=status):
    name = verb.__name__.rpartition(".")[2]
    verb.run(composed(f"study.directory={folder}", "study.name=toy", *overrides, verb=name))
    return capsys.readouterr().out


def test_a_search_is_seen_while_it_runs_and_stopped(composed, tmp_path, capsys):
    config, seen = toy_config(tmp_path, "toy", "in_process", **FEW), {}

    def interfere():
        seen["running"] = json.loads(told(composed, capsys, tmp_path, "format=json"))
        said = told(composed, capsys, tmp_path, verb=stop)
        assert said == "the search of toy ends when its running trials have ended\n"
        seen["text"] = told(composed, capsys, tmp_path)

    study = search(config, interfered(interfere))
    running = seen["running"]
    assert running["searched"]
    assert running["stops"] is None
    assert [trial["trial"] for trial in running["running"]] == [2]
    assert running["completed"] + running["failed"] == 2
    assert "toy: a search is running (process " in seen["text"]
    assert "), asked to stop after the running trials" in seen["text"]
    assert [record.running for record in study.records()] == [False] * 3
    assert who_searches(config.study) is None
    # The same command goes on to the budget.
    assert len(search(config, interfered(None)).records()) > 3
    assert "toy: no search is running" in told(composed, capsys, tmp_path)


def test_stopped_now_its_trial_stays_open(tmp_path):
    config = toy_config(tmp_path, "toy", "in_process", **FEW)
    with pytest.raises(KeyboardInterrupt):
        search(config, interfered(lambda: ask_to_stop(config.study, now=True)))
    assert who_searches(config.study) is None
    records = Study.load(config.study).records()
    assert len(records) <= 4
    done = search(config, interfered(None)).records()
    assert [r.point for r in done[: len(records)]] == [r.point for r in records]


def test_there_is_nothing_to_stop(composed, tmp_path, capsys):
    with pytest.raises(StudyError, match="no study 'toy'"):
        told(composed, capsys, tmp_path, verb=stop)
    assert not list(tmp_path.iterdir())


def test_a_trial_closed_by_another_hand_does_not_end_the_search(tmp_path):
    config = toy_config(tmp_path, "toy", "in_process", **FEW)

    def close():
        url = f"sqlite:///{config.study.folder / 'study.db'}"
        study = optuna.load_study(study_name="toy", storage=url)
        study.tell(2, state=TrialState.FAIL)

    records = search(config, interfered(close)).records()
    assert len(records) > 3
    assert records[2].status is Status.MACHINE
    assert records[2].outcome.message == "closed from outside"
