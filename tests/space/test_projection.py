"""What a look at the caller's space tells: which dimensions cost, and what of them is shape."""

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from carbs_scaling.space.encoding import Encoding
from carbs_scaling.space.projection import LegalSpace

WIDTH, DEPTH = IntDistribution(16, 128, log=True), IntDistribution(1, 6, log=True)
TOKENS, RATE = FloatDistribution(1e5, 1e7, log=True), FloatDistribution(1e-4, 1e-1, log=True)


def params_of(point):
    return 12 * point["depth"] * point["width"] ** 2


def flops_of(point):
    return 6.0 * params_of(point) * point["tokens"]


def roles_of(point):
    return {"params": params_of(point), "tokens": point["tokens"], "learning_rate": point["learning_rate"]}


def space_of(distributions, roles=roles_of, flops=flops_of, project=None):
    return LegalSpace(Encoding(distributions), flops, roles, project)


ALL = {"width": WIDTH, "depth": DEPTH, "learning_rate": RATE, "tokens": TOKENS}


def test_dimensions_that_change_the_cost_move_it():
    assert space_of(ALL).moves_cost.tolist() == [True, True, False, True]


def test_depth_costs_also_where_a_limit_makes_most_shapes_shallow():
    """Dear shapes lose their depth first: at the median cost depth changes nothing any more."""

    def project(point):
        point = dict(point)
        while flops_of(point) > 3e11 and point["depth"] > 1:
            point["depth"] -= 1
        if flops_of(point) > 3e11:
            point["tokens"] = max(3e11 / 6 / params_of(point), 1e5)
        return point

    assert space_of(ALL, project=project).moves_cost.tolist() == [True, True, False, True]


def test_shape_is_the_columns_that_cost_less_what_n_and_d_explain():
    space = space_of(ALL)
    field = space.floor_field
    assert field.columns.tolist() == [0, 1, 3]
    same = [{"width": 64, "depth": 1, "learning_rate": 1e-3, "tokens": 1e6}]
    other = [{"width": 32, "depth": 4, "learning_rate": 1e-2, "tokens": 1e6}]
    places = [field.places(d.cube, d.features) for d in (space.describe(same), space.describe(other))]
    np.testing.assert_allclose(places[0][:, :2], places[1][:, :2], atol=1e-9)
    assert np.abs(places[0] - places[1])[0, 2:4].min() > 0.3
    assert places[0][0, 4] == pytest.approx(places[1][0, 4], abs=1e-9)


def test_a_choice_that_costs_is_shape_by_all_of_its_columns():
    blocks = {"relu": 8, "gated": 12}
    distributions = {
        "block": CategoricalDistribution(["relu", "gated"]),
        "tokens": TOKENS,
        "learning_rate": RATE,
    }

    def roles(point):
        return {"params": 1e4 * blocks[point["block"]], "tokens": point["tokens"]}

    def flops(point):
        return 6e4 * blocks[point["block"]] * point["tokens"]

    space = space_of(distributions, roles, flops)
    assert space.moves_cost.tolist() == [True, True, False]
    assert space.floor_field.columns.tolist() == [0, 1, 2]


def test_a_space_without_price_or_roles_has_a_field_over_nothing():
    space = space_of({"learning_rate": RATE}, lambda point: {}, lambda point: 1e9)
    assert space.floor_field.columns.size == 0
    one = space.describe([{"learning_rate": 1e-3}])
    assert (space.floor_field.places(one.cube, one.features) == 0).all()
