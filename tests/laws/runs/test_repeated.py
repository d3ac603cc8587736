"""Repeated text counts for what it is worth."""

import numpy as np
import pytest

from carbs_scaling.laws.runs.reading import read_runs
from carbs_scaling.laws.runs.repeated import effective_tokens
from carbs_scaling.ledger.record import TrialRecord
from carbs_scaling.trial import Completed


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


def test_runs_of_a_study_beyond_its_text_are_marked_as_those_of_a_table(runs):
    """A study's records know how often each run saw its text; elsewhere nothing was repeated."""
    unique = 4e9
    epochs = np.maximum(runs.tokens / unique, 1)
    records = [
        TrialRecord(
            number=i,
            point={},
            roles=run[["params", "tokens", "learning_rate", "batch_tokens"]].to_dict(),
            details={},
            flops=6 * run.params * run.tokens,
            seed=0,
            outcome=Completed(loss=run.loss, metrics={} if known is None else {"epochs": known}),
            provenance={},
        )
        for (i, run), known in zip(runs.iterrows(), [None, *epochs[1:]], strict=True)
    ]
    table = read_runs(records)[""]
    beyond = (runs.tokens > unique).to_numpy()
    assert table.repeated == beyond.sum()
    assert np.all((table.tokens < runs.tokens) == beyond)
