"""A cliff just above the best rate, after which it gets no worse, does not push the best rate down."""

import numpy as np
import pytest

from carbs_scaling import fit_law

BATCH = 2e5


def with_cliff(truth, jump, seed=0):
    """One batch; seven rates a factor of 2 apart; above 1.35 times the best one the loss jumps."""
    rng = np.random.default_rng(seed)
    frame = truth.draw(sizes=(1e7, 3e7, 1e8, 3e8), tokens=(1e9, 4e9), seed=seed)
    frame = (
        frame.drop_duplicates(["params", "tokens"]).loc[np.repeat(range(8), 7) * 20].reset_index(drop=True)
    )
    best = truth.rate(frame.params, frame.tokens)
    off = np.tile(np.log(2) * np.arange(-3, 4), 8) + rng.uniform(-0.3, 0.3, 56)
    loss = truth.loss(frame.params, frame.tokens) * (1 + jump * (off > 0.3)) + 0.05 * off**2
    return frame.assign(
        learning_rate=best * np.exp(off), batch_tokens=BATCH, loss=loss + 0.003 * rng.normal(size=56)
    )


@pytest.mark.parametrize("jump", [0.1, 0.3])
def test_the_best_rate_is_found_beside_a_cliff(truth, jump):
    law = fit_law(with_cliff(truth, jump), check=False)
    assert any("beyond a cliff" in said for said in law.warnings)
    assert law.support.runs == 56
    recipe = law.recommend(1e9, 4e9)
    low, high = recipe.interval("learning_rate")
    assert low < truth.rate(1e9, 4e9) < high
    assert recipe.learning_rate == pytest.approx(truth.rate(1e9, 4e9), rel=0.5)


def test_walls_of_a_valley_are_no_cliff(truth, runs):
    searches = [truth.search(seed) for seed in range(2)]
    slip = searches[0].assign(loss=searches[0].loss + 0.8 * (np.arange(40) == 7))
    for table in (runs, with_cliff(truth, 0.0), slip, *searches):
        assert not any("beyond a cliff" in said for said in fit_law(table, check=False).warnings)
