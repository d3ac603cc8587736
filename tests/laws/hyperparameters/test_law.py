"""Weight decay, beta2 and the shape get laws where runs vary them, with intervals, and else one line."""

import json

import numpy as np
import pytest

from carbs_scaling import fit_law
from carbs_scaling.laws.recommend.advice import advise, shape_for
from carbs_scaling.laws.runs.table import LawError
from carbs_scaling.laws.scaling_law import ScalingLaw

TARGET = (5e9, 5e10)


def best_decay(n, d):
    return 0.1 * (n / 1e8) ** 0.15 * (d / 4e9) ** -0.2


def best_complement(n, d):
    return 0.03 * (d / 4e9) ** -0.1


def best_aspect(n):
    return 60 * (n / 1e8) ** 0.2


def draw(truth, count=200, steep=1.0, seed=0):
    """Runs at random rates, batches, decays, averages and shapes; AdamW's timescale is what counts."""
    rng = np.random.default_rng(seed)
    frame = truth.draw(seed=seed).sample(count, random_state=seed, replace=True).reset_index(drop=True)
    n, d = frame.params, frame.tokens
    u, v = np.log(frame.learning_rate / truth.rate(n, d)), np.log(frame.batch_tokens / truth.batch(d))
    w, b, a = rng.normal(size=(3, count)) * np.array([[1.0], [0.8], [0.5]])
    excess = 0.015 * (w + u - v) ** 2 + 0.01 * (b - v) ** 2 + 0.04 * a**2
    aspect = best_aspect(n) * np.exp(a)
    return frame.assign(
        loss=frame.loss + steep * excess,
        weight_decay=best_decay(n, d) * np.exp(w),
        beta2=1 - np.minimum(best_complement(n, d) * np.exp(b), 0.9),
        depth=(n / 12 / aspect**2) ** (1 / 3),
        width=aspect * (n / 12 / aspect**2) ** (1 / 3),
    )


@pytest.fixture(scope="module")
def varied(truth):
    return draw(truth)


@pytest.fixture(scope="module")
def fitted(varied):
    return fit_law(varied, check=False)


def test_they_are_recovered_within_their_intervals(fitted):
    recipe = fitted.recommend(*TARGET)
    real = {
        "weight_decay": best_decay(*TARGET),
        "beta2": 1 - best_complement(*TARGET),
        "width_to_depth": best_aspect(TARGET[0]),
    }
    assert set(recipe.other) == set(real)
    for name, value in real.items():
        low, high = recipe.interval(name, 0.99)
        assert low < value < high, name
        assert low < recipe.other[name] < high
    assert recipe.other["weight_decay"] == pytest.approx(real["weight_decay"], rel=0.35)
    assert 1 - recipe.other["beta2"] == pytest.approx(1 - real["beta2"], rel=0.6)
    exchange = {law.name: law.theta[3:] for law in fitted.others}
    np.testing.assert_allclose(exchange["weight_decay"], (-1, 1), atol=0.15)


def test_the_law_of_rate_and_batch_does_not_suffer(fitted, truth):
    recipe = fitted.recommend(*TARGET)
    assert abs(np.log(recipe.learning_rate / truth.rate(*TARGET))) < 0.4
    assert abs(recipe.loss - truth.loss(*TARGET)) < 0.03


def test_intervals_cover_what_they_say(truth):
    inside = []
    for seed in range(5):
        recipe = fit_law(draw(truth, 100, seed=seed), check=False).recommend(*TARGET)
        for name, value in (("weight_decay", best_decay(*TARGET)), ("beta2", 1 - best_complement(*TARGET))):
            if name in recipe.other:
                low, high = recipe.interval(name)
                inside.append(low <= value <= high)
    assert len(inside) >= 7
    assert np.mean(inside) >= 0.7


def test_a_flat_one_is_said_to_be_not_identified(truth):
    law = fit_law(draw(truth, steep=0.0), check=False)
    assert not law.others
    for what in ("weight_decay", "1 - beta2", "width / depth"):
        assert any(said.startswith(f"{what} is not identified") for said in law.warnings), what
    with pytest.raises(LawError, match="these runs give learning_rate, batch_tokens, loss"):
        law.recommend(*TARGET).interval("weight_decay")


def test_one_that_is_not_varied_is_absent(runs):
    law = fit_law(runs.assign(weight_decay=0.1, beta2=0.95), check=False)
    assert law.others == ()
    assert not any("weight_decay" in said for said in law.warnings)


def test_a_best_value_beyond_what_was_tried_is_said(truth):
    frame = draw(truth, 400)
    n, d = frame.params, frame.tokens
    timescale = np.log(frame.weight_decay / best_decay(n, d) * frame.learning_rate / truth.rate(n, d))
    low = frame[timescale - np.log(frame.batch_tokens / truth.batch(d)) < -0.2]
    law = fit_law(low, check=False)
    assert "weight_decay" not in {other.name for other in law.others}
    assert any("best weight_decay lies beyond the upper edge" in said for said in law.warnings)


def test_runs_without_weight_decay_are_left_out_of_its_law_alone(varied):
    law = fit_law(
        varied.assign(weight_decay=varied.weight_decay.where(varied.index % 10 > 0, 0)), check=False
    )
    assert "weight_decay" in {other.name for other in law.others}
    assert law.support.runs == len(varied)


def test_shape_json_and_formula(fitted):
    again = ScalingLaw.from_dict(json.loads(json.dumps(fitted.to_dict())))
    assert again == fitted
    assert again.recommend(*TARGET).interval("beta2") == fitted.recommend(*TARGET).interval("beta2")
    assert "1 - beta2 = " in fitted.formula()
    depth, width = shape_for(fitted, TARGET[0])
    assert width / depth == pytest.approx(best_aspect(TARGET[0]), rel=0.25)
    assert "weight_decay" in advise(fitted, *TARGET).intervals
