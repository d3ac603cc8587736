"""Ranges, ladders and numbers of a configuration: what they allow, and the line that refuses one."""

import pytest
from optuna.distributions import FloatDistribution, IntDistribution

from carbs_scaling.errors import ConfigError
from carbs_scaling.space.dimensions import COUNT, POSITIVE, Dimension, Rule, multiple_of, parse_dimensions

RULES = {"size": multiple_of(16, "tile"), "count": COUNT, "rate": POSITIVE}
GIVEN = {"size": 32, "count": 3, "rate": 0.1}


def parse(**changes):
    return parse_dimensions({**GIVEN, **changes}, RULES)


def test_a_number_is_fixed_and_a_range_is_searched():
    searched, fixed = parse(rate={"low": "1e-4", "high": 0.1, "log": True}, count={"low": 1, "high": 6})
    assert fixed == {"size": 32}
    assert searched["rate"].distribution() == FloatDistribution(1e-4, 0.1, log=True)
    assert searched["count"].distribution() == IntDistribution(1, 6)
    assert searched["count"].values() == (1, 2, 3, 4, 5, 6)


def test_a_range_with_one_allowed_value_is_fixed():
    searched, fixed = parse(size={"low": 17, "high": 40}, rate={"low": 1, "high": 1}, count=[7])
    assert searched == {}
    assert fixed == {"size": 32, "rate": 1, "count": 7}


def test_only_multiples_are_allowed_inside_a_range():
    searched, _ = parse(size={"low": 10, "high": 50})
    assert searched["size"].values() == (16, 32, 48)
    assert (searched["size"].nearest(41), searched["size"].at_most(47)) == (48, 32)


def test_a_ladder_allows_only_its_rungs_and_nearest_is_nearest_in_logs():
    searched, _ = parse(rate=[0.1, 1e-3])
    assert searched["rate"].values() == (1e-3, 0.1)
    assert [searched["rate"].nearest(v) for v in (1e-4, 0.009, 0.011, 5)] == [1e-3, 1e-3, 0.1, 0.1]
    assert Dimension("x", 16, 64, True, ladder=(16, 64)).nearest(33) == 64
    assert Dimension("x", 16, 64, False, ladder=(16, 64)).nearest(33) == 16


def test_a_default_stands_in_for_what_is_not_given():
    rules = {**RULES, "decay": Rule(lambda v: v >= 0, "must not be negative", default=0.5)}
    assert parse_dimensions(GIVEN, rules)[1]["decay"] == 0.5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": 50}, "space.size=50 must be a positive multiple of tile=16"),
        ({"size": {"low": 17, "high": 31}}, "no whole number from 17 to 31 must be a positive multiple"),
        ({"count": 1.5}, "whole number"),
        ({"count": {"low": 1, "high": 3e8}}, "above 1,000,000"),
        ({"rate": {"low": 1, "high": 0.1}}, "above"),
        ({"rate": {"low": 0, "high": 0.1, "log": True}}, "above 0"),
        ({"rate": {"low": 0, "high": 0.1}}, "must be positive"),
        ({"rate": {"low": 0.1, "high": 1, "log": 3}}, "log must be true or false"),
        ({"rate": "high"}, "not a number"),
        ({"rate": True}, "not a number"),
        ({"rate": float("nan")}, "not a number"),
        ({"rate": {"min": 1}}, "low"),
        ({"rate": []}, "no value"),
        ({"rate": [0.1, -1]}, "must be positive"),
        ({"rate": None}, "space.rate is missing"),
        ({"dropout": 0.1}, "space.dropout is not a dimension; there are size, count, rate"),
    ],
)
def test_an_impossible_dimension_is_one_line(changes, said):
    with pytest.raises(ConfigError, match=said) as error:
        parse(**changes)
    assert "\n" not in str(error.value)
