"""Published laws as priors: their exponents as they are, their disagreement as width, and errors by name."""

import numpy as np
import pytest

from carbs_scaling import fit_law
from carbs_scaling.laws.form import law as surface
from carbs_scaling.laws.form.bends import FIRST_BEND
from carbs_scaling.laws.prior.prior import WIDE, law_prior
from carbs_scaling.laws.prior.published import BY_NAME
from carbs_scaling.laws.prior.published_prior import (
    FIELD,
    SETTINGS,
    laws_that_speak,
    prior_of,
    published_laws,
)
from carbs_scaling.laws.prior.rates import ADAMW, RATE_PRIORS
from carbs_scaling.laws.runs.table import LawError

CENTRE = np.log([2e8, 1e10, 1e-3, 2e5])  # where levels are known
SMALL = CENTRE - np.array([3.0, 2.0, 0.0, 0.0])


def exponent(prior, name):
    return prior.mean[surface.INDEX[name]], prior.scale[surface.INDEX[name]]


def test_one_law_gives_its_exponents_and_its_level():
    prior = prior_of(published_laws("step law"), 2.3, CENTRE)
    for name, value in (("a_N", -0.713), ("a_D", 0.307), ("b_N", 0.0), ("b_D", 0.571)):
        mean, sd = exponent(prior, name)
        assert mean == pytest.approx(value, abs=1e-6), name
        # One law: its own setting is as far from the mean of all as the next.
        assert sd == pytest.approx(np.sqrt(2) * np.hypot(*SETTINGS[name]))
    mean, sd = exponent(prior, "a0")
    assert mean == pytest.approx(np.log(1.79 * 2e8**-0.713 * 1e10**0.307 / 1e-3))
    assert sd == pytest.approx(np.sqrt(2) * SETTINGS["a0"][0])


def test_levels_stay_known_where_laws_were_fitted_however_far_runs_lie():
    """Exponents that are off move the level at small runs; at the sizes of the papers it is as it was."""
    prior, there = (prior_of(published_laws(FIELD), 2.3, centre) for centre in (SMALL, CENTRE))
    at = [surface.INDEX[name] for name in ("a0", "a_N", "a_D")]
    covariance = (prior.root @ prior.root.T)[np.ix_(at, at)]
    way = np.array([1.0, 3.0, 2.0])
    # On that way exponents may bend.
    bent = FIRST_BEND * np.linalg.norm([3.0**2 / 2, 3.0 * 2.0, 2.0**2 / 2])
    known = np.hypot(exponent(there, "a0")[1], bent)
    assert np.sqrt(way @ covariance @ way) == pytest.approx(known)
    assert exponent(prior, "a0")[1] > known


def test_the_mean_of_two_laws_transfers_better_than_one():
    mean, sd = exponent(prior_of(published_laws(["Step Law", "DeepSeek"]), 2.3, CENTRE), "a_N")
    assert mean == pytest.approx((-0.713 - 0.125) / 2, abs=1e-4)
    alone = exponent(prior_of(published_laws("Step Law"), 2.3, CENTRE), "a_N")[1]
    assert sd == pytest.approx(np.sqrt(3 / 4) * alone)
    assert exponent(prior_of(published_laws(["Hoffmann", "Besiroglu"]), 2.3, CENTRE), "ln_alpha")[0] == (
        pytest.approx(np.log(0.34 * 0.3478) / 2)
    )


def test_a_rate_at_fixed_batch_becomes_one_at_the_best_batch():
    (mean, _), (weak, _) = (
        exponent(prior, "a_D")
        for prior in (prior_of(published_laws("Bjorck"), 2.3, CENTRE), law_prior(2.3, CENTRE))
    )
    assert mean == pytest.approx(-0.32 + 0.35 * 0.45, abs=1e-6)
    assert mean < weak


def test_without_names_it_is_the_law_prior():
    ours, weak = prior_of((), 2.3, CENTRE), law_prior(2.3, CENTRE)
    for part in ("mean", "sd", "shared"):
        np.testing.assert_array_equal(getattr(ours, part), getattr(weak, part))
    assert published_laws("weak") == ()


