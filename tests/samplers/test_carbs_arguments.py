"""What a caller may hand to the sampler, and what is said of the rest."""

import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution

from carbs_scaling.samplers.carbs import CarbsSampler
from carbs_scaling.samplers.sampler import new_study

optuna.logging.set_verbosity(optuna.logging.ERROR)

DISTRIBUTIONS = {
    "width": IntDistribution(8, 64, step=8),
    "learning_rate": FloatDistribution(1e-4, 1e-1, log=True),
}


def flops(point):
    return 1e9 * point["width"] ** 2


def roles(point):
    return {"params": point["width"] ** 2, "tokens": 1e6, "learning_rate": point["learning_rate"]}


def sampler(cost=flops, parts=roles, **arguments):
    return CarbsSampler(DISTRIBUTIONS, cost, parts, seed=arguments.pop("seed", 0), **arguments)


def test_unknown_options_are_refused():
    with pytest.raises(TypeError, match="candidatess"):
        sampler(candidatess=3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"target": (0, 1e9)}, "two positive numbers"),
        ({"target": 7e9}, "two positive numbers"),
        ({"target": (1e9, 1e9, 1e9)}, "two positive numbers"),
        ({"budget_flops": float("nan")}, "number of FLOPs"),
        ({"seed": -1}, "must not be negative"),
        (
            {"max_trial_flops": 1e9},
            "max_trial_flops=1e[+]09 allows no run: the cheapest legal one costs 6.4e[+]10",
        ),
        ({"allowed": lambda point: False}, "allowed"),
        ({"project": lambda point: None}, "gave None, which is no point"),
        ({"cost": lambda point: None}, "gave None, which is no positive number"),
        ({"cost": lambda point: 0}, "gave 0, which is no positive number"),
        ({"parts": lambda point: {"params": "big"}}, "gave params='big', which is no number"),
        ({"parts": lambda point: [1e6, 1e9]}, "which is no dict of params, tokens"),
        ({"parts": lambda point: {"parameters": 1e6}}, "named parameters: known are params"),
    ],
)
def test_arguments_that_cannot_be_are_refused_at_once(arguments, said):
    with pytest.raises(ValueError, match=said):
        sampler(**arguments)


@pytest.mark.filterwarnings("ignore:roles:UserWarning")  # where no point has any
@pytest.mark.parametrize("absent", [None, {}, {"params": None}, {"params": 0, "tokens": None}])
def test_a_point_may_lack_roles(absent):
    def of_narrow_ones(point):
        return roles(point) if point["width"] < 40 else absent

    own = sampler(parts=of_narrow_ones)
    assert own.space.has_role == (True, True, True, False)
    assert not sampler(parts=lambda point: absent).space.has_role[0]
    study = new_study(own)
    for _ in range(6):
        trial = study.ask(DISTRIBUTIONS)
        study.tell(trial, [3.0 - 0.01 * trial.params["width"], flops(trial.params)])


def test_an_infinite_budget_is_none():
    assert sampler(budget_flops=float("inf")).budget_flops is None


@pytest.mark.parametrize(
    "directions", [["minimize"], ["maximize", "minimize"], ["minimize", "minimize", "minimize"]]
)
def test_a_study_of_other_objectives_is_refused_in_words(directions):
    study = optuna.create_study(sampler=sampler(), directions=directions)
    with pytest.raises(ValueError, match="two objectives, loss and training FLOPs, both minimised"):
        study.ask(DISTRIBUTIONS)
