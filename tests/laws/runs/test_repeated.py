"""Repeated text counts for what it is worth."""

import numpy as np
import pytest

from carbs_scaling.laws.runs.reading import read_runs
from carbs_scaling.laws.runs.repeated import effective_tokens


def test_four_passes_are_nearly_new_text_and_forty_are_not():
    """As their abstract says: up to 4 epochs hardly differ from new data, and later ones decay to nothing."""
    unique = np.full(4, 1e9)
    tokens = unique * [0.5, 1, 4, 1e4]
    worth = effective_tokens(tokens, unique)
    assert worth[:2] == pytest.approx(tokens[:2])
    assert worth[2] == pytest.approx(4e9, rel=0.08)
    assert worth[3] == pytest.approx((1 + 15.387756) * 1e9)
    assert effective_tokens(np.array([3e9]), np.array([np.nan])) == pytest.approx([3e9])


@pytest.mark.parametrize("column", ["unique_tokens", "epochs"])
def test_runs_beyond_their_text_are_marked_and_counted_by_effective_tokens(runs, column):
    unique = 4e9
    told = {"unique_tokens": unique, "epochs": np.maximum(runs.tokens / unique, 1)}[column]
    table = read_runs(runs.assign(**{column: told}))[""]
    beyond = runs.tokens > unique
    assert table.repeated == beyond.sum()
    assert table.tokens == pytest.approx(effective_tokens(runs.tokens.to_numpy(), np.full(len(runs), unique)))
    assert any("Muennighoff" in line for line in table.left_out)
    assert read_runs(runs)[""].repeated == 0
