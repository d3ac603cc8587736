"""A text as token files in the cache: what trials need to know of it, and how it is kept."""

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from carbs_scaling.data.tokenization import token_dtype
from carbs_scaling.errors import DataError, warn

# Raised whenever the same text and settings would give other token files.
FORMAT = 2
META = "meta.json"
CHANGED = "{file} was cut short or taken away since the search began: run the same command again"


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
    values = {"format": FORMAT, **asdict(text), "digests": _digests(text), **also}
    for name in ("train_path", "validation_path", "tokenizer"):
        if Path(values[name]).is_relative_to(files):
            values[name] = f"./{Path(values[name]).relative_to(files)}"
    (files / META).write_text(json.dumps(values, indent=1), encoding="utf-8")


def read_folder(folder: Path, description: str, *, whole: bool = True) -> PreparedText | None:
    """The text in a folder of the cache, or None where a file is missing or is not what was written.

    Args:
        folder: of the cache.
        description: one line for people.
        whole: read the files to their ends and compare their hashes, and not their lengths alone.
    """
    meta = read_json(folder / META)
    if meta is None or meta.get("format") != FORMAT:
        return None
    try:
        for name in ("train_path", "validation_path", "tokenizer"):
            if meta[name].startswith("./"):
                meta[name] = str(folder / meta[name])
        fields = {name: meta[name] for name in PreparedText.__dataclass_fields__}
        text = PreparedText(**{**fields, "description": description})
        damage = _damage(text, meta["digests"] if whole else None)
    except (AttributeError, KeyError, TypeError, ValueError):
        damage = f"{META} is damaged"
    if damage:
        warn(f"the token files in {folder} cannot be used ({damage}): they are made anew")
        return None
    return text


def _files(text: PreparedText) -> dict[str, tuple[str, int]]:
    """Path and number of ids of each file that is there as a whole."""
    files = {"validation": (text.validation_path, text.validation_tokens)}
    if text.train_tokens is not None:
        files["train"] = (text.train_path, text.train_tokens)
    return files


def _digests(text: PreparedText) -> dict[str, str]:
    return {name: _digest(path) for name, (path, _) in _files(text).items()}


def _digest(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def _damage(text: PreparedText, digests: dict[str, str] | None) -> str:
    """What is wrong with its files; empty for nothing."""
    for name, (path, tokens) in _files(text).items():
        if not _is_whole(path, tokens, text):
            return f"{Path(path).name} is missing, or not as long as it was"
        if digests is not None and digests[name] != _digest(path):
            return f"{Path(path).name} holds something else than what was written"
    return ""


def _is_whole(path: str, tokens: int, text: PreparedText) -> bool:
    """Whether a file holds at least its ids, and no more where it is one of ours."""
    file = Path(path)
    if not file.is_file():
        return False
    if file.suffix == ".npy":
        return True
    size, wanted = file.stat().st_size, tokens * text.ids_dtype.itemsize
    return size == wanted if text.dtype is None else size >= wanted


def holds_arrays(folder: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> bool:
    """Whether a folder of the cache holds these arrays, `NAME.npy` each, as they were written."""
    if not (folder / META).is_file():
        return False
    for name, array in arrays.items():
        try:
            same = np.array_equal(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False), array)
        except (OSError, ValueError, EOFError):
            same = False
        if not same:
            warn(f"{folder / name}.npy holds something else than what was written: it is made anew")
            return False
    return True


def map_array(file: Path, rows: int | None = None) -> npt.NDArray[Any]:
    """The array of a `.npy` file, mapped.

    Raises:
        DataError: it is missing or cut short.
    """
    try:
        array: npt.NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{CHANGED.format(file=file)} ({str(error).splitlines()[0]})") from error
    if rows is not None and len(array) < rows:
        raise DataError(f"{CHANGED.format(file=file)} ({len(array)} instead of {rows} entries)")
    return array


def map_ids(path: str, tokens: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The ids in a file, [tokens], mapped: raw ones of a type, or `.npy`.

    Raises:
        DataError: it is missing, or shorter than it was when the text was prepared.
    """
    if path.endswith(".npy"):
        return map_array(Path(path), tokens)[:tokens]
    try:
        size = Path(path).stat().st_size
        if size < tokens * dtype.itemsize:
            wanted = f"{size} instead of {tokens * dtype.itemsize} bytes"
            raise DataError(f"{CHANGED.format(file=path)} ({wanted})")
        return np.memmap(path, dtype=dtype, mode="r", shape=(tokens,))
    except OSError as error:
        raise DataError(f"{CHANGED.format(file=path)} ({error.strerror or error})") from error


def publish(files: Path, folder: Path, description: str) -> PreparedText:
    """Move finished files to their place in one step, unless another process was first.

    Raises:
        DataError: they were damaged meanwhile.
    """
    kept = read_folder(folder, description) if folder.exists() else None
    if kept is None:
        if folder.exists():  # damaged: moved to the scratch folder, which the caller removes
            folder.replace(files.parent / "damaged")
        try:
            files.replace(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        kept = read_folder(folder, description, whole=False)
    if kept is None:
        raise DataError(f"the token files in {folder} were damaged while they were made: run it again")
    return kept


def sync(file: Path) -> None:
    """Have the system write a file to the disk."""
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
