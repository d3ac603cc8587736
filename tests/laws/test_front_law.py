import numpy as np
import pytest

from carbs_scaling.laws.front_law import fit_power_law

FLOPS = np.geomspace(1e10, 1e15, 12)


@pytest.mark.parametrize(
    ("irreducible", "coefficient", "exponent"), [(1.2, 300, 0.25), (0.6, 40, 0.12), (0, 20, 0.08)]
)
def test_the_law_is_recovered_from_data_drawn_from_it(irreducible, coefficient, exponent):
    loss = irreducible + coefficient * FLOPS**-exponent
    law = fit_power_law(FLOPS, loss)
    np.testing.assert_allclose(law.loss(FLOPS), loss, rtol=1e-4)
    assert law.exponent == pytest.approx(exponent, rel=0.02)
    assert law.irreducible == pytest.approx(irreducible, abs=0.03)


def test_seed_noise_and_one_outlier_hardly_move_it():
    generator = np.random.default_rng(0)
    loss = (1.2 + 300 * FLOPS**-0.25) * np.exp(0.002 * generator.standard_normal(12))
    loss[4] *= 1.3
    law = fit_power_law(FLOPS, loss)
    assert law.exponent == pytest.approx(0.25, abs=0.03)
    assert law.irreducible == pytest.approx(1.2, abs=0.1)


def test_too_few_different_costs_have_no_law():
    assert fit_power_law([], []) is None
    assert fit_power_law([1e10, 1e11, 1e12], [3, 2, 1.5]) is None
    assert fit_power_law([1e10, 1e11, 1e12, 1e12], [3, 2, 1.5, 1.5]) is None


def test_the_formula_says_what_the_law_computes():
    law = fit_power_law(FLOPS, 1.2 + 300 * FLOPS**-0.25)
    assert law.formula() == "L = 1.200 + 300 C^-0.250"
    assert law.formula("html") == "<i>L</i> = 1.200 + 300 <i>C</i><sup>-0.250</sup>"
    assert law.formula("mathtext") == r"$L = 1.200 + 300\,C^{-0.250}$"


def test_points_that_no_power_law_follows_have_none():
    flops = np.geomspace(1e9, 4e9, 8)
    assert fit_power_law(flops, np.where(flops < 1.2e9, 9.0, 2.0)) is None
