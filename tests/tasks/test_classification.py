"""Classification from its presets to a trained model: searches, their laws and recipes, and refusals."""

import io
import json

import pytest
from hydra import compose, initialize_config_dir
from rich.console import Console

from carbs_scaling.cli import configuration_folder
from carbs_scaling.commands import train as train_verb
from carbs_scaling.commands.search import build_task, load_search
from carbs_scaling.errors import ConfigError
from carbs_scaling.laws.runs.reading import records_frame
from carbs_scaling.report.live import SearchDisplay
from carbs_scaling.search import Search
from carbs_scaling.task import TrialContext
from carbs_scaling.tasks.pretraining_recipe import trial_recipe
from carbs_scaling.training.recipe_file import RecipeFile
from tests.small_models import trained_folder

TINY = (
    "executor=in_process", "budget.max_trial_fraction=0.5", "budget.trials=3", "sampler=random",
    "space.width={low: 16, high: 32}", "space.depth=1", "space.epochs={low: 1, high: 3}",
    "space.batch_size={low: 4, high: 16}", "budget.flops=2e9",
)  # fmt: skip


def sentiments(folder):
    """A GLUE folder that a few steps learn."""
    folder.mkdir()
    for name, count in (("train", 120), ("dev", 30)):
        rows = [f"this film is {'good' if i % 2 else 'bad'} number {i}\t{i % 2}" for i in range(count)]
        (folder / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    return f"data.paths=[{folder}]"


def searched(composed, tmp_path, *overrides):
    config, task_config = load_search(composed(*overrides, f"study.directory={tmp_path}/studies"))
    task = build_task(config, task_config)
    display = SearchDisplay(config.study.name, config.budget.flops, console=Console(file=io.StringIO()))
    return task, Search(config, task, display).run()


@pytest.mark.parametrize("name", ["vit_digits", "classify", "checkpoint"])
def test_a_preset_searches_and_its_trial_is_trained_again(name, composed, tmp_path, monkeypatch, capsys):
    if name == "vit_digits":
        pytest.importorskip("sklearn", reason="digits are scikit-learn's")
        overrides = (f"+experiment={name}", *TINY, "data.max_examples=150")
    else:
        overrides = ("+experiment=classify", *TINY, "model.sequence_length=48", "objective.metric=accuracy")
    if name == "classify":
        overrides = (*overrides, "data.max_examples=120", "objective.validation_tokens=4800")
    if name == "checkpoint":
        path = trained_folder(tmp_path, (16, 1, 16, 256, 48))
        rows = ("examples=labelled", sentiments(tmp_path / "SST-2"))
        overrides = (*overrides, *rows, "model=pretrained", f"model.path={path}")
    task, study = searched(composed, tmp_path, *overrides)
    records = study.records()
    assert len(records) == 3
    done = next(record for record in records if record.completed)
    metrics = done.outcome.metrics
    assert {"nats_per_label", "accuracy", "f1", "matthews", "epochs"} <= set(metrics)
    frame = records_frame(records)
    assert frame["loss"].dropna().iloc[0] == metrics["nats_per_label"]  # laws are of the loss
    if name != "vit_digits":
        assert done.loss == 1 - metrics["accuracy"]
    assert done.roles["tokens"] == pytest.approx(
        done.point["epochs"] * task.text.train_examples * task.text.form.sequence_length, rel=0.5
    )
    file = trial_recipe(done, study.identity, study.name)
    assert file.recipe == task.job(done.point, TrialContext(done.number, done.seed)).recipe
    assert RecipeFile.from_dict(json.loads(file.to_json()), "here") == file
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.json").write_bytes(file.to_json())
    given = ["task=classification", "recipe=recipe.json", "train.name=again"]
    train_verb.run(composed(*given, verb="train"), given)
    record = json.loads((tmp_path / "trained" / "again" / "training.json").read_text())
    assert record["loss"] == pytest.approx(done.loss, abs=1e-6)
    assert (
        "Classification"
        in json.loads((tmp_path / "trained/again/config.json").read_text())["architectures"][0]
    )
    if name == "vit_digits":
        given = ["recipe=recipe.json", "train.name=by_its_own_task"]
        with initialize_config_dir(str(configuration_folder()), version_base="1.3"):
            train_verb.run(compose("train", given), given)  # as the command line does
            with pytest.raises(ConfigError, match="say task=classification"):
                train_verb.run(compose("train", [*given, "task=finetuning"]), [*given, "task=finetuning"])
        record = json.loads((tmp_path / "trained" / "by_its_own_task" / "training.json").read_text())
        assert record["loss"] == pytest.approx(done.loss, abs=1e-6)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("model=vit",), "reads images: use task=classification"),
        (
            ("task=classification", "model=qwen3_moe", "examples=labelled", "data.paths=[a]"),
            "no head for classes",
        ),
        (("task=classification", "objective.metric=bits_per_byte"), "is not one of nats_per_label"),
        (("task=classification", "space.tokens_per_parameter=20"), "both say how long"),
        (("task=classification", "model=gpt2"), "examples=digits holds images"),
        (("task=classification", "data.label=x"), "data.label"),
        (("task=classification", "examples=stdlib"), "examples=stdlib holds texts"),
        (("+experiment=classify", "data.paths=[glue]"), "read by examples=labelled"),
        (("+experiment=vit_digits", "data.name=photos"), "read by examples=images"),
    ],
)
def test_each_mistake_is_one_line(composed, overrides, said):
    with pytest.raises(ConfigError, match=said) as error:
        build_task(*load_search(composed(*[f"+{o}" if o == "data.label=x" else o for o in overrides])))
    assert "\n" not in str(error.value)
