"""Samplers by name: their options, and each mistake in one line."""

import pytest
from optuna.distributions import FloatDistribution

from carbs_scaling.errors import ConfigError
from carbs_scaling.samplers import SAMPLERS
from carbs_scaling.samplers.sampler import build_sampler
from carbs_scaling.space.encoding import Encoding
from carbs_scaling.space.projection import LegalSpace

DISTRIBUTIONS = {
    "params": FloatDistribution(1e6, 1e8, log=True),
    "tokens": FloatDistribution(1e8, 1e10, log=True),
}


def build(name, **options):
    space = LegalSpace(Encoding(DISTRIBUTIONS), lambda p: 6.0 * p["params"] * p["tokens"], dict)
    return build_sampler(name, space, 3e18, 0, options, trial_overhead_flops=7.0)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("annealing", {}, "sampler.name=annealing is not one of " + ", ".join(SAMPLERS.names)),
        ("random", {"start": {}}, "sampler.start is not an option of random, which has none"),
        ("imbue_carbs", {"begin": {}}, "which has start"),
        ("imbue_carbs", {"start": [1]}, "values by name"),
        ("imbue_carbs", {"start": {"rate": 1}}, "sampler.start.rate is not searched; there are params"),
        ("imbue_carbs", {"start": {"tokens": "many"}}, "sampler.start.tokens='many' is not a number"),
        ("imbue_carbs", {"start": {"tokens": 1}}, "sampler.start.tokens=1.0 is outside"),
        ("nsga2", {"population_size": 1}, "sampler.population_size=1 must be a whole number, at least 2"),
        ("nsga2", {"population_size": 2.5}, "sampler.population_size"),
        ("qlognehvi", {"startup_trials": True}, "sampler.startup_trials"),
        ("carbs", {"candidates": 0}, "sampler.candidates=0 must be a whole number, at least 8"),
        ("carbs", {"members": "many"}, "sampler.members"),
        ("carbs", {"startup_fraction": 0}, "must be a finite number, above 0"),
        ("carbs", {"goal": "worst"}, "sampler.goal=worst is not one of front, best"),
        ("carbs", {"goal": "best", "target": [1e8, 1e9]}, "sampler.goal=best does not go with a target"),
        ("carbs", {"target": [1e8]}, "sampler.target=[100000000.0] must be two positive numbers"),
        ("carbs", {"target": "large"}, "such as [1e8,2e9]"),
        ("carbs", {"max_trial_flops": 1.0}, "allows no run: the cheapest legal one costs 6e+14"),
    ],
)
def test_each_mistake_is_one_line(name, options, said):
    with pytest.raises(ConfigError) as error:
        build(name, **options)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_options_reach_the_sampler():
    assert build("carbs", target=None).target is None
    own = build("carbs", target=["1e8", 2e9], members=3)
    assert own.target == (1e8, 2e9)
    assert own.options.members == 3
    assert own.options.overhead_flops == 7.0
    assert build("carbs", overhead_flops=1e3).options.overhead_flops == 1e3
