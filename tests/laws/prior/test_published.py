"""Published laws against the figures of their papers."""

import pytest

from carbs_scaling.laws.prior.published import BY_NAME, LAWS


def test_step_law_and_deepseek_at_a_billion_parameters():
    step = BY_NAME["Step Law"].recipe(1.0737e9, 2e10)
    assert step.learning_rate == pytest.approx(9.47e-4, rel=0.01)
    assert step.batch_tokens / 2048 == pytest.approx(215.8, rel=0.01)
    # DeepSeek 7B: C = 6 * 6.9e9 * 2e12 gives about 2.9e-4 and 9.8M tokens by their fit.
    deep = BY_NAME["DeepSeek"].recipe(6.9e9, 2e12)
    assert 2.5e-4 < deep.learning_rate < 4.5e-4
    assert 5e6 < deep.batch_tokens < 1.5e7


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
