"""Every option of every group composes and passes the schema; wrong values are refused in one line."""

import pytest

from carbs_scaling.cli import configuration_folder
from carbs_scaling.config import FrontConfig, load_config
from carbs_scaling.errors import ConfigError
from carbs_scaling.search import build_space

GROUPS = (
    "study",
    "space",
    "budget",
    "model",
    "data",
    "optimizer",
    "schedule",
    "objective",
    "sampler",
    "executor",
)
OPTIONS = [
    (group, file.stem) for group in GROUPS for file in sorted((configuration_folder() / group).glob("*.yaml"))
]
NEEDED = {("data", "files"): ["data.paths=[a.txt]"], ("data", "hub"): ["data.name=some/text"]}


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes(search_config, group, option):
    config = search_config(f"{group}={option}", *NEEDED.get((group, option), []))
    assert config.budget.flops > 0


@pytest.mark.parametrize(
    "file", sorted((configuration_folder() / "experiment").glob("*.yaml")), ids=lambda f: f.stem
)
def test_every_experiment_composes_and_has_a_space(search_config, file):
    config = search_config(f"+experiment={file.stem}")
    space = build_space(config, vocabulary_size=50257 if config.data.source == "hub" else 256)
    assert space.cheapest_flops < config.budget.flops * config.budget.max_trial_fraction


def test_no_group_is_forgotten():
    folders = {path.name for path in configuration_folder().iterdir() if path.is_dir()}
    assert folders == {*GROUPS, "experiment"}


def test_front_composes(composed):
    config = load_config(FrontConfig, composed("format=csv", verb="front"))
    assert config.format == "csv"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("study.name=a/b", "study.name"),
        ("study.name=..", "study.name"),
        ("budget.flops=-1", "budget.flops"),
        ("budget.convention=8N", "6N+head"),
        ("executor.workers=0", "executor.workers"),
        ("data.validation_fraction=1.5", "data.validation_fraction"),
        ("model.architecture=rnn", "gpt2, llama"),
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


def test_a_fixed_dimension_can_be_searched_and_a_searched_one_fixed(search_config):
    config = search_config("space.weight_decay={low: 0.01, high: 1, log: true}", "space.width=64")
    space = build_space(config, vocabulary_size=256)
    assert "weight_decay" in space.distributions
    assert "width" not in space.distributions
