"""A recipe file comes back as it was written, and anything else is refused in one line."""

import json
from dataclasses import replace

import pytest

from carbs_scaling.errors import ConfigError
from carbs_scaling.laws.recommend.predicted_curve import PredictedCurve
from carbs_scaling.tasks.pretraining_recipe import data_settings
from carbs_scaling.training.recipe_file import Prediction, RecipeFile

CURVE = PredictedCurve((0.1, 0.9), (4.0, 3.1), (3.5, 2.6), (4.5, 3.6), 7)


@pytest.fixture
def recipe_file(job, data_config) -> RecipeFile:
    """The recipe of a run of about a second."""
    return RecipeFile(
        name="small",
        recipe=job.recipe,
        optimizer=job.optimizer,
        schedule=replace(job.schedule, decay_shape="linear", decay_exponent=1.0),
        objective=job.objective,
        flops_convention="6N",
        data=data_settings(data_config(), job.text),
        data_sha256=job.text.sha256,
        source="a test",
        prediction=Prediction(3.0, (2.5, 3.5), 0.9, 1e4, 1e4, ("far",), CURVE),
    )


def test_it_comes_back_as_it_was_written(recipe_file, tmp_path):
    file = tmp_path / "recipe.json"
    for written in (
        recipe_file,
        replace(recipe_file, prediction=None, data_sha256=None),
        replace(recipe_file, prediction=replace(recipe_file.prediction, curve=None)),
        replace(recipe_file, optimizer=replace(recipe_file.optimizer, gradient_clip_norm=float("inf"))),
    ):
        file.write_bytes(written.to_json())
        assert RecipeFile.load(file) == written


def test_flops_are_those_of_the_convention(recipe_file):
    recipe = recipe_file.recipe
    assert recipe_file.flops == 6 * recipe.params * recipe.tokens
    assert recipe_file.to_dict()["flops"]["6N"] == recipe_file.flops


def leaves(values, path=()):
    for key, value in values.items():
        yield (*path, key)
        if isinstance(value, dict) and key not in ("flops", "data"):
            yield from leaves(value, (*path, key))


def test_every_field_is_asked_for(recipe_file, tmp_path):
    file = tmp_path / "recipe.json"
    # What follows from the others, and is there for readers.
    derived = {"flops"}
    for path in list(leaves(recipe_file.to_dict())):
        values = recipe_file.to_dict()
        group = values
        for name in path[:-1]:
            group = group[name]
        del group[path[-1]]
        file.write_text(json.dumps(values))
        if path[0] in derived:
            assert RecipeFile.load(file) == recipe_file
            continue
        with pytest.raises(ConfigError, match=r"recipe\.json") as error:
            RecipeFile.load(file)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "not a recipe"),
        ("[1]", "not a recipe"),
        ('{"kind": "law"}', "not a recipe"),
        ('{"kind": "carbs_scaling recipe", "format": 0}', "format 0"),
    ],
)
def test_what_is_no_recipe_is_refused(tmp_path, content, said):
    file = tmp_path / "recipe.json"
    file.write_text(content)
    with pytest.raises(ConfigError, match=said):
        RecipeFile.load(file)
    with pytest.raises(ConfigError, match="No such file"):
        RecipeFile.load(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", -1),
        ("steps", "many"),
        ("params", 5),
        ("peak_learning_rate", 0),
        ("model", 3),
        ("name", "../../escape"),
        ("name", "/tmp/escape"),
        ("name", ""),
    ],
)
def test_values_that_cannot_be_are_refused(recipe_file, tmp_path, name, value):
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps({**recipe_file.to_dict(), name: value}))
    with pytest.raises(ConfigError) as error:
        RecipeFile.load(file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [{"loss": [1.0]}, {"share": [0.9, 0.1]}, {"low": [9.0, 9.0]}, {"high": "no numbers"}, {"runs": None}],
)
def test_a_predicted_curve_that_cannot_be_is_refused(recipe_file, tmp_path, change):
    values = recipe_file.to_dict()
    values["prediction"]["curve"].update(change)
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=r"recipe\.json") as error:
        RecipeFile.load(file)
    assert "\n" not in str(error.value)
