"""The presets of C4 and The Pile against a stand-in of the hub: to a front, through drops and a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from carbs_scaling.commands.search import build_task, load_search
from carbs_scaling.ledger.study import Study
from carbs_scaling.task import TrialContext
from carbs_scaling.training.loop import train
from tests import hub_stand_in

# Two trials of 123,000 tokens of a text of some 150,000.
SMALL = (
    "executor=in_process",
    "budget.flops=1e12",
    "budget.max_trial_fraction=1",
    "budget.min_trial_fraction=0",
    "budget.trials=2",
    "space.width=16",
    "space.depth=1",
    "space.tokens_per_parameter=40",
    "space.batch_size=16",
    "model.sequence_length=32",
    "objective.validation_tokens=2048",
    "training.checkpoint_minutes=0",
    "data.vocabulary_size=400",
    "data.block_tokens=16384",
)
# The sixth block begins beyond the documents that are read together with the first ones.
LATE_BLOCK = 5
DATA_SETS = {
    "c4": ("allenai/c4", lambda: hub_stand_in.c4(8, 250), "en/c4-train.{:05d}-of-01024.json.gz"),
    "pile": ("monology/pile-uncopyrighted", lambda: hub_stand_in.pile(8, 250), "train/{:02d}.jsonl.zst"),
}


def last_checkpoint(study: Path) -> tuple[int, dict] | None:
    """Trial and state of the newest checkpoint of a running search."""
    files = sorted(study.glob("checkpoints/*/[0-9]*.json"))
    try:
        return (int(files[-1].parent.name), json.loads(files[-1].read_text())["state"]) if files else None
    except (OSError, ValueError):  # just dropped
        return None


@pytest.mark.slow
@pytest.mark.parametrize("name", list(DATA_SETS))
def test_a_preset_is_killed_and_goes_on_at_the_same_document(name, tmp_path, composed, monkeypatch):
    repository, make, shard = DATA_SETS[name]
    monkeypatch.setenv("CARBS_SCALING_CACHE", str(tmp_path / "cache"))
    command = [sys.executable, "-m", "carbs_scaling.cli", "search", f"+experiment={name}", *SMALL]
    with hub_stand_in.StandIn({repository: make()}) as hub:
        hub.drops[shard.format(1)] = [1000]
        environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf")}
        first = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
        study = tmp_path / "studies" / name
        while (kept := last_checkpoint(study)) is None or kept[1]["text"]["block"] < LATE_BLOCK:
            assert first.poll() is None
            time.sleep(0.02)
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert hub.drops[shard.format(1)] == []
        number, state = last_checkpoint(study) or kept
        assert state["text"]["document"] > 3 * 250

        for block in tmp_path.glob("cache/*/blocks/*"):
            block.unlink()  # as on another machine
        requests = len(hub.requests)
        again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert again.returncode == 0, again.stderr
        assert (study / "front.csv").exists()
        after = hub_stand_in.StandIn({}, hub.requests[requests:]).read_files()

    # The first shard says which columns there are; the second had been read, and is not read again ...
    assert shard.format(1) not in after[: after.index(shard.format(4))]
    config, task_config = load_search(
        composed(f"+experiment={name}", *SMALL, f"study.directory={tmp_path}/studies")
    )
    records = Study.load(config.study).records()
    assert [record.completed for record in records] == [True, True]
    # ... and the trial ends as the unbroken one.
    task = build_task(config, task_config)  # of token files that are there: the hub is gone
    record = records[number]
    unbroken = train(task.job(record.point, TrialContext(number, record.seed)))
    assert unbroken.loss == record.loss
    assert record.metrics["epochs"] == unbroken.metrics["epochs"] == 1.0
