"""Published tables of language-model runs that swept learning rate and batch, by their authors' columns."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

NAMES = ("params", "tokens", "learning_rate", "batch_tokens", "loss")


@dataclass(frozen=True)
class Source:
    """A published table.

    Args:
        name: as reports call it.
        what: file, paper or repository.
        columns: theirs, in the order of `NAMES`; batches in sequences, or the steps of a run.
        sequence_length: tokens a sequence.
        start: where searches of it begin: its least N and D, with a usual learning rate and batch.
    """

    name: str
    what: str
    columns: tuple[str, ...]
    sequence_length: int
    start: dict[str, float]


SOURCES = (
    Source(
        "Step Law",
        "Step Law's table of runs (arXiv 2503.04715, github.com/step-law/steplaw)",
        ("params_non_embedding", "tokens", "learning_rate", "batch_size_sequences", "loss"),
        2048,
        {"params": 6e7, "tokens": 2e9, "learning_rate": 1e-3, "batch_sequences": 128.0},
    ),
    Source(
        "Step Law MoE",
        "data/moe_lr_bs_loss.csv of github.com/step-law/steplaw; N: active parameters",
        ("Na", "D", "lr", "bs", "smooth loss"),
        2048,
        {"params": 2e8, "tokens": 2e9, "learning_rate": 7e-4, "batch_sequences": 128.0},
    ),
    Source(
        "misfitting",
        "Misfitting's table of runs (github.com/hadasah/scaling_laws), all at 2^20 tokens a step",
        ("N_no_emb", "D", "peak_lr", "total_steps", "loss"),
        1,
        {"params": 1.2e7, "tokens": 1e9, "learning_rate": 2e-3, "batch_sequences": 2.0**20},
    ),
    Source(
        "OpenEuroLLM",
        "data/loss_all_exps_post_annealing.csv of github.com/OpenEuroLLM/dense_english_scaling_laws",
        ("N", "D", "lr", "gbsz", "loss"),
        4096,
        {"params": 4.8e7, "tokens": 6e9, "learning_rate": 1e-3, "batch_sequences": 128.0},
    ),
)


def read_table(path: str | Path) -> tuple[pd.DataFrame, Source]:
    """The runs of a published table, with the columns of `NAMES`, and which table it is.

    Raises:
        SystemExit: the file is absent, or of none of `SOURCES`; one line says what is meant.
    """
    known = "; or ".join(f"{s.what}, with the columns {', '.join(s.columns)}" for s in SOURCES)
    if not Path(path).exists():
        raise SystemExit(f"{path} is not there: it should be {known}")
    table = pd.read_csv(path)
    for source in SOURCES:
        if set(source.columns) <= set(table.columns):
            runs = table[list(source.columns)].set_axis(list(NAMES), axis=1)
            if source.columns[3] == "total_steps":
                runs["batch_tokens"] = runs.tokens / runs.batch_tokens
            return runs.assign(batch_tokens=runs.batch_tokens * float(source.sequence_length)), source
    raise SystemExit(f"{path} is not a table that is known here: it should be {known}")
