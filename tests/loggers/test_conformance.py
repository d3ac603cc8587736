"""Every logger is run for real, offline: a study is a group, a trial a run with config, curve and FLOPs."""

import json
import sqlite3
import struct
from importlib.util import find_spec
from pathlib import Path

import pytest

from carbs_scaling.errors import ConfigError
from carbs_scaling.loggers import LOGGERS
from carbs_scaling.loggers.logger import LoggedRun, Loggers, require_installed
from carbs_scaling.trial import Completed
from tests.toy_task import ToyTask, search, toy_config

KINDS = {name: LOGGERS.load(name) for name in LOGGERS.names}


class WithCurve(ToyTask):
    """Leaves a curve of two points, and diverges in one trial."""

    def run(self, point, context):
        lines = [{"step": step, "train_loss": 3.0 - step, "progress": step / 2} for step in (1, 2)]
        Path(context.curve_path).write_text("\n".join(map(json.dumps, lines)))
        outcome = super().run(point, context)
        return outcome if context.number == 1 else Completed(loss=1.5, metrics={"height": 2.0})


def read_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    runs = {}
    for path in sorted((folder / "tensorboard").iterdir()):
        events = EventAccumulator(str(path))
        events.Reload()
        values = {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"]}
        runs[path.name] = {tag.split("/")[-1]: value for tag, value in values.items()}
    return runs


def leveldb_records(data):
    """The records of a LevelDB log after 7 bytes of W&B's own: blocks of 32 KiB, each part with a head."""
    at, begun = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # too little for a head: padding
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        begun += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield begun
            begun = b""


def read_wandb(folder):
    from wandb.proto import wandb_internal_pb2

    runs = {}
    for path in sorted((folder / "wandb").glob("offline-run-*/run-*.wandb")):
        name, values = "", {}
        for data in leveldb_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "run":
                name = record.run.display_name
                assert record.run.run_group == "logged"
                values |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            for item in (*record.history.item, *record.summary.update):
                values[item.key or item.nested_key[0]] = json.loads(item.value_json)
        runs[name] = values
    return runs


def read_mlflow(folder):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "logged"]
    return {
        r.info.run_name: {**r.data.params, **r.data.metrics}
        for r in client.search_runs([experiment.experiment_id])
    }


def read_trackio(folder):
    runs = {}
    (file,) = (folder.parent / "trackio").glob("logged*.db")
    with sqlite3.connect(file) as database:
        for name, metrics in database.execute("SELECT run_name, metrics FROM metrics ORDER BY id"):
            runs.setdefault(name, {}).update(json.loads(metrics))
        for name, config in database.execute("SELECT run_name, config FROM configs"):
            runs[name] |= json.loads(config)
    return runs


READERS = {
    "tensorboard": read_tensorboard,
    "wandb": read_wandb,
    "mlflow": read_mlflow,
    "trackio": read_trackio,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", KINDS)
def test_a_trial_is_a_run_with_config_curve_and_flops(name, tmp_path, monkeypatch):
    if find_spec(KINDS[name].package) is None:
        pytest.skip(f"needs the package {KINDS[name].package}: pip install 'carbs-scaling[{name}]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for trials in (1, 2):  # resumed
        study = search(
            toy_config(tmp_path, "logged", "in_process", sampler="random", trials=trials, logger=[name]),
            WithCurve(),
        )
    runs = READERS[name](tmp_path / "logged")
    assert sorted(runs) == ["logged-00000", "logged-00001"]
    record = study.records()[0]
    found = runs["logged-00000"]
    assert float(found["flops"]) == record.flops
    assert float(found["loss"]) == 1.5
    assert float(found["train_loss"]) == 1.0
    if name != "tensorboard":  # which keeps hyperparameters in a format of its plugin
        assert int(found["samples"]) == record.point["samples"]
        assert float(found["step_length"]) == pytest.approx(record.point["step_length"])


def test_an_unknown_or_absent_logger_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="logger=none is not one of mlflow, tensorboard"):
        search(toy_config(tmp_path, "a", "in_process", sampler="random", logger=["none"]))
    assert not (tmp_path / "a").exists()
    absent = type("Absent", (), {"package": "no_such_package_at_all"})
    with pytest.raises(ConfigError, match=r"carbs-scaling\[absent\]"):
        require_installed("absent", absent)


def test_a_logger_that_fails_is_left_out(tmp_path, monkeypatch):
    class Full:
        package, failures = "json", (KeyError,)

        def __init__(self, study, folder):
            self.calls = 0

        def log(self, run):
            raise KeyError("no space left")

    monkeypatch.setattr(type(LOGGERS), "load", lambda self, name: Full)
    loggers = Loggers(["full"], "mine", tmp_path)
    run = LoggedRun("mine", 3, {}, {"flops": 1.0}, "diverged", "why", [])
    assert run.name == "mine-00003"
    assert loggers.log(run) == ["logger full is left out from here on: 'no space left'"]
    assert loggers.log(run) == []
