"""Batch rules: they compose, keep what their derivations keep, and say where they end."""

import pytest

from carbs_scaling.laws.prior.published import BY_NAME
from carbs_scaling.laws.recommend.batch import (
    BatchRecipe,
    adam_square_root_rule,
    kaplan_critical_batch,
    sgd_linear_rule,
    steps_to_loss,
    tokens_to_loss,
    zhang_critical_batch,
)
from carbs_scaling.laws.runs.table import LawError

ADAM = BatchRecipe(4096, 1e-3, 0.9, 0.95, 1e-8)


def test_square_root_rule_on_four_times_the_batch():
    moved = adam_square_root_rule(ADAM, 4 * 4096)
    assert moved.learning_rate == pytest.approx(2e-3)
    assert (moved.beta1, moved.beta2) == pytest.approx((0.6, 0.8))
    assert moved.epsilon == pytest.approx(5e-9)
    # What the stochastic differential equation holds fixed: memory in tokens, and lr^2 a token.
    assert moved.batch_tokens / (1 - moved.beta2) == pytest.approx(4096 / (1 - 0.95))
    assert moved.learning_rate**2 / moved.batch_tokens == pytest.approx(ADAM.learning_rate**2 / 4096)


@pytest.mark.parametrize("rule", [adam_square_root_rule, sgd_linear_rule])
def test_rules_compose_and_go_back(rule):
    there = rule(rule(ADAM, 1000), 8192)
    straight = rule(ADAM, 8192)
    for name in ("batch_tokens", "learning_rate", "beta1", "beta2", "epsilon"):
        assert getattr(there, name) == pytest.approx(getattr(straight, name))
        assert getattr(rule(there, 4096), name) == pytest.approx(getattr(ADAM, name))


def test_linear_rule_moves_the_rate_alone():
    moved = sgd_linear_rule(BatchRecipe(100, 0.1, 0.9), 300)
    assert moved == BatchRecipe(300, moved.learning_rate, 0.9)
    assert moved.learning_rate == pytest.approx(0.3)


def test_where_a_rule_ends_is_said():
    with pytest.raises(LawError, match=r"4\.096e\+04 tokens a step, where beta1"):
        adam_square_root_rule(ADAM, 11 * 4096)
    with pytest.raises(LawError, match="Adam's"):
        adam_square_root_rule(BatchRecipe(100, 0.1, 0.9), 200)
    with pytest.raises(LawError, match="positive"):
        sgd_linear_rule(ADAM, 0)


def test_at_the_critical_batch_both_costs_are_doubled():
    assert tokens_to_loss(1e6, 512, 512) == 2e6
    assert steps_to_loss(1e6, 512, 512) == 2 * 1e6 / 512
    assert steps_to_loss(1e6, 64, 512) * 64 == pytest.approx(tokens_to_loss(1e6, 64, 512))


def test_published_fits_agree_with_the_table_of_laws():
    assert zhang_critical_batch(1e8) == pytest.approx(BY_NAME["critical batch"].recipe(1e8, 1e9).batch_tokens)
    kaplan = BY_NAME["Kaplan"].recipe(1e8, 1e9)
    assert kaplan_critical_batch(kaplan.loss) == pytest.approx(kaplan.batch_tokens)
