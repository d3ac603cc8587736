"""Every option of every group composes and passes the schema; wrong values are refused in one line."""

import pytest
import yaml

from carbs_scaling.cli import configuration_folder
from carbs_scaling.commands.search import load_search
from carbs_scaling.config_loading import load_config
from carbs_scaling.errors import ConfigError
from carbs_scaling.verb_config import FrontConfig
from tests.small_models import trained_folder

# What an option needs beside itself; a base file is never chosen by itself.
NEEDED = {
    ("data", "files"): ["data.paths=[a.txt]"],
    ("data", "hub"): ["data.name=some/text"],
    ("task", "command"): ["task.command=train"],
    ("task", "function"): ["task.function=mine:train"],
    ("model", "auto"): ["model.config={model_type: gpt2, n_embd: 64, n_head: 4, n_layer: 2}"],
    ("model", "pretrained"): ["model.path=FOLDER"],
    ("model", "vit"): ["task=classification"],
    ("objective", "labels"): ["task=classification"],
    ("task", "finetuning"): ["model.path=FOLDER", "data.paths=[a.jsonl]"],
    ("space", "finetuning"): ["task=finetuning", "model.path=FOLDER", "data.paths=[a.jsonl]"],
    ("space", "examples"): ["task=classification"],
    ("rows", "files"): ["task=finetuning", "model.path=FOLDER", "data.paths=[a.jsonl]"],
    ("rows", "hub"): ["task=finetuning", "model.path=FOLDER", "data.name=some/rows"],
    ("examples", "digits"): ["task=classification"],
    ("examples", "stdlib"): ["task=classification", "model=gpt2"],
    ("examples", "labelled"): ["task=classification", "model=gpt2", "data.paths=[a.tsv]"],
    ("examples", "labelled_hub"): ["task=classification", "model=gpt2", "data.name=some/text"],
    ("examples", "images"): ["task=classification", "data.name=some/images"],
}
FOLDERS = sorted(path for path in configuration_folder().iterdir() if path.is_dir())
OPTIONS = [
    (folder.name, file.stem)
    for folder in FOLDERS
    for file in sorted(folder.glob("*.yaml"))
    if file.stem != "base" and folder.name != "experiment"
]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes(composed, group, option, tmp_path):
    needed = NEEDED.get((group, option), [])
    if "model.path=FOLDER" in needed:
        path = trained_folder(tmp_path, (16, 1, 16, 256, 128))
        needed = [text.replace("FOLDER", path) for text in needed]
    chosen = [] if group == "task" and f"task={option}" in needed else [f"{group}={option}"]
    config, _ = load_search(composed(*chosen, *needed))
    assert config.budget.flops > 0


@pytest.mark.parametrize(
    "file", sorted((configuration_folder() / "experiment").glob("*.yaml")), ids=lambda f: f.stem
)
def test_every_experiment_composes_and_has_a_space(pretraining, file):
    if "override /task" in file.read_text():
        return  # tests/tasks/test_classification.py
    task = pretraining(f"+experiment={file.stem}", vocabulary_size=50257 if "gpu" in file.stem else 256)
    assert task.legal.cheapest_flops < task.flops(task.project({n: d.high for n, d in task.space.items()}))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_an_option_says_no_more_than_its_differences_from_the_base(folder):
    base = folder / "base.yaml"
    if not base.exists():
        return
    common = yaml.safe_load(base.read_text())
    for file in folder.glob("*.yaml"):
        own = yaml.safe_load(file.read_text())
        if file != base:
            assert own.pop("defaults") == ["base", "_self_"]
            assert {key: value for key, value in own.items() if key in common and common[key] == value} == {}


def test_a_base_alone_is_refused_in_one_line(composed):
    for group in ("model", "executor"):
        with pytest.raises(ConfigError) as error:
            load_search(composed(f"{group}=base"))
        assert "\n" not in str(error.value)


def test_front_composes(composed):
    config = load_config(FrontConfig, composed("format=csv", verb="front"))
    assert config.format == "csv"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("study.name=a/b", "study.name"),
        ("study.name=..", "study.name"),
        ("budget.flops=-1", "budget.flops"),
        ("model.flops_convention=8N", "6N+head"),
        (
            "task.name=chess",
            "task.name=chess is not one of classification, command, finetuning, function, pretraining",
        ),
        ("executor.name=cloud", "in_process, processes, ray, slurm"),
        ("+magic=1", "unknown key 'magic'"),
        ("training.micro_batch_tokens=0", "training.micro_batch_tokens"),
        ("+model.magic=1", "model.magic"),
        ("executor.workers=0", "executor.workers"),
        ("data.validation_fraction=1.5", "data.validation_fraction"),
        ("model.architecture=rnn", "gpt2, llama"),
        ("+model.key_value_heads=2", "model.key_value_heads"),
        ("objective.metric=accuracy", "nats_per_token"),
    ],
)
def test_an_impossible_value_is_named(search_config, override, said):
    with pytest.raises(ConfigError, match=said.replace("+", r"\+")) as error:
        search_config(override)
    assert "\n" not in str(error.value)


def test_a_value_of_the_wrong_type_is_refused(search_config):
    with pytest.raises(ConfigError, match=r"budget\.flops.*abc"):
        search_config("budget.flops=abc")


def test_a_fixed_dimension_can_be_searched_and_a_searched_one_fixed(pretraining):
    task = pretraining("space.weight_decay={low: 0.01, high: 1, log: true}", "space.width=64")
    assert "weight_decay" in task.space
    assert "width" not in task.space
