"""A text as token files in the cache: what trials need to know of it, and how it is kept."""

import errno
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from carbs_scaling.data.tokenization import token_dtype
from carbs_scaling.errors import DataError

# Raised whenever the same text and settings would give other token files.
FORMAT = 2
META = "meta.json"


@dataclass(frozen=True)
class PreparedText:
    """Token files on disk, and everything that a trial needs to know about them. Picklable.

    Args:
        train_path, validation_path: ids, raw little-endian ones or `.npy`. Of a text that is tokenized as it
            is read, `train_path` is its folder (`stream.TokenStream`).
        vocabulary_size: number of tokens V.
        train_tokens: ids that are trained on, document ends included; None where only the end of a stream
            will tell.
        validation_tokens: ids that are held out, document ends included.
        bytes_per_token: UTF-8 bytes of validation text per validation token; None where the tokenizer is not
            known. Ends of documents are tokens without bytes, so that a byte vocabulary gives a little less
            than 1.
        sha256: of texts, tokenizer and split; the same wherever the text lies.
        description: one line for people.
        tokenizer: what is saved with a model: `bytes`, a name or a folder; `none` where it is not known.
        dtype: NumPy's name for the type of raw ids; None for `token_dtype(vocabulary_size)`.
        revision: commit of a hub data set; None for other texts.
    """

    train_path: str
    validation_path: str
    vocabulary_size: int
    train_tokens: int | None
    validation_tokens: int
    bytes_per_token: float | None
    sha256: str
    description: str
    tokenizer: str = "bytes"
    dtype: str | None = None
    revision: str | None = None

    @property
    def ids_dtype(self) -> np.dtype[Any]:
        """The type of raw ids."""
        return token_dtype(self.vocabulary_size) if self.dtype is None else np.dtype(self.dtype)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is no readable one, and the caller makes it anew."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def write_meta(files: Path, text: PreparedText, **also: Any) -> None:
    """Write what is known of a text beside its token files; paths below `files` become relative ones.

    Args:
        files: folder of the token files, before it is published.
        text: with paths in `files`, or elsewhere.
        also: further facts for people.
    """
    values = {"format": FORMAT, **asdict(text), **also}
    for name in ("train_path", "validation_path", "tokenizer"):
        if Path(values[name]).is_relative_to(files):
            values[name] = f"./{Path(values[name]).relative_to(files)}"
    (files / META).write_text(json.dumps(values, indent=1), encoding="utf-8")


def read_folder(folder: Path, description: str) -> PreparedText | None:
    """The text in a folder of the cache, or None where a file is missing or not as long as it should be."""
    meta = read_json(folder / META)
    if meta is None or meta.get("format") != FORMAT:
        return None
    for name in ("train_path", "validation_path", "tokenizer"):
        if meta[name].startswith("./"):
            meta[name] = str(folder / meta[name])
    fields = {name: meta[name] for name in PreparedText.__dataclass_fields__}
    text = PreparedText(**{**fields, "description": description})
    is_whole = _is_whole(text.validation_path, text.validation_tokens, text) and (
        text.train_tokens is None or _is_whole(text.train_path, text.train_tokens, text)
    )
    return text if is_whole else None


def _is_whole(path: str, tokens: int, text: PreparedText) -> bool:
    """Whether a file holds at least its ids, and no more where it is one of ours."""
    file = Path(path)
    if not file.is_file():
        return False
    if file.suffix == ".npy":
        return True
    size, wanted = file.stat().st_size, tokens * text.ids_dtype.itemsize
    return size == wanted if text.dtype is None else size >= wanted


def publish(files: Path, folder: Path, description: str) -> PreparedText:
    """Move finished files to their place in one step, unless another process was first.

    Raises:
        DataError: they were damaged meanwhile.
    """
    kept = read_folder(folder, description)
    if kept is None:
        if folder.exists():  # damaged: moved to the scratch folder, which the caller removes
            folder.replace(files.parent / "damaged")
        try:
            files.replace(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        kept = read_folder(folder, description)
    if kept is None:
        raise DataError(f"the token files in {folder} were damaged while they were made: run it again")
    return kept


def sync(file: Path) -> None:
    """Have the system write a file to the disk."""
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
