"""Tables whose rates and batches nobody searched give the law of their rule, and say so."""

import numpy as np
import pandas as pd
import pytest

from carbs_scaling import fit_law
from carbs_scaling.laws.recommend.advice import advise, compute_optimal
from carbs_scaling.laws.runs.reading import read_runs
from carbs_scaling.laws.runs.rules import Rules, rules_of
from carbs_scaling.laws.scaling_law import ScalingLaw


def rule_batch(n, d):
    return 2.0 ** np.round(np.log2(1e5 * (d / 1e9) ** 0.6))


def rule_rate(n, batch):
    return 1e-3 * (n / 1e8) ** -0.5 * (batch / 1e5) ** 0.5


def loss_by_rule(truth, n, d):
    # The rule is not the best there is, by an amount that changes along the way.
    return truth.loss(n, d) + 0.02 + 0.01 * np.log(d / n / 20) ** 2 / 20


def isoflop(truth, noise=0.003):
    """Six budgets, nine sizes each: one run a cell."""
    rng = np.random.default_rng(0)
    rows = []
    for flops in np.geomspace(3e18, 1e21, 6):
        for n in np.sqrt(flops / 120) * np.geomspace(0.2, 5, 9):
            d = flops / (6 * n)
            batch = rule_batch(n, d)
            rows.append((n, d, rule_rate(n, batch), batch, loss_by_rule(truth, n, d) + noise * rng.normal()))
    return pd.DataFrame(rows, columns=["params", "tokens", "learning_rate", "batch_tokens", "loss"])


@pytest.fixture(scope="module")
def isoflop_law(truth):
    return fit_law(isoflop(truth))


def test_what_is_recommended_is_the_rule_with_the_loss_that_it_brings(isoflop_law, truth):
    for n, d in ((1e9, 4e10), (6e9, 1.2e11)):
        recipe = isoflop_law.recommend(n, d)
        assert np.log(recipe.batch_tokens / rule_batch(n, d)) == pytest.approx(0, abs=0.5)
        assert recipe.learning_rate == pytest.approx(rule_rate(n, recipe.batch_tokens), rel=0.1)
        assert recipe.loss == pytest.approx(loss_by_rule(truth, n, d), abs=0.03)
        low, high = recipe.interval("loss")
        assert low < loss_by_rule(truth, n, d) < high


def test_its_compute_optimal_size_is_that_of_the_losses(isoflop_law, truth):
    flops = 1e22
    sizes = np.geomspace(1e9, 1e11, 500)
    best = sizes[np.argmin(loss_by_rule(truth, sizes, flops / (6 * sizes)))]
    low, high = compute_optimal(isoflop_law, flops).params_interval
    assert low < best < high
    assert high / low < 4


def test_it_says_once_that_nothing_better_was_looked_for_and_doubts_rate_and_batch(isoflop_law):
    (said,) = [said for said in isoflop_law.warnings if "rule" in said]
    assert "learning_rate and the batch_tokens" in said
    assert not any("exponent of the learning rate" in said for said in isoflop_law.warnings)
    recipe = isoflop_law.recommend(1e9, 4e10)
    for name in ("learning_rate", "batch_tokens"):
        low, high = recipe.interval(name)
        assert high / low > 5  # as far as labs differ
    assert advise(isoflop_law, 1e9, 4e10).halving_flops is None


def test_it_goes_through_json(isoflop_law):
    assert ScalingLaw.from_dict(isoflop_law.to_dict()) == isoflop_law


def test_a_batch_that_was_searched_beside_rates_by_rule_keeps_its_valley(runs, truth):
    rate = rule_rate(runs.params, runs.batch_tokens)
    off = np.log(runs.batch_tokens / truth.batch(runs.tokens))
    law = fit_law(
        runs.assign(learning_rate=rate, loss=truth.loss(runs.params, runs.tokens) + 0.03 * off**2),
        check=False,
    )
    assert law.support.by_rule == ("learning_rate",)
    recipe = law.recommend(1e9, 3e10)
    assert np.log(recipe.batch_tokens / truth.batch(3e10)) == pytest.approx(0, abs=0.2)
    assert recipe.learning_rate == pytest.approx(rule_rate(1e9, recipe.batch_tokens), rel=0.05)


