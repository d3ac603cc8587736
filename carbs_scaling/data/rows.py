"""Rows of prompt and response, or of one text, as arrays in the cache: tokens, and which are learnt."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from omegaconf import MISSING

from carbs_scaling.config import require, require_choice
from carbs_scaling.data.example_encoding import load_fast_tokenizer
from carbs_scaling.data.example_tables import naming, read_tables, require_text
from carbs_scaling.data.prepared import holds_arrays, map_array
from carbs_scaling.data.token_files import cache_folder
from carbs_scaling.data.windows import Indices, ShuffledWindows
from carbs_scaling.errors import DataError, NoSuchText

if TYPE_CHECKING:
    import pandas as pd

# Raised whenever the same rows would give other arrays.
FORMAT = 1
META = "meta.json"


@dataclass(frozen=True)
class RowsConfig:
    """Where rows come from: the schema of `data` for `task=finetuning`.

    `prompt_column` null: the whole of `response_column` is learnt.
    """

    source: str = MISSING
    paths: list[str] = MISSING
    validation_paths: list[str] = MISSING
    name: str | None = MISSING
    subset: str | None = MISSING
    split: str = MISSING
    validation_split: str | None = MISSING
    revision: str | None = MISSING
    prompt_column: str | None = MISSING
    response_column: str = MISSING
    separator: str = MISSING
    tokenizer: str = MISSING
    validation_fraction: float = MISSING
    cache_directory: str | None = MISSING

    def __post_init__(self) -> None:
        require_choice("data.source", self.source, ("files", "dataset"))
        require(
            0 < self.validation_fraction < 1,
            f"data.validation_fraction={self.validation_fraction} must lie in (0, 1)",
        )
        require(self.source != "files" or bool(self.paths), "rows=files needs data.paths=[rows.jsonl]")
        require(self.source != "dataset" or bool(self.name), "rows=hub needs data.name")


@dataclass(frozen=True)
class PreparedRows:
    """Rows on disk, and everything that a trial needs to know about them. Picklable.

    Args:
        folder: of the arrays.
        sequence_length: T; rows have T + 1 tokens, shorter ones are filled up.
        vocabulary_size: of the tokenizer.
        train_rows, validation_rows: how many.
        sha256: of rows, tokenizer and length.
        description: one line for people.
        tokenizer: saved with a model.
    """

    folder: str
    sequence_length: int
    vocabulary_size: int
    train_rows: int
    validation_rows: int
    sha256: str
    description: str
    tokenizer: str
    revision: str | None = None


class RowWindows(ShuffledWindows):
    """Rows of one split, int64 [b, 2, T + 1]: tokens, and 1 for those that are learnt. A `Windows`.

    Args:
        rows: of which.
        split: `train` or `validation`.
    """

    def __init__(self, rows: PreparedRows, split: str) -> None:
        count = rows.train_rows if split == "train" else rows.validation_rows
        self._rows = map_array(Path(rows.folder) / f"{split}.npy", count)
        self.sequence_length, self.vocabulary_size = rows.sequence_length, rows.vocabulary_size

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, indices: Indices) -> torch.Tensor:
        """See `Windows`."""
        return torch.from_numpy(self._rows[indices].astype(np.int64))


def prepare_rows(config: RowsConfig, sequence_length: int) -> PreparedRows:
    """The rows of a configuration, in the cache.

    Raises:
        DataError: one line: what is missing or cannot be read, or no response is short enough to be learnt.
    """
    cache = cache_folder(config)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix="building-", dir=cache))
        try:
            return _build(config, sequence_length, cache, scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise DataError(f"rows cannot be kept in {cache}: {error.strerror or error}") from error


def _build(config: RowsConfig, length: int, cache: Path, scratch: Path) -> PreparedRows:
    tables = read_tables(config, scratch)
    tokenizer = load_fast_tokenizer(config.tokenizer)
    what = config.name or ", ".join(config.paths)
    with naming(what):
        train, cut = _encoded(config, tables.train, tokenizer, length)
    if tables.held_out is not None:
        with naming(f"held-out rows of {what}"):
            held_out, _ = _encoded(config, tables.held_out, tokenizer, length)
    else:
        shares = [int(sha256(row.tobytes()).hexdigest()[:12], 16) / 16**12 for row in train]
        held = np.array(shares) < config.validation_fraction
        train, held_out = train[~held], train[held]
    for name, rows in (("train on", train), ("hold out", held_out)):
        if not len(rows):
            raise DataError(
                f"{what}: no row is left to {name}: give more rows, change data.validation_fraction, or "
                f"raise model.sequence_length={length}, which must hold a prompt and more"
            )
    vocabulary = tokenizer.get_vocab()
    digest = sha256(json.dumps([FORMAT, length, sorted(vocabulary.items())]).encode())
    for rows in (train, held_out):
        digest.update(f"{rows.shape}".encode())
        digest.update(np.ascontiguousarray(rows).tobytes())
    folder = cache / f"rows-{digest.hexdigest()}"
    result = PreparedRows(
        folder=str(folder),
        sequence_length=length,
        vocabulary_size=max(vocabulary.values()) + 1,
        train_rows=len(train),
        validation_rows=len(held_out),
        sha256=digest.hexdigest(),
        description=(
            f"{what}: {len(train):,} rows to train on, {len(held_out):,} held out, {train[:, 1].mean():.0%} "
            f"of their tokens are learnt, {cut:,} rows are cut to {length:,} tokens"
        ),
        tokenizer=config.tokenizer,
        revision=config.revision,
    )
    if not holds_arrays(folder, {"train": train, "validation": held_out}):
        files = scratch / "files"
        files.mkdir()
        np.save(files / "train.npy", train)
        np.save(files / "validation.npy", held_out)
        (files / META).write_text(json.dumps(asdict(result), indent=1), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        try:
            files.replace(folder)
        except OSError:
            if not (folder / META).is_file():  # another process was first
                raise
    return result


def _encoded(
    config: RowsConfig, frame: "pd.DataFrame", tokenizer: Any, length: int
) -> tuple[npt.NDArray[np.uint32], int]:
    """Rows [n, 2, T + 1], and how many were cut. One without a token of its response left is left out."""
    responses = _texts(frame, config.response_column, "data.response_column")
    prompts: Sequence[str] | None = None
    if config.prompt_column is not None:
        prompts = _texts(frame, config.prompt_column, "data.prompt_column")
    end = tokenizer.eos_token_id
    pad = tokenizer.pad_token_id
    fill = end if pad is None else pad
    if fill is None:
        raise DataError(f"the tokenizer {config.tokenizer!r} has no end-of-text token")
    rows, cut = [], 0
    for number, response in enumerate(responses):
        before: list[int] = []
        if prompts is not None:
            before = tokenizer(prompts[number] + config.separator, verbose=False)["input_ids"]
        learnt = tokenizer(response, add_special_tokens=prompts is None, verbose=False)["input_ids"]
        learnt = learnt if end is None else [*learnt, end]
        ids = [*before, *learnt]
        cut += len(ids) > length + 1
        row = np.zeros((2, length + 1), dtype=np.uint32)
        row[0] = fill
        row[0, : len(ids)] = ids[: length + 1]
        row[1, len(before) : len(ids)] = 1
        if row[1, 1:].any():
            rows.append(row)
    return np.array(rows, dtype=np.uint32).reshape(-1, 2, length + 1), cut


def _texts(frame: "pd.DataFrame", column: str, key: str) -> list[str]:
    known = [str(name) for name in frame.columns]
    if column not in known:
        raise NoSuchText(f"{key}={column}: no such column; there are {', '.join(known)}")
    texts: list[str] = frame[column].tolist()
    require_text(column, texts)
    return texts
