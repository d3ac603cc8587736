"""The presets of optimizers and parametrizations search, and what they trained can be trained again."""

import io
import random

import pytest
from rich.console import Console

from carbs_scaling.commands.search import build_task, load_search
from carbs_scaling.report.live import SearchDisplay
from carbs_scaling.search import Search
from carbs_scaling.task import TrialContext
from carbs_scaling.tasks.pretraining_recipe import trial_recipe
from carbs_scaling.training.recipe_file import RecipeFile

TINY = (
    "executor=in_process",
    "budget.flops=4e8",
    "budget.max_trial_fraction=0.5",
    "budget.trials=3",
    "space.width={low: 16, high: 32}",
    "space.depth=1",
    "space.tokens_per_parameter={low: 0.5, high: 4, log: true}",
    "space.batch_size={low: 1, high: 8, log: true}",
    "model.sequence_length=32",
    "objective.validation_tokens=512",
)


@pytest.mark.parametrize("name", ["adam", "muon", "mup", "nadam", "sgd"])
def test_a_preset_searches_and_its_trials_can_be_trained_again(name, tmp_path, composed):
    words = ["loss", "model", "token", "batch", "width", "depth", "scale", "law", "front", "search"]
    generator = random.Random(0)
    for index in range(60):
        (tmp_path / f"{index}.txt").write_text(" ".join(generator.choices(words, k=200)))
    folder = f"study.directory={tmp_path}/studies"
    text = ("data=files", f"data.paths=[{tmp_path}/*.txt]")
    config, task_config = load_search(composed(f"+experiment={name}", *TINY, *text, folder))
    task = build_task(config, task_config)
    display = SearchDisplay(config.study.name, config.budget.flops, console=Console(file=io.StringIO()))
    study = Search(config, task, display).run()
    records = study.records()
    assert len(records) == 3
    assert any(record.completed for record in records)
    assert study.identity["rates"]["optimizer"] == task_config.optimizer.name
    file = trial_recipe(records[0], study.identity, study.name)
    assert file.recipe == task.job(records[0].point, TrialContext(0, records[0].seed)).recipe
    assert RecipeFile.from_dict(file.to_dict(), "here") == file