def test_one_batch_and_a_rate_by_width_alone_are_both_kept(runs, truth):
    batch = 2e5
    rate = rule_rate(runs.params, batch)
    loss = truth.loss(runs.params, runs.tokens) + 0.05
    law = fit_law(runs.assign(batch_tokens=batch, learning_rate=rate, loss=loss), check=False)
    recipe = law.recommend(2e9, 1.6e10)
    assert recipe.batch_tokens == pytest.approx(batch)
    assert recipe.learning_rate == pytest.approx(rule_rate(2e9, batch), rel=0.05)
    assert recipe.loss == pytest.approx(truth.loss(2e9, 1.6e10) + 0.05, abs=0.03)


def test_a_sweep_and_a_few_runs_follow_no_rule(runs):
    assert rules_of(read_runs(runs)[""]).names == ()
    few = runs.iloc[:: len(runs) // 9].head(9)
    assert rules_of(read_runs(few)[""]).names == ()


@pytest.mark.parametrize("seed", range(5))
def test_a_search_near_the_best_rates_follows_no_rule(truth, seed):
    """Most runs of a search lie close to the best rates known; the few others show the valley."""
    rng = np.random.default_rng(seed)
    n = 10 ** rng.uniform(3, 4.6, 60)
    d = n * 10 ** rng.uniform(0.7, 2.5, 60)
    off = np.where(rng.uniform(size=60) < 0.15, 0.8, 0.17) * rng.normal(size=60)
    batch = truth.batch(d) * np.exp(0.6 * rng.normal(size=60))
    rate = 8e-3 * (n / 1e4) ** -0.3 * np.exp(off)
    frame = pd.DataFrame(
        {
            "params": n,
            "tokens": d,
            "learning_rate": rate,
            "batch_tokens": batch,
            "loss": truth.loss(1e4 * n, 1e4 * d),
        }
    )
    table = read_runs(frame)[""]
    assert rules_of(table) == Rules()
    assert table.off_rule == 0


def test_a_sweep_at_one_size_among_runs_of_one_rate_is_kept(truth):
    """48 runs of a default rate and six others at one size, which alone say where the best one lies."""
    n, d = (axis.ravel() for axis in np.meshgrid(np.geomspace(2e7, 6e8, 6), np.geomspace(1e9, 2e10, 8)))
    n, d = np.append(n, np.full(6, 2e7)), np.append(d, np.full(6, 1e9))
    rate = 2e-3 * np.append(np.ones(48), 2.0 ** np.array([-3, -2, -1, 1, 2, 3]))
    loss = truth.loss(n, d) + 0.05 * np.log(rate / truth.rate(n, d)) ** 2
    columns = {
        "params": n,
        "tokens": d,
        "learning_rate": rate,
        "batch_tokens": np.full(54, 2e5),
        "loss": loss,
    }
    table = read_runs(columns)[""]
    assert rules_of(table).rate is None
    assert table.left_out == ()
    slip = {**columns, "learning_rate": np.append(np.full(52, 2e-3), [2e-2, 4e-3])}
    assert read_runs(slip)[""].off_rule == 2


COLUMNS = ["params", "tokens", "learning_rate", "batch_tokens", "loss"]
SIZES = np.geomspace(1e7, 1e9, 10)


def one_rate(truth):
    rows = [(n, 20 * n * m, 3e-3, 2.0**19, truth.loss(n, 20 * n * m)) for n in SIZES for m in (1, 4)]
    return pd.DataFrame(rows, columns=COLUMNS)


def buckets(truth):
    rate = [3e-3 if n < 4.8e8 else 1e-3 if n < 1.3e9 else 8e-4 for n in np.geomspace(1e8, 2e9, 20)]
    rows = [
        (n, c / 6 / n, r, 2.0**20, truth.loss(n, c / 6 / n))
        for c in (6e18, 2.5e19, 8e19)
        for n, r in zip(np.geomspace(1e8, 2e9, 20), rate, strict=True)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def batches(truth):
    """Batches searched at one rate."""
    rows = [
        (n, 20 * n, 3.16e-3, b, truth.loss(n, 20 * n) + 0.05 * np.log(b / 2.6e5) ** 2)
        for n in 8.5e7 * np.array([1, 3.5, 7, 14])
        for b in 2.0 ** np.arange(15, 22)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def with_rate(frame, at, rate):
    return frame.assign(learning_rate=frame.learning_rate.where(~at, rate))


@pytest.mark.parametrize(
    ("spoil", "rate", "odd"),
    [
        (one_rate, 3e-3, 0),
        (lambda truth: with_rate(one_rate(truth), one_rate(truth).params > 9e8, 3e-4), 3e-3, 0),
        (lambda truth: with_rate(one_rate(truth), one_rate(truth).index == 7, 3e-2), 3e-3, 1),
        (buckets, 1e-3, 0),
        (lambda truth: with_rate(batches(truth), batches(truth).index == 17, 3.16e-2), 3.16e-3, 1),
    ],
)
def test_rates_that_nobody_searched_are_the_rule_that_is_recommended(truth, spoil, rate, odd):
    """One everywhere; one size, or one row, that differs; buckets of N."""
    table = read_runs(spoil(truth))[""]
    assert table.off_rule == odd
    rule = rules_of(table)
    assert "learning_rate" in rule.names
    n, d, centre = np.log(9e8), np.log(1.5e10), table.logs.mean(axis=0)
    at = rule.rate @ [1, n - centre[0], d - centre[1], 0] + centre[2]
    assert np.exp(at) == pytest.approx(rate, rel=0.25)


def test_batches_searched_at_one_rate_give_a_law_of_the_batch(truth):
    law = fit_law(batches(truth), check=False)
    recipe = law.recommend(1.2e9, 2.4e10)
    assert law.support.by_rule == ("learning_rate",)
    assert recipe.learning_rate == pytest.approx(3.16e-3)
    assert recipe.batch_tokens == pytest.approx(2.6e5, rel=0.2)
    assert any("learning_rate" in said for said in law.warnings)


def test_two_rates_by_turns_and_random_ones_are_no_steps(truth):
    frame, rng = one_rate(truth), np.random.default_rng(0)
    by_turns = frame.assign(learning_rate=np.tile([1e-3, 3e-3, 3e-3, 1e-3], 5))
    assert rules_of(read_runs(by_turns)[""]).names == ()
    for _ in range(50):
        drawn = frame.assign(learning_rate=rng.choice([1e-3, 2e-3, 4e-3], len(frame)))
        assert rules_of(read_runs(drawn)[""]).names == ()


def test_where_tokens_follow_params_but_for_rounding_their_ratio_has_no_power():
    off = 0.0005 * np.random.default_rng(0).normal(size=12)  # whole steps: tokens are rounded to the batch
    n = np.repeat([768.0, 6144.0], 6)
    rows = {
        "params": n,
        "tokens": 20 * n * np.exp(off),
        "learning_rate": np.tile(np.geomspace(1e-3, 3e-2, 6), 2),
        "batch_tokens": 64 * n**0.5 * np.exp(80 * off),
        "loss": 3 - 0.1 * np.log(n),
    }
    rule = rules_of(read_runs(pd.DataFrame(rows))[""]).batch
    assert rule is not None
    assert np.abs(rule[1:]).max() < 1
    assert rule[1] + rule[2] == pytest.approx(0.5, abs=0.1)
