"""Tables as people have them: each small file is read as meant, or refused in a line with the override."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest

from carbs_scaling.errors import CarbsScalingError
from carbs_scaling.laws.recommend.advice import advise
from carbs_scaling.laws.runs.reading import read_runs

RNG = np.random.default_rng(0)
N, D = np.repeat([1.25e8, 5e8], 6), np.tile([2e9, 4e9, 8e9], 4)
RUNS = pd.DataFrame(
    {
        "params": N,
        "tokens": D,
        "learning_rate": 1e-3 * 2.0 ** np.arange(12),
        "batch_tokens": np.tile([2.0**18, 2.0**19], 6),
        "loss": 3 + RNG.random(12),
    }
)
SHORT = {"params": "n_params", "learning_rate": "lr", "loss": "val_loss"}
IN_SEQUENCES = RUNS.assign(batch_size=RUNS.batch_tokens / 1024, seq_len=1024).drop(columns="batch_tokens")


def csv(frame, **options):
    return frame.to_csv(index=False, **options).encode()


def rows(frame):
    return json.dumps(frame.to_dict("records")).encode()


def wandb(frame, config, wrap=lambda value: value):
    """Runs as W&B exports them: a config and a summary each."""
    return [
        {"config": {k: wrap(v) for k, v in row.items() if k in config}, "summary": {"val_loss": row["loss"]}}
        for row in frame.to_dict("records")
    ]


CONFIG = ("params", "tokens", "learning_rate", "batch_tokens")
READ = {
    "plain.csv": (csv(RUNS), ()),
    "tabs.tsv": (csv(RUNS, sep="\t"), ()),
    "tabs.csv": (csv(RUNS, sep="\t"), ()),
    "semicolons.csv": (csv(RUNS, sep=";"), ()),
    "decimal_commas.csv": (csv(RUNS, sep=";", decimal=","), ()),
    "packed.csv.gz": (gzip.compress(csv(RUNS)), ()),
    "packed.jsonl.gz": (
        gzip.compress(RUNS.to_json(orient="records", lines=True, double_precision=15).encode()),
        (),
    ),
    "array.json": (rows(RUNS), ()),
    "lines.json": (RUNS.to_json(orient="records", lines=True, double_precision=15).encode(), ()),
    "columns.json": (json.dumps(RUNS.to_dict("list")).encode(), ()),
    "of_a_spreadsheet.csv": (csv(RUNS).decode().encode("utf-16"), ()),
    "marked.csv": (b"\xef\xbb\xbf" + csv(RUNS), ()),
    "blanks.csv": (csv(RUNS).replace(b",", b" , "), ()),
    "headings.csv": (
        csv(RUNS.rename(columns=lambda name: name.replace("_", " ").title())),
        ("params = Params", "learning_rate = Learning Rate"),
    ),
    "short.csv": (
        csv(RUNS.rename(columns=SHORT)),
        ("params = n_params", "learning_rate = lr", "loss = val_loss"),
    ),
    "letters.csv": (csv(RUNS.rename(columns={"params": "N", "tokens": "D"})), ("params = N", "tokens = D")),
    "sequences.csv": (csv(IN_SEQUENCES), ("batch_tokens = batch_size * seq_len",)),
    "steps.csv": (
        csv(RUNS.assign(steps=RUNS.tokens / RUNS.batch_tokens).drop(columns="tokens")),
        ("tokens = steps * batch_tokens",),
    ),
    "units.csv": (
        csv(RUNS.assign(params=RUNS.params / 1e6).rename(columns={"params": "Params (M)"})),
        ("params = Params (M) x 1e+06",),
    ),
    "suffixes.csv": (
        csv(RUNS.assign(params=[f"{n / 1e6:g}M" for n in N], tokens=[f"{d / 1e9:g}B" for d in D])),
        (),
    ),
    "thousands.csv": (csv(RUNS.assign(tokens=[f"{d:,.0f}" for d in D])), ()),
    "wandb.csv": (
        csv(RUNS.rename(columns={**{name: f"config.{name}" for name in CONFIG}, "loss": "summary.val_loss"})),
        ("params = config.params", "loss = summary.val_loss"),
    ),
    "wandb_slashes.csv": (
        csv(RUNS.rename(columns={"learning_rate": "config/optim/lr", "loss": "eval/loss"})),
        ("learning_rate = config/optim/lr", "loss = eval/loss"),
    ),
    "wandb.json": (json.dumps(wandb(RUNS, CONFIG)).encode(), ("params = config.params",)),
    "wandb_values.json": (
        json.dumps(wandb(RUNS, CONFIG, lambda value: {"value": value, "desc": None})).encode(),
        ("tokens = config.tokens",),
    ),
    "wandb_texts.csv": (
        csv(pd.DataFrame([{k: str(v) for k, v in row.items()} for row in wandb(RUNS, CONFIG)])),
        ("loss = summary.val_loss",),
    ),
    "trainer.csv": (
        csv(RUNS.rename(columns={"loss": "eval/loss"}).assign(**{"train/loss": 1.0})),
        ("loss = eval/loss",),
    ),
    "thousand_dots.csv": (
        csv(
            RUNS.assign(
                batch_tokens=[f"{b:,.0f}".replace(",", ".") for b in RUNS.batch_tokens], day="1.5.2024"
            ),
            sep=";",
            decimal=",",
        ),
        (),
    ),
    "quoted_commas.csv": (csv(RUNS, decimal=","), ()),
    "thin_blanks.csv": (csv(RUNS.assign(tokens=[f"{d:,.0f}".replace(",", "\u202f") for d in D])), ()),
    "code_page.csv": (csv(RUNS.assign(note="gr\u00f6\u00dfe")).decode().encode("latin-1"), ()),
    "comments.csv": (b"# my sweep, of May\n" + csv(RUNS), ()),
    "savetxt.csv": (b"# " + csv(RUNS, sep=" "), ()),
    "joined.csv": (csv(RUNS[:6]) + csv(RUNS[6:]), ()),
    "ends_in_separators.csv": (csv(RUNS).replace(b"\n", b",\n").replace(b"loss,\n", b"loss\n"), ()),
    "markdown.csv": (csv(RUNS, sep="|").replace(b"\n", b"\n---|---|---|---|---\n", 1), ()),
    "same_loss_twice.csv": (csv(RUNS.assign(val_loss=RUNS.loss)), ()),
    "training_loss.csv": (csv(RUNS.rename(columns={"loss": "train_loss"})), ("loss = train_loss",)),
    "table.parquet": (None, ()),
}
REFUSED = {
    "no_length.csv": (csv(IN_SEQUENCES.drop(columns="seq_len")), "columns.batch_tokens='batch_size * 2048'"),
    "tokens_already.csv": (
        csv(IN_SEQUENCES.assign(batch_size=2.0**18)),
        "batch_size may count tokens or sequences",
    ),
    "accumulated.csv": (
        csv(IN_SEQUENCES.assign(grad_accum=4)),
        "batch_size and grad_accum, which may split it",
    ),
    "two_losses.csv": (csv(RUNS.assign(val_loss=RUNS.loss + 0.1)), "columns.loss=val_loss"),
    "two_sizes.csv": (
        csv(RUNS.rename(columns={"params": "n_params"}).assign(num_params=2 * RUNS.params)),
        "say which is the params, as by columns.params=num_params",
    ),
    "with_embeddings.csv": (
        csv(RUNS.rename(columns={"params": "total_params"})),
        "columns.params=NAME says where",
    ),
    "perplexity.csv": (csv(RUNS.rename(columns={"loss": "val_ppl"})), "columns.loss='log(val_ppl)'"),
    "isoflop.csv": (
        csv(RUNS.assign(flops=6 * N * D).drop(columns="tokens")),
        "columns.tokens='flops / (6 * params)'",
    ),
    "sheet.xlsx": (b"PK", "save the sheet as CSV"),
    "words.csv": (csv(RUNS.assign(params="small")), "params holds 'small', which is no number"),
}


@pytest.mark.parametrize("name", READ)
def test_a_file_is_read_as_meant_and_says_how(tmp_path, name):
    content, said = READ[name]
    if content is None:
        RUNS.to_parquet(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content)
    table = read_runs(tmp_path / name)[""]
    for column in RUNS.columns:
        np.testing.assert_allclose(getattr(table, column), RUNS[column])
    assert set(said) <= set(table.read_as)
    assert table.read_as or not said


@pytest.mark.parametrize("name", REFUSED)
def test_what_may_mean_two_things_is_refused_in_a_line_with_the_override(tmp_path, name):
    content, said = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CarbsScalingError) as error:
        read_runs(tmp_path / name)
    assert said in str(error.value)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_the_callers_word_comes_first():
    frame = IN_SEQUENCES.drop(columns="seq_len").assign(val=RUNS.loss, width=64, layers=[2, 8] * 6)
    columns = {
        "batch_tokens": "batch_size * 1024",
        "loss": "val",
        "params": "12 * layers * width ** 2",
        "tokens": 1e9,
    }
    table = read_runs(frame, columns=columns)[""]
    np.testing.assert_allclose(table.batch_tokens, RUNS.batch_tokens)
    np.testing.assert_allclose(table.params, 12 * frame.layers * 64**2)
    assert set(table.tokens) == {1e9}
    assert "loss = val" in table.read_as
    read = read_runs(frame, columns={"sequence_length": "1024", "loss": "val"})[""]
    np.testing.assert_allclose(read.batch_tokens, RUNS.batch_tokens)
    for wrong, said in (({"los": "val"}, "not one of params"), ({"loss": "nothing"}, "no column nothing")):
        with pytest.raises(CarbsScalingError, match=said):
            read_runs(frame, columns=wrong)


def test_runs_that_failed_are_left_out_however_they_are_marked():
    more = pd.concat([RUNS, RUNS[:3].assign(tokens=3e9)], ignore_index=True)
    words = more.assign(loss=[*RUNS.loss.astype(str), "-", "diverged", "inf"])
    state = more.assign(State=["finished"] * 12 + ["crashed", "running", "Killed"])
    perplexity = more.assign(ppl=[*np.exp(RUNS.loss), np.nan, np.inf, np.nan]).drop(columns="loss")
    for frame, columns in ((words, {}), (state, {}), (perplexity, {"loss": "log(ppl)"})):
        table = read_runs(frame, columns=columns)[""]
        np.testing.assert_allclose(table.loss, RUNS.loss)
    assert "3 not finished (State: crashed, killed, running): left out" in read_runs(state)[""].read_as
    with pytest.raises(CarbsScalingError, match=r"it has params, .*ppl;.*log.ppl"):
        read_runs(perplexity)
    with pytest.raises(CarbsScalingError, match="ppl is a perplexity"):
        read_runs(perplexity, columns={"loss": "ppl"})


def test_names_with_blanks_stand_in_formulas_and_levels_of_an_index_are_columns():
    frame = IN_SEQUENCES.rename(columns={"batch_size": "Sequences (global)"}).set_index(["params", "tokens"])
    table = read_runs(frame, columns={"batch_tokens": "Sequences (global) * 1024"})[""]
    np.testing.assert_allclose(table.batch_tokens, RUNS.batch_tokens)
    np.testing.assert_allclose(table.tokens, RUNS.tokens)


@pytest.mark.parametrize(
    ("params", "tokens", "said"), [(7, 1.4e12, "params=7e9"), (7e9, 1.4, "tokens=1.4e9")]
)
def test_a_target_meant_in_billions_is_caught(law, params, tokens, said):
    for ask in (law.recommend, lambda n, d: advise(law, n, d)):
        with pytest.raises(CarbsScalingError, match=f"for billions write .*{said}"):
            ask(params, tokens)
