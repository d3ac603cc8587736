"""Finished runs from elsewhere: read from any table, learnt from, shown, and never charged."""

import json

import optuna
import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from carbs_scaling.errors import ConfigError, StudyError, WrongStudy
from carbs_scaling.ledger.imported import Reader, add_runs, read_rows
from carbs_scaling.ledger.study import Study, reader_of, spent_flops
from carbs_scaling.report.front import front_edges, front_rows
from carbs_scaling.samplers.carbs import CarbsSampler
from carbs_scaling.samplers.sampler import new_study
from carbs_scaling.trial import Status
from tests.toy_task import ToyTask, search, toy_config

SPACE = {
    "width": IntDistribution(16, 64, step=16),
    "rate": FloatDistribution(1e-3, 1e-1, log=True),
    "optimizer": CategoricalDistribution(["adam", "sgd"]),
    "momentum": FloatDistribution(0.0, 0.9),
}
QUICK = {"members": 4, "candidates": 32}


def of_sgd(point):
    return {**point, "momentum": point["momentum"] if point["optimizer"] == "sgd" else 0.5}


READER = Reader(SPACE, lambda p: 1e6 * p["width"], lambda p: {"params": p["width"]}, project=of_sgd)
ROW = {"width": 32, "rate": 0.01, "optimizer": "adam", "loss": 2.5}


@pytest.mark.parametrize(
    "row",
    [
        ROW,
        {**ROW, "width": "32", "rate": "1e-2"},
        {"config": str({**ROW, "loss": 9}), "summary": json.dumps({"loss": 2.5})},
        {"config": {name: {"value": ROW[name], "desc": None} for name in SPACE if name in ROW}, "loss": 2.5},
        {f"config/{name}": value for name, value in ROW.items()},
    ],
)
def test_a_row_is_a_run_however_its_values_are_nested(row):
    if "config" in row and isinstance(row["config"], str):
        row["config"] = row["config"].replace("'loss': 9", "'other': 9")
    (run,), refused = READER.runs([row], "table")
    assert not refused
    assert run.point == {"width": 32, "rate": 0.01, "optimizer": "adam", "momentum": 0.5}
    assert (run.loss, run.flops, run.roles) == (2.5, 32e6, {"params": 32.0})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"width": 32.5}, "which is no whole number"),
        ({"rate": -1}, "which is no positive number"),
        ({"optimizer": "lion"}, "none of adam, sgd"),
        ({"optimizer": "sgd"}, "it has no momentum"),
        ({"rate": None}, "it has no rate"),
        ({"loss": None}, "it has no loss"),
        ({"width": "__import__('os')"}, "no number"),
    ],
)
def test_a_row_that_is_no_run_is_left_out_with_its_reason(changes, said):
    found, (reason,) = READER.runs([{**ROW, **changes}], "table")
    assert not found
    assert said in reason


def test_columns_have_other_names_and_formulas():
    row = {"n_embd": 2, "rate": 0.01, "kind": "adam", "val": 2.5}
    columns = {"width": "16 * n_embd", "optimizer": "kind", "loss": "val"}
    assert READER.runs([row], "table", columns)[0][0].point["width"] == 32
    with pytest.raises(ConfigError, match=r"columns\.depth is not one of width"):
        READER.runs([row], "table", {"depth": "x"})
    assert "reads 'nothing'" in READER.runs([row], "table", {"width": "nothing + 1"})[1][0]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_files(tmp_path, suffix):
    rows = [{"Name": "a", **ROW}, {"Name": "b", **ROW, "loss": None}]
    frame, file = pd.DataFrame(rows), tmp_path / f"runs.{suffix}"
    write = {
        "csv": lambda: frame.to_csv(file, index=False),
        "tsv": lambda: frame.to_csv(file, index=False, sep="\t"),
        "jsonl": lambda: frame.to_json(file, orient="records", lines=True),
        "parquet": lambda: frame.to_parquet(file),
    }
    write[suffix]()
    found, refused = READER.runs(read_rows(file), str(file))
    assert [run.loss for run in found] == [2.5]
    assert refused == ["row 2: it has no loss, and no mark in a column diverged"]


def test_runs_are_added_once_and_may_lie_outside_the_space():
    study = new_study(optuna.samplers.RandomSampler())
    rows = [ROW, ROW, {**ROW, "width": 1000, "rate": 5.0}, {**ROW, "width": 48, "loss": None, "diverged": 1}]
    runs, _ = READER.runs(rows, "table")
    assert add_runs(study, runs, SPACE) == 3
    assert add_runs(study, runs, SPACE) == 0
    statuses = [record.status for record in Study(study).records()]
    assert statuses == [Status.COMPLETED, Status.COMPLETED, Status.DIVERGED]
    assert all(record.imported for record in Study(study).records())


def test_a_search_learns_from_them_does_not_pay_for_them_and_says_so(tmp_path):
    task = ToyTask()
    rows = [{"samples": 600 + 100 * i, "step_length": 0.03, "loss": 1.4 - 0.01 * i} for i in range(10)]
    rows.append({"samples": 20_000, "step_length": 0.03, "loss": 1.12})

    def run(name, trials):
        config = toy_config(tmp_path, name, "in_process", trials=trials, **QUICK)
        if trials == 3:
            runs, _ = reader_of(task).runs(rows, "runs.csv")
            config.study.folder.mkdir()
            Study.begin(config.study, task, 1e6, CarbsSampler(task.space, task.flops)).add_runs(task, runs)
        return search(config, task)

    run("broken", 3)
    study = run("broken", 5)
    records = study.records()
    assert [record.imported for record in records] == [True] * 11 + [False] * 5
    assert spent_flops(records) == sum(record.flops for record in records[11:])
    # The design is left out: what it would tell is known.
    assert max(abs(record.point["step_length"] - 0.03) for record in records[11:]) < 0.3
    assert {row["imported_from"] for row in front_rows(records)} >= {"runs.csv"}
    assert study.space == task.space
    assert isinstance(front_edges(study), list)
    for trials in (1, 2):
        config = toy_config(tmp_path, "whole", "in_process", trials=trials, warm_start=["broken"], **QUICK)
        whole = search(config, task)
    imported = [record for record in whole.records() if record.imported]
    assert len(imported) == len([r for r in records if r.completed or r.status is Status.DIVERGED])


def test_a_study_that_measures_something_else_is_not_learnt_from(tmp_path):
    search(toy_config(tmp_path, "metres", "in_process", sampler="random", trials=2))
    with pytest.raises(WrongStudy, match="another metric"):
        search(
            toy_config(tmp_path, "feet", "in_process", trials=1, warm_start=["metres"]),
            ToyTask(metric="feet"),
        )
    assert not (tmp_path / "feet").exists()
    with pytest.raises(StudyError, match="no study"):
        search(toy_config(tmp_path, "b", "in_process", warm_start=["none"]))