def test_few_runs_follow_the_prior_and_many_do_not(runs, truth):
    few = runs.iloc[::20]
    by_runs = fit_law(few, check=False, prior="weak")
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


def test_the_field_speaks_of_adam_runs_with_every_role_alone():
    everything = (True,) * 4
    assert [law.name for law in laws_that_speak(None, everything, ADAMW)] == list(FIELD)
    assert laws_that_speak(None, (True, True, True, False), ADAMW) == ()
    assert laws_that_speak(None, everything, RATE_PRIORS["sgd"]) == ()
    assert [law.name for law in laws_that_speak("DeepSeek", everything, ADAMW)] == ["DeepSeek"]


def test_runs_that_contradict_what_is_known_are_followed(truth):
    """A setting whose best rates are ten times those of every paper, and whose batches are a tenth."""
    runs = truth.draw()
    runs["learning_rate"] *= 10
    runs["batch_tokens"] /= 10
    law = fit_law(runs.iloc[::5], check=False)
    low, high = law.recommend(6e8, 1.6e10).interval("learning_rate")
    assert low < 10 * truth.rate(6e8, 1.6e10) < high
    assert law.learning_rate(6e8, 1.6e10) == pytest.approx(10 * truth.rate(6e8, 1.6e10), rel=0.25)


@pytest.mark.parametrize("centre", [CENTRE, SMALL])
def test_far_off_the_mean_the_wide_component_acts(centre):
    prior = prior_of(published_laws(FIELD), 2.3, centre)
    index = surface.INDEX["a0"]
    near, _ = prior.at_hand(prior.mean)
    np.testing.assert_allclose(near.sd, prior.sd, rtol=0.05)
    off = prior.mean.copy()
    off[index] += 8 * prior.scale[index]
    far, _ = prior.at_hand(off)
    assert far.sd[index] == pytest.approx(WIDE * prior.sd[index], rel=1e-3)
    # The normal prior at hand has the slope of the mixture, and with what it lacks its value.
    step = np.eye(len(off))[index] * 1e-4 * prior.scale[index]

    def value(theta):
        there, missing = prior.at_hand(theta)
        return there.half_squares(theta[None])[0] + missing

    for at in (off, prior.mean + 0.7 * (off - prior.mean) / 2):
        there, _ = prior.at_hand(at)
        slope = (there.half_squares((at + step)[None]) - there.half_squares((at - step)[None]))[0]
        assert value(at + step) - value(at - step) == pytest.approx(slope, rel=1e-4)


def test_at_one_batch_the_rate_follows_the_critical_batch():
    """Far above the best batch the best rate stays, below it goes as the root of the batch."""
    best = prior_of(published_laws(FIELD), 2.3, CENTRE)
    at_best = CENTRE + np.array([0, 0, 0, best.at("b0")])
    level = {}
    for off in (-7.0, -6.0, 6.0, 7.0):
        prior = prior_of(published_laws(FIELD), 2.3, at_best + np.array([0, 0, 0, off]))
        fixed = prior.at_one_batch()
        assert surface.INDEX["b_D"] not in fixed.free
        level[off] = fixed.at("a0")
        given_back = 0.5 * prior.at("b_D") if off < 0 else 0.0
        assert fixed.at("a_D") == pytest.approx(prior.at("a_D") - given_back, abs=0.01)
    assert level[-6.0] - level[-7.0] == pytest.approx(0.5, abs=0.01)
    assert level[7.0] - level[6.0] == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize(
    ("name", "params", "tokens", "rate", "batch"),
    [
        ("OpenEuroLLM", 588544000, 5e10, 8.288e-4, 175.45 * 4096),
        ("Lingle", 368050176, 511967232, 9.77e-4, 131072),
    ],
)
def test_fits_to_published_optima_pass_near_them(name, params, tokens, rate, batch):
    recipe = BY_NAME[name].recipe(params, tokens)
    assert recipe.learning_rate == pytest.approx(rate, rel=0.35)
    assert recipe.batch_tokens == pytest.approx(batch, rel=0.35)
