"""Each optimizer's own prior of its best rate, and what a parametrization makes of it."""

from types import SimpleNamespace

import numpy as np
import pytest

from carbs_scaling.laws.fit.fit_law import fit_law
from carbs_scaling.laws.form.law import INDEX
from carbs_scaling.laws.prior.prior import expected_level, expected_level_sd, law_prior, published_level
from carbs_scaling.laws.prior.published_prior import prior_of, published_laws
from carbs_scaling.laws.prior.rates import ADAMW, RATE_PRIORS, rate_prior
from carbs_scaling.laws.recommend.peak import peak_learning_rate
from carbs_scaling.laws.runs.reading import read_runs
from carbs_scaling.laws.runs.table import LawError

CENTRE = np.log([2e8, 1e10, 1e-3, 2e5])


def test_adamws_is_the_default_and_that_of_unknown_optimizers():
    assert rate_prior("") == rate_prior("lion") == ADAMW
    np.testing.assert_array_equal(law_prior(2.3, CENTRE).mean, law_prior(2.3, CENTRE, rates=ADAMW).mean)


@pytest.mark.parametrize("name", sorted(RATE_PRIORS))
def test_only_the_rate_has_another_prior_and_none_is_narrower_than_adamws(name):
    own, adamw = law_prior(2.3, CENTRE, rates=rate_prior(name)), law_prior(2.3, CENTRE)
    of_rate = [INDEX[key] for key in ("a0", "a_N", "a_D", "a_B")]
    others = np.setdiff1d(np.arange(len(own.mean)), of_rate)
    np.testing.assert_array_equal(own.mean[others], adamw.mean[others])
    np.testing.assert_array_equal(own.sd[others], adamw.sd[others])
    assert (own.sd >= adamw.sd).all()


@pytest.mark.parametrize("name", ["mup", "completep"])
def test_with_a_parametrization_the_rate_hardly_moves_with_size_from_that_of_the_base(name):
    prior = law_prior(2.3, CENTRE, rates=rate_prior("adamw", name, base_params=1e6))
    assert prior.at("a_N") == 0.0
    assert prior.sd[INDEX["a_N"]] <= 0.15
    assert prior.at("a0") + CENTRE[2] == pytest.approx(published_level(1e6, 1e10)[0])


def test_published_laws_of_adams_rates_are_no_prior_of_another_kind():
    laws = published_laws("Step Law")
    for rates in (rate_prior("sgd"), rate_prior("adamw", "mup", 1e6)):
        own, weak = prior_of(laws, 2.3, CENTRE, rates), law_prior(2.3, CENTRE, rates=rates)
        assert own.at("a_N") == weak.at("a_N") != prior_of(laws, 2.3, CENTRE).at("a_N")
        assert own.at("b_D") != weak.at("b_D")


def test_a_published_law_of_muons_rates_is_a_prior_of_muon():
    laws, muon = published_laws("Moonlight"), rate_prior("muon")
    exponent = prior_of(laws, 2.3, CENTRE, muon).at("a_N")
    assert exponent == pytest.approx(-0.0478, abs=1e-3) != law_prior(2.3, CENTRE, rates=muon).at("a_N")
    assert peak_learning_rate("Moonlight", 399e6, 8.92e9, optimizer="muon").learning_rate == pytest.approx(
        9.503e-4, rel=0.002
    )
    with pytest.raises(LawError, match="SGD"):
        peak_learning_rate("Moonlight", 399e6, 8.92e9, optimizer="sgd")


def test_the_law_of_a_study_has_the_prior_of_its_optimizer_and_parametrization(runs):
    """The bare parts of a study that a table is read from."""
    rates = {"optimizer": "muon", "parametrization": "mup", "base_params": 1e6}
    table = read_runs(runs.assign(optimizer="muon"))["muon"]
    assert fit_law(table, check=False).rates == "muon"
    records = [
        SimpleNamespace(
            number=i,
            completed=True,
            status="completed",
            point={},
            law_loss=row.pop("loss"),
            roles=row,
            outcome=None,
        )
        for i, row in enumerate(runs.to_dict("records"))
    ]
    identity = {"optimizer": {"name": "muon"}, "rates": rates}
    study = SimpleNamespace(name="mine", identity=identity, records=lambda: records)
    assert fit_law(study, check=False).rates == "muon mup"


def test_rates_of_fine_tuning_are_those_of_papers_whatever_n_and_d_are():
    def rate(width, adapters, centre=CENTRE):
        prior = law_prior(2.3, centre, rates=rate_prior("adamw", finetuned_width=width, adapters=adapters))
        return np.exp(prior.at("a0") + centre[2]), prior.sd[INDEX["a0"]]

    small = np.log([1e5, 1e4, 1e-3, 2e2])
    assert rate(2000, False)[0] == pytest.approx(5e-5)
    assert rate(2000, False, small)[0] == pytest.approx(5e-5)
    assert rate(2000, True)[0] == pytest.approx(5e-4)
    # BERT's at a width of 768.
    middle, sd = rate(768, False)
    assert middle * np.exp(-1.5 * sd) < 2e-5 < 5e-5 < middle
    assert rate_prior("sgd", finetuned_width=2000).level == pytest.approx((3.2, np.hypot(1, 5**0.5)))
    assert rate(128, False)[1] > rate(2000, False)[1] < law_prior(2.3, CENTRE).sd[INDEX["a0"]]
    # Laws of pretraining do not speak of it.
    assert prior_of(published_laws("Step Law"), 2.3, CENTRE, rate_prior(finetuned_width=768)).at(
        "a0"
    ) == pytest.approx(np.log(middle) - CENTRE[2])


def test_what_is_expected_of_fine_tuning_hangs_on_the_width_alone():
    rates = rate_prior(finetuned_width=2000)
    for params, tokens in ((1e6, 1e5), (1e9, 1e8)):
        assert expected_level(params, tokens, rates)[0] == pytest.approx(np.log(5e-5))
        assert expected_level_sd(params, tokens, rates)[0] == pytest.approx(1.0)
        assert expected_level(params, tokens) == published_level(params, tokens)
