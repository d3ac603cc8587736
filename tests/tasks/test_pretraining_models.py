"""What trials keep in the folder of their study: models as asked for, and checkpoints while they run."""

import json
from dataclasses import replace

import pytest
from safetensors.torch import load_file

from carbs_scaling.frontier import pareto_front
from carbs_scaling.ledger.study import Study
from carbs_scaling.task import TrialContext
from carbs_scaling.tasks import trained_model as module
from carbs_scaling.tasks.pretraining import Pretraining
from carbs_scaling.training.recipe_file import RecipeFile
from carbs_scaling.trial import Completed
from tests.toy_task import search

SMALL = (
    "space.width={low: 16, high: 32}", "space.depth=1", "space.tokens_per_parameter={low: 1, high: 8}",
    "space.learning_rate={low: 1e-3, high: 1e-1}", "space.batch_size=4", "model.sequence_length=32",
    "objective.validation_tokens=512", "executor=in_process", "executor.device=cpu", "sampler=random",
    "budget.flops=6e9", "budget.trial_overhead_flops=1e7",
)  # fmt: skip


@pytest.fixture
def study(search_config, pretraining, tmp_path):
    """Runs a small search; gives its records and its folder."""

    def run(*overrides):
        config = search_config(*SMALL, *overrides)
        config = replace(config, study=replace(config.study, directory=str(tmp_path / "studies")))
        run.folder = config.study.folder
        found = search(config, pretraining(*SMALL, *overrides))
        return found.records(), config.study.folder

    return run


def front_numbers(records):
    completed = [record for record in records if record.completed]
    front = pareto_front([r.flops for r in completed], [r.loss for r in completed])
    return {completed[i].number for i in front}


@pytest.mark.parametrize("keep", ["front", "all", "none"])
def test_models_are_kept_as_asked_for(study, keep):
    records, folder = study(f"training.keep_models={keep}", "training.checkpoint_minutes=0")
    kept = {int(path.name) for path in (folder / "models").glob("*")}
    completed = {record.number for record in records if record.completed}
    assert len(completed) >= 5
    assert front_numbers(records) < completed
    assert kept == {"front": front_numbers(records), "all": completed, "none": set()}[keep]
    assert not list(folder.glob("checkpoints/*"))
    for number in kept:
        model = folder / "models" / f"{number:05d}"
        assert json.loads((model / "training.json").read_text())["loss"] == records[number].loss
        assert RecipeFile.load(model / "recipe.json").recipe.params == records[number].roles["params"]
        assert load_file(model / "model.safetensors")


def test_a_trial_goes_on_where_it_was_killed(pretraining, tmp_path, monkeypatch):
    task = pretraining(*SMALL, "training.checkpoint_minutes=0", "budget.flops=1e12")
    point = task.project({"width": 32, "tokens_per_parameter": 2.0, "learning_rate": 1e-2})
    unbroken = task.run(point, TrialContext(4, 7))
    context = TrialContext(4, 7, study_folder=str(tmp_path))
    real = module.train

    def killed(steps, *_):
        if steps > 100:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "train", lambda job: real(job, killed))
    with pytest.raises(KeyboardInterrupt):
        task.run(point, context)
    steps = sorted(int(path.stem) for path in (tmp_path / "checkpoints" / "00004").glob("*.json"))
    assert len(steps) == 2
    seen = []
    monkeypatch.setattr(module, "train", lambda job: real(job, lambda step, *_: seen.append(step)))
    outcome = task.run(point, context)
    assert seen[0] > steps[-1]
    assert isinstance(outcome, Completed)
    assert outcome.loss == pytest.approx(unbroken.loss, abs=1e-6)
    assert outcome.progress == unbroken.progress == 1
    # Killed before the ledger had it: it is scored again, and takes no step.
    seen.clear()
    assert task.run(point, context).loss == outcome.loss
    assert seen == []
    task.recorded({3}, str(tmp_path))
    assert (tmp_path / "checkpoints" / "00004").is_dir()
    task.recorded({3, 4}, str(tmp_path))
    assert not (tmp_path / "checkpoints" / "00004").exists()


def test_checkpoints_outlive_a_kill_before_the_ledger_has_the_trial(study, monkeypatch):
    """And the search that goes on drops those of trials that were recorded right before a kill."""
    overrides = ("training.checkpoint_minutes=0", "budget.trials=2", "training.keep_models=all")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Study, "tell", killed)
        with pytest.raises(KeyboardInterrupt):
            study(*overrides)
    folder = study.folder
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["00000"]
    loss = json.loads((folder / "models" / "00000" / "training.json").read_text())["loss"]

    def killed_when_recorded(self, numbers, folder):
        if numbers:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Pretraining, "recorded", killed_when_recorded)
        with pytest.raises(KeyboardInterrupt):
            study(*overrides)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["00000"]
    records, _ = study(*overrides)
    assert [record.number for record in records] == [0, 1]
    assert records[0].loss == loss
    assert list((folder / "checkpoints").iterdir()) == []
