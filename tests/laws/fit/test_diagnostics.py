"""What is said of a law whose runs leave something open."""

import numpy as np
import pytest

from carbs_scaling import fit_law


def said_of_rules(runs):
    return [line for line in fit_law(runs, check=False).warnings if "by a rule" in line]


def test_a_sweep_follows_no_rule(runs):
    assert said_of_rules(runs) == []


def test_rates_set_from_width_and_batch_are_said_to_be_searched_by_nobody(runs, truth):
    # As in IsoFLOP tables: one run a size, its rate by a formula.
    rate = 0.3 * np.sqrt(runs.batch_tokens / 4096) / np.sqrt(runs.params / 1e4)
    said = said_of_rules(runs.assign(learning_rate=rate))
    assert len(said) == 1
    assert "learning_rate" in said[0]


def test_a_batch_set_from_tokens_is_said_too(runs, truth):
    said = said_of_rules(runs.assign(batch_tokens=truth.batch(runs.tokens)))
    assert len(said) == 1
    assert said[0].startswith("the batch_tokens")


@pytest.mark.parametrize("column", ["momentum", "beta1"])
def test_adam_tables_may_call_momentum_beta1(runs, column):
    rng = np.random.default_rng(0)
    beta1 = rng.choice([0.8, 0.9, 0.95, 0.98], size=len(runs))
    off = np.log((1 - beta1) / 0.1)
    law = fit_law(runs.assign(loss=runs.loss + 0.03 * off**2, **{column: beta1}), check=False)
    assert law.recommend(1e8, 4e9).other["momentum"] == pytest.approx(0.9, abs=0.03)


def test_sizes_all_trained_at_one_ratio_of_tokens_are_said_to_tell_n_and_d_not_apart(runs, truth):
    pairs = {n: 20 * n for n in runs.params.unique()}
    tokens = runs.params.map(pairs)
    loss = runs.loss + truth.loss(runs.params, tokens) - truth.loss(runs.params, runs.tokens)
    law = fit_law(runs.assign(tokens=tokens, loss=loss), check=False)
    assert any("rise together" in line for line in law.warnings)
    low, high = law.recommend(6e9, 1.2e11).interval("loss")
    assert low < truth.loss(6e9, 1.2e11) < high
    assert not any("rise together" in line for line in fit_law(runs, check=False).warnings)
