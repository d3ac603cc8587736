"""Runs that broke and still have a loss: known from what a slow run, a small model or a high wall shows."""

import numpy as np
import pytest

from carbs_scaling import fit_law
from carbs_scaling.laws.runs.collapse import collapsed
from carbs_scaling.laws.runs.reading import read_runs
from carbs_scaling.laws.runs.table import LawError


def flags(rows):
    rows = np.array(rows, dtype=float)
    return [found.tolist() for found in collapsed(np.log(rows[:, :3]), rows[:, 3])]


def test_a_run_far_above_one_of_no_more_parameters_and_tokens_broke_and_its_rate_is_told_from_other_causes():
    good, larger = (1e8, 2e9, 4e-3, 3.5), (3e8, 6e9, 4e-3, 3.2)
    too_fast, otherwise = (3e8, 6e9, 1.6e-2, 7.4), (3e8, 6e9, 4e-3, 7.7)
    broke, by_rate = flags([good, larger, too_fast, otherwise])
    assert broke == [False, False, True, True]
    assert by_rate == [False, False, True, False]


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("a smaller model", (1e5, 2e9, 4e-3, 5.6)),
        ("fewer tokens", (1e8, 2e6, 4e-3, 5.9)),
        ("a rate so low that it hardly learnt", (1e8, 2e9, 1e-4, 5.6)),
        ("a high wall of the valley", (1e8, 2e9, 1.6e-2, 4.4)),
    ],
)
def test_a_high_loss_that_has_another_reason_is_no_collapse(name, row):
    assert not any(flags([(1e8, 2e9, 4e-3, 3.5), (3e8, 6e9, 4e-3, 3.2), row])[0])


def test_where_losses_span_much_half_again_is_no_collapse():
    # Error rates, say: the floor itself falls tenfold.
    sizes = [(n, n * 20, 1e-3, 0.3 * (n / 1e6) ** -0.5) for n in (1e6, 1e7, 1e8)]
    assert not any(flags([*sizes, (1e8, 2e9, 4e-3, 0.06)])[0])


def test_a_law_of_runs_some_of_which_collapsed_is_that_of_a_table_that_says_so(runs, truth):
    broke = runs.learning_rate > 2.2 * truth.rate(runs.params, runs.tokens)
    assert 30 < broke.sum() < 0.4 * len(runs)
    as_losses = runs.assign(loss=np.where(broke, 7.5, runs.loss))
    law = fit_law(as_losses, check=False)
    typed = fit_law(runs.assign(loss=runs.loss.where(~broke), diverged=broke), check=False)
    assert law.support.diverged == broke.sum()
    assert any("half again" in line for line in law.support.read_as)
    for n, d in ((1e8, 4e9), (6e9, 1e11)):
        recipe, expected = law.recommend(n, d), typed.recommend(n, d)
        assert recipe.loss == pytest.approx(expected.loss, rel=1e-3)
        assert recipe.learning_rate == pytest.approx(expected.learning_rate, rel=0.02)


def test_too_few_runs_beside_the_collapsed_ones_are_refused_with_both_counts(runs):
    few = runs.iloc[:: len(runs) // 12].head(12)
    broken = few.assign(loss=np.where(np.arange(12) % 2, 9.0, few.loss))
    with pytest.raises(LawError, match="7 completed runs and 5 that collapsed"):
        fit_law(broken)


def test_a_swept_table_has_none(runs):
    assert read_runs(runs)[""].collapsed == 0
