"""Published laws against the figures of their papers."""

import pytest

from carbs_scaling.laws.prior.published import BY_NAME, LAWS, zhang_critical_batch


def test_step_law_and_deepseek_at_a_billion_parameters():
    step = BY_NAME["Step Law"].recipe(1.0737e9, 2e10)
    assert step.learning_rate == pytest.approx(9.47e-4, rel=0.01)
    assert step.batch_tokens / 2048 == pytest.approx(215.8, rel=0.01)
    # DeepSeek 7B: C = 6 * 6.9e9 * 2e12 gives about 2.9e-4 and 9.8M tokens by their fit.
    deep = BY_NAME["DeepSeek"].recipe(6.9e9, 2e12)
    assert 2.5e-4 < deep.learning_rate < 4.5e-4
    assert 5e6 < deep.batch_tokens < 1.5e7


def test_the_critical_batch_is_counted_in_sequences_of_512_tokens():
    """93.2 N^0.468 sequences, N in millions (hlzhang109/critical-batch-size): 1.2M tokens at 1e9."""
    assert zhang_critical_batch(1e6) == pytest.approx(93.2 * 512)
    assert zhang_critical_batch(1e9) == pytest.approx(1.2e6, rel=0.02)
    assert BY_NAME["critical batch"].recipe(1e9, 2e10).batch_tokens == zhang_critical_batch(1e9)


def test_kaplans_joint_law_has_its_own_constants():
    """Table 2 of arXiv 2001.08361: alpha .076 and .103, N_c 6.4e13, D_c 1.8e13."""
    loss = BY_NAME["Kaplan"].loss
    assert loss(1e9, 1e30) == pytest.approx((6.4e13 / 1e9) ** 0.076)
    assert loss(1e30, 2.2e10) == pytest.approx((1.8e13 / 2.2e10) ** 0.103)
    both = ((6.4e13 / 1e9) ** (0.076 / 0.103) + 1.8e13 / 2.2e10) ** 0.103
    assert loss(1e9, 2.2e10) == pytest.approx(both)


# Table 2 of arXiv 2502.16982: N without embedding, D, learning rate, batch in sequences of 8,192 tokens.
MOONLIGHT = (
    (399e6, 8.92e9, 9.503e-4, 96),
    (545e6, 14.04e9, 9.143e-4, 128),
    (822e6, 20.76e9, 8.825e-4, 160),
    (1.1e9, 28.54e9, 8.561e-4, 192),
    (1.5e9, 38.91e9, 8.305e-4, 256),
)


@pytest.mark.parametrize(("params", "tokens", "rate", "sequences"), MOONLIGHT)
def test_moonlights_rates_and_batches_are_those_of_its_table(params, tokens, rate, sequences):
    recipe = BY_NAME["Moonlight"].recipe(params, tokens)
    assert recipe.learning_rate == pytest.approx(rate, rel=0.002)
    assert recipe.batch_tokens == pytest.approx(8192 * sequences, rel=0.05)


def test_bjorck_lowers_the_rate_with_tokens_and_step_law_raises_it():
    def slope(name):
        law = BY_NAME[name]
        return law.recipe(1e9, 4e10).learning_rate / law.recipe(1e9, 1e10).learning_rate

    assert slope("Bjorck") < 1 < slope("Step Law")


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_every_law_names_its_source_and_gives_positive_numbers(law):
    recipe = law.recipe(7e9, 1.4e12)
    values = [v for v in (recipe.learning_rate, recipe.batch_tokens, recipe.loss) if v is not None]
    assert values
    assert all(v > 0 for v in values)
    assert "arXiv" in law.source or "github.com" in law.source
