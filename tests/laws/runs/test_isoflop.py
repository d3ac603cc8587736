"""Points far from a budget's best size do not move the compute-optimal exponent."""

import numpy as np
import pandas as pd
import pytest

from carbs_scaling import fit_law
from carbs_scaling.laws.recommend.advice import compute_optimal
from carbs_scaling.laws.runs.isoflop import far_from_the_best
from carbs_scaling.laws.runs.reading import read_runs

EXPONENT = 0.3658 / (0.3478 + 0.3658)  # of N in C by Besiroglu's law


def best_size(flops):
    n = np.geomspace(1e6, 1e12, 20001)
    return n[np.argmin(482.01 * n**-0.3478 + 2085.43 * (flops / 6 / n) ** -0.3658)]


def isoflop(ratios, spoilt, seed=0):
    """Sizes at these ratios to each budget's best one; those beyond a factor of 4 lie above the law."""
    rng, rows = np.random.default_rng(seed), []
    for flops in np.geomspace(3e18, 3e21, 7):
        for ratio in ratios:
            n = best_size(flops) * ratio
            d = flops / 6 / n
            loss = 1.8172 + 482.01 * n**-0.3478 + 2085.43 * d**-0.3658 + 0.003 * rng.normal()
            # More in small budgets: real models of few steps, or of tiny width, fall behind there.
            loss += spoilt * (3e21 / flops) ** 0.15 * max(np.log(ratio / 4), 0.0)
            rows.append((n, d, loss))
    return pd.DataFrame(rows, columns=["params", "tokens", "loss"])


def exponent(law):
    sizes = [compute_optimal(law, flops).params for flops in (1e19, 1e21)]
    return np.log(sizes[1] / sizes[0]) / np.log(100)


def test_the_exponent_is_that_of_the_law_with_far_points_added():
    runs = isoflop([0.05, 0.12, *np.geomspace(0.3, 3.3, 8), 8, 20], spoilt=0.1)
    law = fit_law(runs, check=False)
    assert exponent(law) == pytest.approx(EXPONENT, abs=0.03)
    assert any("from the best size of their budget" in line for line in law.support.read_as)


def test_only_far_points_of_isoflop_tables_are_marked(runs):
    near = np.geomspace(0.3, 3.3, 8)
    frame = isoflop([*near, 20], spoilt=0.1)
    far = far_from_the_best(*(frame[name].to_numpy() for name in ("params", "tokens", "loss")))
    assert far.tolist() == [*[False] * 8, True] * 7
    assert not far_from_the_best(runs.params.to_numpy(), runs.tokens.to_numpy(), runs.loss.to_numpy()).any()
    assert not read_runs(runs)[""].far
