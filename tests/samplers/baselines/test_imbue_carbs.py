"""CARBS as published."""

import pytest
from optuna.distributions import FloatDistribution, IntDistribution

from carbs_scaling.samplers.baselines.imbue_carbs import start_point
from carbs_scaling.space.encoding import Encoding
from carbs_scaling.space.projection import LegalSpace


def test_the_start_is_the_middle_but_for_what_is_named():
    distributions = {
        "params": IntDistribution(10**6, 10**8, log=True),
        "tokens": FloatDistribution(1e8, 1e10, log=True),
        "learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
    }
    space = LegalSpace(Encoding(distributions), lambda p: 6.0 * p["params"] * p["tokens"], dict)
    start = start_point(space, {"learning_rate": "2e-3"})
    assert start["learning_rate"] == 2e-3
    assert start["tokens"] == pytest.approx(1e9)
    assert start["params"] == 10**7
