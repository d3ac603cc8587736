"""`fit_law` recovers laws that data were drawn from, says how sure it is, and survives JSON."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from carbs_scaling import fit_law
from carbs_scaling.laws.fit.diagnostics import exponents_of
from carbs_scaling.laws.recommend.advice import advise
from carbs_scaling.laws.runs.table import LawError
from carbs_scaling.laws.scaling_law import LawsByOptimizer, ScalingLaw


def test_exponents_are_recovered_within_their_errors(law, truth):
    for name in ("a_N", "a_D", "b_D"):
        error = law.parameter(name) - truth.values[name]
        assert abs(error) < 4 * law.standard_error(name) + 0.01, name
        assert law.standard_error(name) < 0.1


def test_it_extrapolates_a_decade_beyond_the_runs(law, truth):
    n, d = 6e9, 6e10
    recipe = law.recommend(params=n, tokens=d)
    assert abs(np.log(recipe.learning_rate / truth.rate(n, d))) < 0.35
    assert abs(np.log(recipe.batch_tokens / truth.batch(d))) < 0.35
    assert abs(recipe.loss - truth.loss(n, d)) < 0.06
    assert recipe.extrapolation == pytest.approx((10.0, 3.75))
    for name, real in (("learning_rate", truth.rate(n, d)), ("loss", truth.loss(n, d))):
        low, high = recipe.interval(name, level=0.99)
        assert low < real < high


def test_intervals_widen_with_level_and_with_distance(law):
    near, far = law.recommend(params=2e8, tokens=4e9), law.recommend(params=2e10, tokens=4e11)

    def width(recipe, name, level=0.9):
        low, high = recipe.interval(name, level)
        return high - low if name == "loss" else np.log(high / low)

    for name in ("learning_rate", "batch_tokens", "loss"):
        assert width(near, name, 0.5) < width(near, name, 0.9) < width(near, name, 0.99)
        assert width(near, name) < width(far, name)
        low, high = near.interval(name)
        assert low < getattr(near, name) < high


def test_intervals_cover_what_they_say(truth):
    inside = []
    for seed in range(12):
        fitted = fit_law(truth.draw(sizes=(2e7, 6e7, 2e8), tokens=(1e9, 4e9), seed=seed), check=False)
        recipe = fitted.recommend(params=6e8, tokens=8e9)
        real = {
            "learning_rate": truth.rate(6e8, 8e9),
            "batch_tokens": truth.batch(8e9),
            "loss": truth.loss(6e8, 8e9),
        }
        inside += [recipe.interval(k)[0] < v < recipe.interval(k)[1] for k, v in real.items()]
    assert np.mean(inside) > 0.75


def test_nothing_depends_on_the_unit_of_the_loss(runs, law):
    bits = fit_law(runs.assign(loss=runs.loss / np.log(2)))
    ours, theirs = law.recommend(6e9, 6e10), bits.recommend(6e9, 6e10)
    assert theirs.learning_rate == pytest.approx(ours.learning_rate, rel=0.03)
    assert theirs.loss * np.log(2) == pytest.approx(ours.loss, rel=0.01)


def test_outliers_do_not_bend_it(runs, law):
    spoiled = runs.copy()
    spoiled.loc[spoiled.index[::25], "loss"] += 1.5
    ours, theirs = law.recommend(6e9, 6e10), fit_law(spoiled, check=False).recommend(6e9, 6e10)
    assert abs(np.log(theirs.learning_rate / ours.learning_rate)) < 0.15
    assert abs(theirs.loss - ours.loss) < 0.05
    # Nor does it take them for sizes that are off as a whole, and doubt everything.
    for name in ("learning_rate", "batch_tokens"):
        widths = [np.ptp(np.log(recipe.interval(name))) for recipe in (ours, theirs)]
        assert widths[1] < 2 * widths[0]
    assert np.ptp(theirs.interval("loss")) < np.ptp(ours.interval("loss")) + 0.2


@pytest.mark.parametrize("seed", range(4))
def test_few_runs_with_gross_outliers_give_sane_intervals(runs, seed):
    few = runs.sample(24, random_state=seed).reset_index(drop=True)
    few.loc[[3, 11], "loss"] *= 3
    recipe = fit_law(few).recommend(6e9, 6e10)
    for name in ("learning_rate", "batch_tokens"):
        low, high = recipe.interval(name)
        # A prior of the exponents, a decade beyond the runs, allows no more.
        assert 0 < low < high < 1e5 * low
    assert recipe.interval("loss")[0] >= 0


def test_held_out_sizes_are_shown(law):
    assert law.held_out.sizes == (6e8,)
    assert law.held_out.loss_error < 0.02
    assert law.held_out.regret < 0.01


def test_json_round_trip(law, tmp_path):
    again = ScalingLaw.from_dict(json.loads(json.dumps(law.to_dict())))
    assert again == law
    assert ScalingLaw.load(law.save(tmp_path / "law.json")) == law
    assert again.recommend(1e9, 1e10).interval("loss") == law.recommend(1e9, 1e10).interval("loss")
    (tmp_path / "bad.json").write_text("[1]")
    with pytest.raises(LawError, match=r"bad\.json"):
        ScalingLaw.load(tmp_path / "bad.json")


@pytest.mark.parametrize(
    "harm",
    [
        lambda fields: fields.pop("theta"),
        lambda fields: fields.update(colour="blue"),
        lambda fields: fields.update(theta=fields["theta"][:5]),
        lambda fields: fields.update(covariance=[[1.0]]),
        lambda fields: fields["support"].pop("low"),
    ],
)
def test_a_damaged_law_is_refused_in_one_line(law, harm):
    fields = json.loads(json.dumps(law.to_dict()))
    harm(fields)
    with pytest.raises(LawError, match="damaged") as error:
        ScalingLaw.from_dict(fields)
    assert "\n" not in str(error.value)


def test_the_formula_is_one_line_with_units_and_convention(law):
    assert "\n" not in law.formula()
    assert "non-embedding" in law.formula()
    assert "tokens a step" in law.formula()


def test_optimizers_get_laws_of_their_own(runs, law):
    half = runs.assign(learning_rate=runs.learning_rate * 10, optimizer="sgd")
    laws = fit_law(pd.concat([runs.assign(optimizer="adamw"), half]), check=False)
    assert isinstance(laws, LawsByOptimizer)
    rates = {name: laws.recommend(1e9, 1e10, optimizer=name).learning_rate for name in laws}
    assert rates["sgd"] == pytest.approx(10 * rates["adamw"], rel=0.1)
    with pytest.raises(LawError, match="adamw, sgd"):
        laws.recommend(1e9, 1e10)
    with pytest.raises(LawError, match="lion"):
        fit_law(runs, optimizer="lion")


def test_warnings_name_what_the_runs_do_not_say(runs, truth):
    narrow = fit_law(truth.draw(sizes=(1e8, 2e8, 3e8)), check=False)
    far, near = narrow.recommend(3e9, 4e9), narrow.recommend(2e8, 4e9)
    assert any("span a factor of 3" in said for said in far.notes)
    assert near.notes == ()
    low = runs[runs.learning_rate > truth.rate(runs.params, runs.tokens) * 1.2]
    assert any("edge" in said and "learning_rate" in said for said in fit_law(low, check=False).warnings)


def test_one_token_count_gives_the_law_there_and_doubts_every_other(runs, truth):
    law = fit_law(runs[runs.tokens == 4e9])
    assert any("all runs had 4e+09 tokens" in said for said in law.warnings)
    assert not any("in D" in said for said in law.warnings)
    assert law.held_out is not None
    there, elsewhere = law.recommend(2e9, 4e9), law.recommend(2e9, 4e10)
    assert there.learning_rate == pytest.approx(truth.rate(2e9, 4e9), rel=0.2)
    assert there.batch_tokens == pytest.approx(truth.batch(4e9), rel=0.2)
    for recipe, d in ((there, 4e9), (elsewhere, 4e10)):
        low, high = recipe.interval("loss")
        assert low < truth.loss(2e9, d) < high
    widths = [np.ptp(np.log(recipe.interval("learning_rate"))) for recipe in (there, elsewhere)]
    assert widths[1] > 1.5 * widths[0]


def test_one_model_size_gives_the_law_in_tokens_there(runs, truth):
    sizes = np.unique(runs.params)
    size = float(sizes[len(sizes) // 2])
    law = fit_law(runs[runs.params == size], prior="weak")
    assert any("parameters: what larger and smaller models bring" in said for said in law.warnings)
    assert not any("in N" in name for name in exponents_of(law).values())
    there = advise(law, tokens=3e10)
    assert there.recipe.params == size
    low, high = there.recipe.interval("loss")
    assert low < truth.loss(size, 3e10) < high
    assert there.recipe.learning_rate == pytest.approx(truth.rate(size, 3e10), rel=0.35)
    assert "all runs had" in str(advise(law, 8 * size, 3e10).warnings)


@pytest.mark.parametrize(
    "target",
    [
        *((0, 1e9), (1e9, -1), (float("nan"), 1e9), (1e9, float("inf")), (10**400, 1e9), (1e9, 1e300)),
        *(("many", 1e9), (None, 1e9), ([1e9], 1e9)),
    ],
)
def test_targets_that_cannot_be_are_refused(law, target):
    with pytest.raises(LawError, match="positive"):
        law.recommend(*target)


def test_wrong_interval_names_are_refused(law):
    with pytest.raises(LawError, match="learning_rate, batch_tokens, loss"):
        law.recommend(1e9, 1e10).interval("momentum")
    with pytest.raises(LawError, match="level"):
        law.recommend(1e9, 1e10).interval("loss", level=90)


@pytest.mark.parametrize("width", [0.0, -1.0, float("nan")])
def test_a_prior_without_width_is_refused(runs, width):
    with pytest.raises(LawError, match="prior_width"):
        fit_law(runs, prior_width=width)


def test_a_table_of_losses_alone_gives_the_law_of_the_loss():
    rng = np.random.default_rng(0)
    params, tokens = 10 ** rng.uniform(7.5, 10, 120), 10 ** rng.uniform(9, 11.5, 120)

    def floor(n, d):  # Besiroglu et al. (arXiv 2404.10102)
        return 1.8172 + 482.01 * n**-0.3478 + 2085.43 * d**-0.3658

    loss = floor(params, tokens) * np.exp(0.002 * rng.normal(size=120))
    law = fit_law({"params": params, "tokens": tokens, "loss": loss})
    assert np.exp(law.parameter("ln_alpha")) == pytest.approx(0.3478, abs=0.03)
    assert np.exp(law.parameter("ln_beta")) == pytest.approx(0.3658, abs=0.03)
    assert law.held_out.loss_error < 0.01
    recipe = law.recommend(1e11, 2e12)
    assert np.isnan(recipe.learning_rate)
    low, high = recipe.interval("loss")
    assert low < floor(1e11, 2e12) < high
    assert [line for line in law.warnings if "rate" in line or "batch" in line] == [
        "these runs have no learning_rate and no batch_tokens: none is recommended"
    ]


def test_the_loss_is_less_sure_below_the_runs_and_from_a_narrow_range_of_sizes(law, runs, truth):
    def width(law, params, tokens):
        low, high = law.recommend(params, tokens).interval("loss")
        return high - low

    inside = width(law, 1e8, 4e9)
    assert width(law, 2e6, 4e9) > 2 * inside
    assert width(law, 1e8, 1e8) > 2 * inside
    # Sizes a factor of 1.4 apart that are each off by a shape's scatter: their slope says little far away.
    narrow = truth.draw(sizes=(1e8, 1.2e8, 1.4e8))
    narrow["loss"] += 0.01 * np.array([1, 0, -1])[np.unique(narrow.params, return_inverse=True)[1]]
    few = fit_law(narrow.iloc[::2], check=False)
    low, high = few.recommend(1.4e9, 1.6e10).interval("loss")
    assert low < truth.loss(1.4e9, 1.6e10) < high


def test_a_rate_beyond_all_that_were_tried_is_less_sure(law):
    rate = float(law.learning_rate(1e8, 4e9))
    n, d, _, batch = law.support.low
    tried_higher = replace(law, support=replace(law.support, low=(n, d, 4 * rate, batch)))
    (sd, _, of_loss), (wider, _, of_loss_wider) = (one.scatter(1e8, 4e9) for one in (law, tried_higher))
    assert wider == pytest.approx(np.hypot(sd, 0.5 * np.log(4)))
    assert of_loss_wider > 1.5 * of_loss


def test_a_large_table_gives_the_law_of_all_its_runs(truth):
    """The start is found by some of the runs, the law by all."""
    runs = pd.concat([truth.draw(seed=seed) for seed in range(4)])
    law = fit_law(runs, check=False)
    for name, value in truth.values.items():
        if name.startswith(("a_", "b_")):
            assert law.parameter(name) == pytest.approx(value, abs=0.03), name
