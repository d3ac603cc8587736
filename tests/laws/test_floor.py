"""L(N, D): constants recovered, the compute-optimal split in closed form against brute force."""

import numpy as np
import pytest

from carbs_scaling.laws.floor import FloorLaw, fit_floor
from carbs_scaling.laws.runs.table import LawError

TRUE = FloorLaw(1.8, 480.0, 0.35, 2000.0, 0.37)


def drawn(noise=0.002, n=120):
    rng = np.random.default_rng(0)
    params, tokens = 10 ** rng.uniform(7.5, 10, n), 10 ** rng.uniform(9, 11.5, n)
    return params, tokens, TRUE.loss(params, tokens) * np.exp(noise * rng.normal(size=n))


def test_constants_are_recovered():
    law = fit_floor(*drawn(), bootstrap=20)
    for index, name in enumerate(("E", "A", "alpha", "B", "beta")):
        assert abs(getattr(law, name) - getattr(TRUE, name)) < 4 * law.standard_errors[index], name
    assert pytest.approx(1.8, abs=0.03) == law.E


def test_the_split_is_the_best_one():
    flops = 1e22
    n = np.geomspace(1e8, 1e12, 40001)
    brute = n[np.argmin(TRUE.loss(n, flops / (6 * n)))]
    params, tokens = TRUE.compute_optimal(flops)
    assert params == pytest.approx(brute, rel=1e-3)
    assert 6 * params * tokens == pytest.approx(flops)


@pytest.mark.parametrize(
    ("params", "said"), [([1e8] * 20, "params"), ([1e8] * 3, "8 points"), ([-1.0] * 20, "positive")]
)
def test_degenerate_points_are_refused(params, said):
    n = len(params)
    with pytest.raises(LawError, match=said):
        fit_floor(params, np.geomspace(1e9, 1e11, n), np.linspace(3, 2, n))
