"""The predicted curve: recovered from runs whose curves have a known shape above the law."""

import numpy as np
import pytest

from carbs_scaling.laws.recommend.predicted_curve import (
    LEAST_RUNS,
    PARTS,
    SHARES,
    PredictedCurve,
    SeenCurve,
    predict_curve,
)

NATS_A_BIT = 0.7  # the curves are in another unit than the law


def hump(share):
    """What a run lies above the law before its decay, as a late decay leaves it."""
    return 0.08 * np.minimum(1.0, (1 - share) / 0.2)


@pytest.fixture
def curves(law):
    """Runs of 100 points that end a little off the law, each by its own share."""

    def draw(count, noise=0.0, off=0.01):
        rng = np.random.default_rng(0)
        drawn = []
        for _ in range(count):
            n, d = 10 ** rng.uniform(7.3, 8.7), 10 ** rng.uniform(9, 10.2)
            share = (np.arange(100) + 0.5) / 100
            end = float(law.loss(n, d)) * (1 + off * rng.uniform(-1, 1))
            above = hump(share) + noise * rng.normal()
            along = law.loss(n, share * d) / float(law.loss(n, d))
            drawn.append(SeenCurve(n, d, end, share, NATS_A_BIT * end * along * np.exp(above)))
        return drawn

    return draw


def test_the_shape_of_the_runs_stands_on_the_law(law, curves):
    params, tokens = 6e8, 3e10
    found = predict_curve(law, curves(8), params, tokens)
    expected = NATS_A_BIT * law.loss(params, np.array(SHARES) * tokens) * np.exp(hump(np.array(SHARES)))
    # A part is a mean over a twentieth of the run, in which the loss falls.
    assert np.array(found.loss) == pytest.approx(expected, rel=5e-3)
    assert found.runs == 8
    for share, low, high in zip(found.share, found.low, found.high, strict=True):
        bounds = law.recommend(params, share * tokens).interval("loss")
        shape = NATS_A_BIT * np.exp(hump(share))
        assert (low, high) == pytest.approx([shape * bound for bound in bounds], rel=1e-2)


def test_runs_that_differ_widen_the_interval(law, curves):
    same, differing = (predict_curve(law, curves(8, noise), 6e8, 3e10) for noise in (0.0, 0.1))
    width = [np.log(np.array(found.high) / found.low).mean() for found in (same, differing)]
    assert width[1] > width[0] + 0.2


def test_too_few_runs_near_the_law_give_no_curve(law, curves):
    assert predict_curve(law, curves(LEAST_RUNS - 1), 6e8, 3e10) is None
    bad = [SeenCurve(c.params, c.tokens, 1.2 * c.end_loss, c.share, c.loss) for c in curves(8)]
    short = [SeenCurve(c.params, c.tokens, c.end_loss, c.share[::10], c.loss[::10]) for c in curves(8)]
    assert predict_curve(law, [*bad, *short], 6e8, 3e10) is None
    assert predict_curve(law, [*bad, *short, *curves(LEAST_RUNS)], 6e8, 3e10).runs == LEAST_RUNS


def test_between_and_beyond_its_points():
    curve = PredictedCurve((0.2, 0.6), (3.0, 2.0), (2.0, 1.0), (4.0, 3.0), 5)
    assert curve.at(0.1) is None
    assert curve.at(0.4) == pytest.approx((2.5, 1.5, 3.5))
    assert curve.at(1.0) == (2.0, 1.0, 3.0)
    assert PARTS * SHARES[0] == 1.5
