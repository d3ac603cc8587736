"""Two processes train what one does, by DDP and FSDP2; their checkpoints and models serve one as well."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from carbs_scaling.data.windows import validation_indices, validation_windows
from carbs_scaling.errors import CarbsScalingError, ConfigError
from carbs_scaling.tasks.pretraining_recipe import data_settings
from carbs_scaling.training import launch
from carbs_scaling.training.checkpoint import CheckpointPlan
from carbs_scaling.training.distributed import Ranks
from carbs_scaling.training.evaluation import evaluate
from carbs_scaling.training.loop import train
from carbs_scaling.training.recipe_file import RecipeFile

# Each of the processes that torchrun starts. The second one dies by SIGKILL in the last run.
SCRIPT = """
import json, os, shutil, signal, sys
from dataclasses import replace
from pathlib import Path

from carbs_scaling.data.prepared import PreparedText
from carbs_scaling.errors import CarbsScalingError
from carbs_scaling.training.checkpoint import CheckpointPlan
from carbs_scaling.training.distributed import Ranks
from carbs_scaling.training.launch import joined
from carbs_scaling.training.job import TrainingJob
from carbs_scaling.training.loop import train
from carbs_scaling.training.recipe_file import RecipeFile

folder = Path(sys.argv[1])
file = RecipeFile.load(folder / "recipe.json")
text = PreparedText(**json.loads((folder / "text.json").read_text()))
job = TrainingJob(
    recipe=file.recipe, text=text, optimizer=file.optimizer, schedule=file.schedule,
    objective=file.objective, device="cpu", compile=False, micro_batch_tokens=32, curve_path=None,
)

class Half(Exception):
    pass

def stops(steps, seconds, loss):
    if steps >= 100:
        raise Half

def dies(steps, seconds, loss):
    if ddp.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)

def kept(name):
    return CheckpointPlan(str(folder / name), 0, "this run")

try:
    with joined("cpu", "ddp") as ddp:
        fsdp = Ranks(ddp.rank, ddp.size, "fsdp", ddp.device)
        losses = {"ddp": train(job, None, ddp).loss}
        # From the checkpoint that one process wrote.
        losses["ddp from one"] = train(replace(job, checkpoints=kept("one")), None, ddp).loss
        sharded = replace(job, checkpoints=kept("fsdp"), model_folder=str(folder / "model"))
        try:
            train(sharded, stops, fsdp)
        except Half:
            pass
        fsdp.on_first(lambda: shutil.copytree(folder / "fsdp", folder / "half"))
        outcome = train(sharded, None, fsdp)
        losses["fsdp"] = outcome.loss
        losses["float32"] = outcome.metrics["float32_nats_per_token"]
        losses["device"] = outcome.device
        if ddp.first:
            (folder / "losses.json").write_text(json.dumps(losses))
        train(job, dies, ddp)
except CarbsScalingError as error:
    print(f"one line: {error}", file=sys.stderr)
    os._exit(1)
