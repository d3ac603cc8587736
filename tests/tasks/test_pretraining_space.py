"""What is proposed can be run: projection, whole steps, the limit on cost, errors that say what to change."""

import math

import numpy as np
import pytest

from carbs_scaling.errors import CarbsScalingError, ConfigError
from carbs_scaling.laws.recommend.peak import peak_learning_rate
from carbs_scaling.tasks.pretraining_config import ModelConfig
from carbs_scaling.tasks.pretraining_space import MINIMUM_STEPS, PretrainingSpace

MODEL = ModelConfig("gpt2", 16, 128, "6N+head+attention")
SPECIFICATION = {
    "width": {"low": 16, "high": 128, "log": True},
    "depth": {"low": 1, "high": 6},
    "learning_rate": {"low": "1e-4", "high": 0.1, "log": True},
    "batch_size": {"low": 2, "high": 256, "log": True},
    "tokens_per_parameter": {"low": 1, "high": 400, "log": True},
    "weight_decay": 0.1,
    "beta1": 0.9,
    "beta2": 0.95,
    "epsilon": "1e-8",
    "adamw_rate_ratio": 1,
    "warmup_fraction": 0.1,
}


def make(max_trial_flops=math.inf, **changes):
    return PretrainingSpace({**SPECIFICATION, **changes}, MODEL, 256, max_trial_flops)


def random_points(space, count):
    generator = np.random.default_rng(0)
    for _ in range(count):
        yield {
            name: float(np.exp(generator.uniform(np.log(d.low), np.log(d.high))))
            for name, d in space.searched.items()
        }


@pytest.mark.parametrize("max_trial_flops", [math.inf, 1e11, 2e9])
def test_projection_is_legal_affordable_and_idempotent(max_trial_flops):
    space = make(max_trial_flops)
    for point in random_points(space, 300):
        legal = space.project(point)
        recipe = space.recipe(legal, seed=0)
        assert recipe.shape.width % MODEL.head_size == 0
        assert recipe.steps >= MINIMUM_STEPS
        assert space.flops(legal) <= max_trial_flops
        again = space.project(legal)
        assert again == pytest.approx(legal, rel=1e-12)
        for name, distribution in space.distributions.items():
            assert distribution._contains(distribution.to_internal_repr(legal[name]))


def test_projection_keeps_what_is_legal():
    space = make()
    legal = space.project(
        {"width": 64, "depth": 2, "learning_rate": 3e-3, "batch_size": 8, "tokens_per_parameter": 20}
    )
    recipe = space.recipe(legal, seed=7)
    assert (recipe.shape.width, recipe.shape.depth, recipe.batch_size, recipe.seed) == (64, 2, 8, 7)
    assert recipe.tokens == pytest.approx(20 * recipe.params, rel=0.001)
    assert legal["tokens_per_parameter"] == recipe.tokens / recipe.params


def test_the_cheapest_run_is_the_cheapest():
    space = make()
    assert (
        min(space.flops(space.project(point)) for point in random_points(space, 500))
        >= 0.95 * space.cheapest_flops
    )


def test_roles_are_in_the_laws_units():
    space = make()
    point = space.project(
        {"width": 32, "depth": 2, "learning_rate": 1e-2, "batch_size": 4, "tokens_per_parameter": 50}
    )
    assert space.roles(point)["params"] == 12 * 2 * 32**2
    assert space.roles(point)["batch_tokens"] == 4 * 128


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"width": 50}, "multiple of model.head_size=16"),
        ({"width": {"low": 17, "high": 31}}, "multiple of model.head_size=16"),
        ({"width": [32, 40]}, "multiple of model.head_size=16"),
        ({"learning_rate": "high"}, "not a number"),
        ({"dropout": 0.1}, "not a dimension"),
        ({"beta2": 1.0}, "between 0 and 1"),
    ],
)
def test_an_impossible_space_says_why(changes, said):
    with pytest.raises(ConfigError, match=said):
        make(**changes)


def test_a_budget_below_the_cheapest_run_is_refused():
    with pytest.raises(ConfigError, match=r"budget\.flops"):
        make(max_trial_flops=1e6)


def test_everything_fixed_is_one_recipe_that_a_search_refuses(pretraining):
    fixed = {"width": 16, "depth": 1, "learning_rate": 0.1, "batch_size": 2, "tokens_per_parameter": 10}
    space = make(**fixed)
    assert space.distributions == {}
    assert space.recipe({}, 0).batch_size == 2
    with pytest.raises(ConfigError, match="fixed"):
        pretraining(*(f"space.{name}={value}" for name, value in fixed.items()))


def test_the_learning_rate_may_follow_a_law():
    space = make(learning_rate="Step Law")
    assert "learning_rate" not in space.searched
    for point in map(space.project, random_points(space, 5)):
        recipe = space.recipe(point, seed=0)
        at = recipe.params, recipe.tokens, recipe.batch_tokens
        assert recipe.learning_rate == peak_learning_rate("Step Law", *at).learning_rate
        assert "learning_rate" not in space.roles(point)


@pytest.mark.parametrize(
    ("law", "message"),
    [("astrology", "no such file"), ("Hoffmann", "has no learning rate")],
)
def test_laws_that_do_not_answer_are_refused(law, message):
    with pytest.raises(CarbsScalingError, match=message):
        make(learning_rate=law)


def test_details_say_the_whole_recipe_and_its_flops_in_every_convention():
    space = make()
    point = space.project(
        {"width": 32, "depth": 2, "learning_rate": 1e-2, "batch_size": 4, "tokens_per_parameter": 50}
    )
    details, recipe = space.details(point), space.recipe(point, seed=0)
    assert (details["width"], details["depth"], details["steps"]) == (32, 2, recipe.steps)
    assert (details["weight_decay"], details["architecture"]) == (0.1, "gpt2")
    assert details["flops_6N"] == 6 * recipe.params * recipe.tokens
    assert details["flops_6N+head+attention"] == space.flops(point)
    assert "seed" not in details
