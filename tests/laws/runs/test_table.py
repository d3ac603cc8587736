"""Tables that can give no law are refused in one line; good ones are read from every source."""

import numpy as np
import pandas as pd
import pytest

from carbs_scaling import fit_law
from carbs_scaling.errors import CarbsScalingError
from carbs_scaling.laws.runs.reading import read_runs
from carbs_scaling.laws.runs.table import LawError


def changed(frame, **columns):
    return frame.assign(**columns)


CASES = {
    "one cell": (
        lambda f: f[(f.params == f.params.min()) & (f.tokens == f.tokens.min())],
        "one model size .* and one number of tokens",
    ),
    "one loss": (lambda f: changed(f, loss=3.0), "nothing to fit"),
    "all diverged": (lambda f: changed(f, diverged=True), "diverged"),
    "no loss": (lambda f: changed(f, loss=np.nan), "diverged or have no loss"),
    "three rows": (lambda f: f.iloc[[0, 50, 200]], "3 completed runs"),
    "no rows": (lambda f: f.iloc[:0], "no rows"),
    "params in millions": (lambda f: changed(f, params=f.params / 1e6), "not millions"),
    "tokens in billions": (lambda f: changed(f, tokens=f.tokens / 1e9), "not billions"),
    "batch in sequences": (lambda f: changed(f, batch_tokens=f.batch_tokens / 4096), "not sequences"),
    "batch above tokens": (lambda f: changed(f, batch_tokens=f.tokens * 2), "more than all tokens"),
    "log rates": (lambda f: changed(f, learning_rate=np.log(f.learning_rate)), "positive"),
    "perplexity": (lambda f: changed(f, loss=np.exp(f.loss) * 20), "perplexity"),
    "words": (lambda f: changed(f, loss="low"), "no number"),
    "a missing column": (lambda f: f.drop(columns="batch_tokens"), "batch_tokens"),
    "other names": (
        lambda f: f.rename(columns={"learning_rate": "rate", "batch_tokens": "b"}),
        "under any name",
    ),
    "no table": (lambda f: 7, "not a table"),
}


@pytest.mark.parametrize("name", CASES)
def test_degenerate_tables_get_one_line_and_no_number(runs, name):
    spoil, said = CASES[name]
    with pytest.raises(CarbsScalingError, match=said) as error:
        fit_law(spoil(runs))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.csv", None, "not a file"),
        ("runs.txt", b"params\n1\n", "ends in none of"),
        ("runs.parquet", b"garbage", "cannot be read"),
        ("runs.csv", b"\xff\xfe\x00garbage\x81", "cannot be read|no column"),
        ("empty.csv", b"", "cannot be read"),
        ("runs.jsonl", b"{not json", "cannot be read"),
        ("runs.csv.gz", b"not packed", "cannot be read as csv"),
        ("runs.json", b"[1, 2]", "no array of runs"),
    ],
)
def test_unreadable_files_are_named(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(LawError, match=said) as error:
        fit_law(tmp_path / name)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_diverged_runs_are_left_out_and_counted(runs):
    flagged = runs.assign(diverged=[i % 10 == 0 for i in range(len(runs))])
    table = read_runs(flagged)[""]
    assert table.diverged == sum(flagged.diverged)
    assert len(table) == len(runs) - table.diverged


def test_diverged_runs_bound_the_rate_and_larger_ones_do_not_leak(runs):
    flagged = runs.assign(diverged=runs.learning_rate > runs.learning_rate.quantile(0.9))
    table = read_runs(flagged)[""]
    assert table.diverged_logs.shape == (sum(flagged.diverged), 4)
    assert table.diverged_logs[:, 2].min() > table.logs[:, 2].max()
    small = table.take(table.params < 1e8)
    assert small.diverged_logs[:, 0].max() < np.log(1e8)


def test_a_missing_loss_without_the_mark_bounds_nothing(runs):
    table = read_runs(runs.assign(loss=runs.loss.where(runs.index % 10 > 0)))[""]
    assert table.diverged == 24
    assert len(table.diverged_logs) == 0


def test_optimizers_are_kept_apart(runs):
    both = pd.concat([runs.assign(optimizer="adamw"), runs.assign(optimizer="sgd")])
    assert set(read_runs(both)) == {"adamw", "sgd"}


def marked(runs, true, false):
    return runs.assign(diverged=[true if i % 10 == 0 else false for i in range(len(runs))])


@pytest.mark.parametrize(
    ("true", "false"),
    [(True, False), (1, 0), ("x", ""), ("Y", "n"), ("yes", np.nan), (1.0, np.nan), ("diverged", None)],
)
def test_marks_of_divergence_are_read_as_people_write_them(runs, true, false):
    assert read_runs(marked(runs, true, false))[""].diverged == len(runs) // 10


def test_a_mark_that_cannot_be_read_is_refused(runs):
    with pytest.raises(LawError, match="diverged holds 'maybe'"):
        read_runs(marked(runs, "maybe", ""))


def test_a_broken_run_with_an_absurd_loss_does_not_make_a_table_one_of_perplexities(runs):
    largest = runs.params.idxmax()
    assert read_runs(runs.assign(loss=runs.loss.where(runs.index != largest, 1000.0)))[""].collapsed == 1


def test_the_runs_of_one_optimizer_are_read_whatever_the_others_are_like(runs):
    few = runs.head(3).assign(optimizer="lion")
    both = pd.concat([runs.assign(optimizer="adamw"), few]).astype({"optimizer": "category"})
    assert set(read_runs(both, "adamw")) == {"adamw"}
    with pytest.raises(LawError, match=r"lion.*3 completed runs"):
        read_runs(both)
    with pytest.raises(LawError, match="no runs of 'muon': there are adamw, lion"):
        read_runs(both, "muon")


def test_a_column_that_is_there_twice_is_refused(runs):
    twice = pd.concat([runs, runs[["loss"]]], axis=1)
    with pytest.raises(LawError, match="column loss twice"):
        read_runs(twice)


def test_rows_joined_twice_count_once_and_repeats_of_a_run_each(runs):
    table = read_runs(pd.concat([runs, runs]))[""]
    assert (len(table), table.again, table.diverged) == (len(runs), len(runs), 0)
    assert any("counted once" in line for line in table.left_out)
    repeated = pd.concat([runs, runs.assign(loss=runs.loss + 1e-4)])
    assert len(read_runs(repeated)[""]) == 2 * len(runs)


@pytest.fixture
def rounded(runs):
    """Three repeats of each of forty runs, whose losses are written with three decimals."""
    rng, few = np.random.default_rng(0), runs.iloc[::6]
    repeats = few.loc[few.index.repeat(3)]
    noise = rng.normal(0, 6e-4, len(repeats))
    return repeats.assign(loss=np.round(repeats.loss + noise, 3)).reset_index(drop=True)


def test_repeats_that_rounding_made_alike_stay(rounded):
    assert rounded.duplicated().any()
    assert len(read_runs(rounded)[""]) == len(rounded)
    # By another order too: nothing says that one of them was copied.
    assert len(read_runs(rounded.sample(frac=1, random_state=0))[""]) == len(rounded)


def test_copies_of_rounded_rows_are_told_by_their_blocks_or_their_names(rounded):
    joined = pd.concat([rounded, rounded.iloc[30:60]], ignore_index=True)
    assert read_runs(joined)[""].again == 30
    named = rounded.assign(run=[f"run-{i}" for i in range(len(rounded))])
    shuffled = pd.concat([named, named.iloc[[3, 17, 50]]]).sample(frac=1, random_state=0)
    assert read_runs(shuffled)[""].again == 3
