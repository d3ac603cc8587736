"""Tasks beyond pretraining on a GPU: a trial ends where the CPU's does, and is trained again."""

import json
from dataclasses import replace

import pytest
import torch

from carbs_scaling.commands import train as train_verb
from carbs_scaling.commands.search import build_task, load_search
from carbs_scaling.task import TrialContext
from carbs_scaling.tasks.pretraining_recipe import trial_recipe
from carbs_scaling.training.loop import train
from carbs_scaling.trial import Completed
from tests.small_models import sums, trained_folder
from tests.tasks.test_classification import TINY as CLASSIFICATION
from tests.tasks.test_classification import searched, sentiments
from tests.tasks.test_finetuning import TINY as FINETUNING

pytestmark = pytest.mark.cuda


@pytest.fixture(params=["vit_digits", "classify", "checkpoint", "finetune", "lora"])
def preset(request, tmp_path):
    """Overrides of a small search of a preset, and the keys that `train` needs with its recipe."""
    name = request.param
    if name in ("finetune", "lora"):
        if name == "lora":
            pytest.importorskip("peft", reason="LoRA needs peft")
        model = f"model.path={trained_folder(tmp_path, (16, 2, 16, 256, 48))}"
        rows = f"data.paths=[{sums(tmp_path)}]"
        return (f"+experiment={name}", *FINETUNING, model, rows), ("task=finetuning", model)
    if name == "vit_digits":
        pytest.importorskip("sklearn", reason="digits are scikit-learn's")
        return (f"+experiment={name}", *CLASSIFICATION, "data.max_examples=150"), ("task=classification",)
    rows = ("examples=labelled", sentiments(tmp_path / "SST-2"), "model.sequence_length=48")
    if name == "checkpoint":
        rows = (
            *rows, "model=pretrained", f"model.path={trained_folder(tmp_path, (16, 1, 16, 256, 48))}"
        )  # fmt: skip
    return ("+experiment=classify", *CLASSIFICATION, *rows), ("task=classification",)


def test_a_trial_ends_where_the_cpus_does(preset, composed):
    task = build_task(*load_search(composed(*preset[0])))
    middle = {n: (d.low * d.high) ** 0.5 if d.log else (d.low + d.high) / 2 for n, d in task.space.items()}
    job = task.job(task.project(middle), TrialContext(0, 1))
    cpu, gpu = (train(replace(job, device=device)) for device in ("cpu", "cuda"))
    assert isinstance(gpu, Completed)
    assert gpu.device == torch.cuda.get_device_name(0)
    assert gpu.loss == pytest.approx(cpu.loss, abs=0.05)


def test_a_search_and_its_trial_trained_again(preset, composed, tmp_path, monkeypatch):
    _, study = searched(composed, tmp_path, *preset[0], "executor.device=cuda")
    done = [record for record in study.records() if record.completed]
    assert len(done) == len(study.records())
    assert {record.outcome.device for record in done} == {torch.cuda.get_device_name(0)}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.json").write_bytes(trial_recipe(done[0], study.identity, study.name).to_json())
    given = [*preset[1], "recipe=recipe.json", "train.name=again", "train.device=cuda"]
    train_verb.run(composed(*given, verb="train"), given)
    record = json.loads((tmp_path / "trained" / "again" / "training.json").read_text())
    assert record["loss"] == pytest.approx(done[0].loss, abs=0.01)