"""


class Half(Exception):
    """Breaks a run off."""


def stops(steps, seconds, loss):
    if steps >= 100:
        raise Half


@pytest.mark.slow
@pytest.mark.skipif(not dist.is_available(), reason="this PyTorch has no torch.distributed")
def test_two_processes_train_what_one_does(changed, data_config, tmp_path):
    # Three sequences, one at a time: the second process has one of them, and takes part in two passes.
    job = replace(changed(steps=200, batch_size=3), micro_batch_tokens=32)
    folder = tmp_path / "two"
    folder.mkdir()
    (folder / "text.json").write_text(json.dumps(asdict(job.text)))
    file = RecipeFile(
        name="two", recipe=job.recipe, optimizer=job.optimizer, schedule=job.schedule,
        objective=job.objective, flops_convention="6N", data=data_settings(data_config(), job.text),
        data_sha256=job.text.sha256, source="a test",
    )  # fmt: skip
    (folder / "recipe.json").write_bytes(file.to_json())
    (folder / "script.py").write_text(SCRIPT)
    expected = train(job).loss
    with pytest.raises(Half):
        train(replace(job, checkpoints=CheckpointPlan(str(folder / "one"), 0, "this run")), stops)

    root = str(Path(__file__).parents[2])
    result = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         str(folder / "script.py"), str(folder)],
        capture_output=True, text=True, timeout=900,
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"},
    )  # fmt: skip
    assert (folder / "losses.json").exists(), result.stderr
    losses = json.loads((folder / "losses.json").read_text())
    assert losses["device"] == "2 x cpu"
    for name in ("ddp", "ddp from one", "fsdp"):
        assert losses[name] == pytest.approx(expected, abs=1e-3), name
    # Killed, the second process takes the first with it: nobody waits.
    assert result.returncode != 0

    # What FSDP2 had kept half-way, one process goes on from, and what it saved is a plain model.
    half = CheckpointPlan(str(folder / "half"), 0, "this run")
    seen = []
    later = train(replace(job, checkpoints=half), lambda steps, *_: seen.append(steps))
    assert later.loss == pytest.approx(expected, abs=1e-3)
    assert seen[0] > 90
    from transformers import AutoModelForCausalLM

    held_out = validation_windows(job.text, 32)
    indices = validation_indices(len(held_out), 32, job.objective.validation_tokens)
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    loss = evaluate(model, held_out, indices, torch.device("cpu"), in_float32=True)
    assert loss == pytest.approx(losses["float32"], abs=1e-4)


@pytest.fixture
def ranks(monkeypatch):
    """Builds one of several processes that do not talk."""
    monkeypatch.setattr(dist, "new_group", lambda **_: None)
    return Ranks


def test_shares_are_the_batch(ranks):
    batch = np.arange(11)
    shares = [ranks(rank, 4).share(batch) for rank in range(4)]
    assert [len(share) for share in shares] == [3, 3, 3, 2]
    assert np.concatenate(shares).tolist() == batch.tolist()


@pytest.mark.parametrize(
    ("parallel", "changes", "said"),
    [
        ("ddp", {"batch_size": 3}, "a batch of 3 sequences cannot be split over 4"),
        ("ddp", {"noise": True}, "noise scale is measured by one process"),
        ("fsdp", {"optimizer": "muon"}, "optimizer muon does not work on the shards"),
        ("fsdp", {"compiled": True}, "works with train.parallel=ddp"),
        ("ddp", {"optimizer": "muon", "compiled": True}, None),
        ("fsdp", {}, None),
    ],
)
def test_what_several_processes_cannot_train_is_refused(ranks, changed, parallel, changes, said):
    job = changed(batch_size=changes.get("batch_size", 8))
    objective = replace(job.objective, gradient_noise_scale=changes.get("noise", False))
    call = (job.recipe, changes.get("optimizer", "adamw"), objective, changes.get("compiled", False))
    Ranks(0, 1, parallel).check(*call)
    if said is None:
        ranks(0, 4, parallel).check(*call)
        return
    with pytest.raises(ConfigError, match=said) as error:
        ranks(0, 4, parallel).check(*call)
    assert "\n" not in str(error.value)


def test_the_device_of_a_process(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert launch._own_device("auto") == torch.device("cuda", 1)
    assert launch._own_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="is one GPU"):
        launch._own_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match="3 processes need as many GPUs"):
        launch._own_device("auto")


def test_the_launcher_names_the_process_that_was_killed(monkeypatch):
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
    from torch.distributed.launcher import api

    def fails(codes):
        failures = {
            rank: ProcessFailure(local_rank=rank, pid=10**7 + rank, exitcode=code, error_file="none")
            for rank, code in codes.items()
        }

        def start(config, entrypoint):
            def wait(*arguments):
                assert arguments == ("-m", "carbs_scaling.cli", "train", "train.processes=2")
                raise ChildFailedError("train", failures)

            return wait

        monkeypatch.setattr(api, "elastic_launch", start)

    fails({0: 1, 1: -9})
    with pytest.raises(CarbsScalingError, match="process 1 of 2 was killed by SIGKILL"):
        launch.launch(2, ["train", "train.processes=2"])
    fails({0: 2})  # it has said why
    with pytest.raises(SystemExit) as end:
        launch.launch(2, ["train", "train.processes=2"])
    assert end.value.code == 2
