"""Published laws as priors: their exponents as they are, their disagreement as width, and errors by name."""

import numpy as np
import pytest

from carbs_scaling import fit_law
from carbs_scaling.laws.form import law as surface
from carbs_scaling.laws.prior.prior import law_prior
from carbs_scaling.laws.prior.published_prior import LEVEL_SD, TRANSFER_SD, prior_of, published_laws
from carbs_scaling.laws.runs.table import LawError

CENTRE = np.log([2e8, 1e10, 1e-3, 2e5])


def exponent(prior, name):
    return prior.mean[surface.INDEX[name]], prior.scale[surface.INDEX[name]]


def test_one_law_gives_its_exponents_and_its_level():
    prior = prior_of(published_laws("step law"), 2.3, CENTRE)
    for name, value in (("a_N", -0.713), ("a_D", 0.307), ("b_N", 0.0), ("b_D", 0.571)):
        mean, sd = exponent(prior, name)
        assert mean == pytest.approx(value, abs=1e-6), name
        assert sd == TRANSFER_SD
    mean, sd = exponent(prior, "a0")
    assert mean == pytest.approx(np.log(1.79 * 2e8**-0.713 * 1e10**0.307 / 1e-3))
    assert sd == LEVEL_SD


def test_laws_that_disagree_give_a_wide_prior_between_them():
    mean, sd = exponent(prior_of(published_laws(["Step Law", "DeepSeek"]), 2.3, CENTRE), "a_N")
    assert mean == pytest.approx((-0.713 - 0.125) / 2, abs=1e-4)
    assert sd == pytest.approx(exponent(law_prior(2.3, CENTRE), "a_N")[1])
    assert exponent(prior_of(published_laws(["Hoffmann", "Besiroglu"]), 2.3, CENTRE), "ln_alpha")[0] == (
        pytest.approx(np.log(0.34 * 0.3478) / 2)
    )


def test_a_rate_at_fixed_batch_becomes_one_at_the_best_batch():
    (mean, _), (weak, _) = (
        exponent(prior, "a_D")
        for prior in (prior_of(published_laws("Bjorck"), 2.3, CENTRE), law_prior(2.3, CENTRE))
    )
    assert mean == pytest.approx(-0.32 + 0.4 * 0.45, abs=1e-6)
    assert mean < weak


def test_without_names_it_is_the_law_prior():
    ours, weak = prior_of((), 2.3, CENTRE), law_prior(2.3, CENTRE)
    for part in ("mean", "sd", "shared"):
        np.testing.assert_array_equal(getattr(ours, part), getattr(weak, part))
    everyone = prior_of(published_laws("published"), 2.3, CENTRE)
    assert (everyone.scale <= weak.scale + 1e-12).all()


def test_few_runs_follow_the_prior_and_many_do_not(runs, truth):
    few = runs.iloc[::12]
    by_runs = fit_law(few, check=False)
    led = fit_law(few, check=False, prior="Step Law")
    assert led.prior == ("Step Law",)
    assert abs(led.parameter("a_N") + 0.713) < abs(by_runs.parameter("a_N") + 0.713)
    assert fit_law(runs, check=False, prior="Step Law").parameter("a_N") == pytest.approx(-0.5, abs=0.05)


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(LawError, match="'Chinchila': choose from Step Law"):
        published_laws(["Chinchila"])


def test_published_exponents_bring_the_floor_that_goes_with_them():
    priors = [prior_of(published_laws(name), 2.3, CENTRE) for name in ("Kaplan", "Besiroglu")]
    e = [np.exp(exponent(prior, "ln_E")[0]) for prior in priors]
    # Kaplan's small exponents go with no irreducible loss, Besiroglu's with most of it.
    assert e[0] < 0.15 * 2.3 < 0.5 * 2.3 < e[1]
