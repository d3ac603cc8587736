"""Named dimensions, what formulas say of them, and the words of a command."""

from dataclasses import fields

import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution

from carbs_scaling.errors import ConfigError
from carbs_scaling.tasks.programs.space import ProgramSpace, RolesConfig, ShapeConfig
from carbs_scaling.tasks.programs.words import Words

NO_ROLES = RolesConfig(None, None, None, None)
NO_SHAPE = ShapeConfig(None, None, None, 64, None, None, "6N")
SPACE = {
    "width": {"low": 64, "high": 512, "log": True, "multiple_of": 64},
    "learning_rate": {"low": "1e-4", "high": 1e-1, "log": True},
    "heads": [1, 2, 4],
    "optimizer": ["adam", "sgd"],
    "momentum": {"low": 0.5, "high": 0.99, "when": {"optimizer": "sgd"}},
    "nesterov": {"choices": [True, False], "when": {"optimizer": ["sgd"]}},
    "depth": 4,
}
POINT = {
    **{"width": 100, "learning_rate": 1e-3, "heads": 3, "optimizer": "adam"},
    **{"momentum": 0.9, "nesterov": False},
}


def roles(**given) -> RolesConfig:
    return RolesConfig(**{field.name: given.get(field.name) for field in fields(RolesConfig)})


def test_dimensions_of_every_kind():
    space = ProgramSpace(SPACE, NO_ROLES, NO_SHAPE)
    assert list(space.distributions) == [name for name in SPACE if name != "depth"]
    assert space.distributions["width"] == IntDistribution(64, 512, log=True)
    assert space.distributions["nesterov"] == CategoricalDistribution([True, False])
    legal = space.project(POINT)
    assert (legal["width"], legal["heads"]) == (128, 4)
    assert space.project(legal) == legal
    assert space.roles(legal) == {"learning_rate": 1e-3}
    assert space.flops_convention == "trials"
    assert space.flops(legal) == 1.0


def test_points_that_differ_only_where_it_does_not_matter_are_one_point():
    space = ProgramSpace(SPACE, NO_ROLES, NO_SHAPE)
    assert space.project(POINT) == space.project({**POINT, "momentum": 0.6, "nesterov": True})
    with_sgd = {**POINT, "optimizer": "sgd"}
    assert space.project(with_sgd) != space.project({**with_sgd, "momentum": 0.6})
    words = Words(
        "run --momentum {momentum} --opt={optimizer} x{nesterov} --last", "task.command", space.known
    )
    off = space.not_applying(space.project(POINT))
    assert off == {"momentum", "nesterov"}
    assert words.filled(space.values(POINT), off) == ["run", "--opt=adam", "--last"]
    assert words.filled({**with_sgd}) == ["run", "--momentum", "0.9", "--opt=sgd", "xFalse", "--last"]


def test_formulas_give_roles_flops_and_what_may_run():
    given = roles(params="12 * depth * width ** 2", tokens="20 * params", batch_tokens=4096)
    space = ProgramSpace(SPACE, given, NO_SHAPE, allowed="width // heads >= 64")
    legal = space.project(POINT)
    params = 12 * 4 * 128**2
    assert space.roles(legal) == {
        "params": params,
        "tokens": 20 * params,
        "learning_rate": 1e-3,
        "batch_tokens": 4096,
    }
    assert space.flops(legal) == 6 * params * 20 * params
    assert not space.may_run(legal)
    assert space.may_run({**legal, "heads": 2})
    own = ProgramSpace(SPACE, given, NO_SHAPE, flops="tokens * width")
    assert own.flops(legal) == 20 * params * 128


def test_a_shape_of_ours_counts_parameters_and_flops():
    shape = ShapeConfig("gpt2", None, None, "width // heads", 256, 128, "6N+head")
    space = ProgramSpace(SPACE, roles(tokens=1e6), shape)
    legal = space.project(POINT)
    params = 12 * 4 * 128**2
    assert space.roles(legal)["params"] == params
    assert space.flops(legal) == (6 * params + 6 * 256 * 128) * 1e6
    assert space.details(legal)["vocabulary_size"] == 256


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"x": {"low": 0, "high": 1, "lg": True}}, "space.x.lg is not one of"),
        ({"log": {"low": 0, "high": 1}}, "space.log"),
        ({"x": [], "y": 1}, "space.x"),
        ({"x": {"low": 0, "high": 1, "when": {"y": 1}}}, "stands above it"),
        ({"y": ["a", "b"], "x": {"low": 0, "high": 1, "when": {"y": "c"}}}, "y is one of a, b"),
        ({"x": {"choices": ["a", "a"]}}, "different"),
    ],
)
def test_what_cannot_be_a_dimension_is_refused(space, said):
    with pytest.raises(ConfigError, match=said):
        ProgramSpace(space, NO_ROLES, NO_SHAPE)


def test_formulas_without_a_value_are_refused_before_any_trial():
    with pytest.raises(ConfigError, match=r"task\.flops"):
        ProgramSpace({"x": {"low": 0, "high": 1}}, NO_ROLES, NO_SHAPE, flops="1 / x")
    with pytest.raises(ConfigError, match="'height', which is none of"):
        ProgramSpace({"x": {"low": 0, "high": 1}}, roles(params="height"), NO_SHAPE)


def test_a_command_is_split_as_a_shell_would_and_no_value_becomes_a_word():
    values = {"x": 0.5, "folder": "/a b/$(true)"}
    words = Words(
        """prog "--out={folder}/m.json" {int(x * 4)} '{{"a": 1}}' a\\ b""", "task.command", frozenset(values)
    )
    assert words.filled(values) == ["prog", "--out=/a b/$(true)/m.json", "2", '{"a": 1}', "a b"]
    for bad in ("prog {x", "prog 'x", "", "prog {unknown}", "prog {}"):
        with pytest.raises(ConfigError, match=r"task\.command"):
            Words(bad, "task.command", frozenset(values))
