"""Text to a memory-mapped token file, made once and kept under a hash of its content.

The cache folder holds

    CONTENT_HASH/train.bin, validation.bin, meta.json     the tokens, and what they are
    requests/REQUEST_HASH.json                            which content a request for data led to

A request is a list of files with sizes and times, or the name of a hub data set, with the settings: where it
is known, the text is not read again. A study records the content hash: the same text gives the same one on
any machine.
"""

import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from carbs_scaling.data.config import DataConfig
from carbs_scaling.data.sources import Source, find_source
from carbs_scaling.data.splitting import (
    Document,
    cap_bytes,
    choose_validation,
    cut_if_few,
    drop_duplicates,
    encode_documents,
)
from carbs_scaling.data.tokenization import Tokenizer, load_tokenizer, token_dtype, tokenizer_files
from carbs_scaling.errors import DataError
from carbs_scaling.files import write_atomically

CACHE_VARIABLE = "CARBS_SCALING_CACHE"
DEFAULT_CACHE = "~/.cache/carbs_scaling"
# Raised whenever the same text and settings would give other token files.
FORMAT = 1
# Text handed to the tokenizer at a time: enough to keep its threads busy.
ENCODE_BYTES = 1 << 22
# A request for a younger file is not kept: the file may change again without a new time of last change.
SETTLED_SECONDS = 2.0


@dataclass(frozen=True)
class PreparedText:
    """Token files on disk, and everything that a trial needs to know about them. Picklable.

    Args:
        train_path, validation_path: raw little-endian ids, of `token_dtype(vocabulary_size)`.
        vocabulary_size: number of tokens V.
        train_tokens, validation_tokens: ids in each file, document ends included.
        bytes_per_token: UTF-8 bytes of validation text per validation token. Ends of documents are tokens
            without bytes, so that a byte vocabulary gives a little less than 1.
        sha256: of texts, tokenizer and split; the same wherever the text lies.
        description: one line for people.
    """

    train_path: str
    validation_path: str
    vocabulary_size: int
    train_tokens: int
    validation_tokens: int
    bytes_per_token: float
    sha256: str
    description: str


def prepare_text(config: DataConfig) -> PreparedText:
    """The token files for `config`, from the cache or made now.

    Raises:
        DataError: text that is missing, unreadable or too short, or a cache folder that cannot be written.
        CarbsScalingError: the cache folder could be written at first, and not any more.
    """
    source = find_source(config)
    cache = cache_folder(config)
    request = cache / "requests" / f"{_request_hash(config, source)}.json"
    kept = _read_kept(cache, request)
    if kept is not None:
        return kept
    try:
        cache.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix="building-", dir=cache))
        try:
            text = _build(config, source, cache, scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        if _settled(source.files):
            record = {"sha256": text.sha256, "description": text.description}
            write_atomically(request, json.dumps(record).encode())
    except OSError as error:
        raise _cache_error(error, cache) from error
    return text


def cache_folder(config: DataConfig) -> Path:
    """The folder of token files: `data.cache_directory`, `$CARBS_SCALING_CACHE`, or one in the home."""
    folder = config.cache_directory or os.environ.get(CACHE_VARIABLE) or DEFAULT_CACHE
    return Path(folder).expanduser().absolute()


def _request_hash(config: DataConfig, source: Source) -> str:
    files = [
        (str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns)
        for file in (*source.files, *tokenizer_files(config.tokenizer))
    ]
    hub = (config.name, config.subset, config.split) if config.source == "hub" else None
    settings = (FORMAT, config.text_column, config.max_bytes, config.tokenizer, config.validation_fraction)
    return sha256(json.dumps([files, hub, settings]).encode()).hexdigest()


def _settled(files: tuple[Path, ...]) -> bool:
    """Whether all files are old enough for their times to tell whether they change."""
    newest = max((file.stat().st_mtime for file in files), default=0.0)
    return newest < time.time() - SETTLED_SECONDS


def _read_kept(cache: Path, request: Path) -> PreparedText | None:
    """The token files that an earlier request like this one led to, or None."""
    record = _read_json(request)
    if record is None:
        return None
    return _read_folder(cache / record["sha256"], record["description"])


def _read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is no readable one, and the caller makes it anew."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def _read_folder(folder: Path, description: str) -> PreparedText | None:
    """The token files in `folder`, or None where one is missing or not as long as it should be."""
    meta = _read_json(folder / "meta.json")
    if meta is None or meta.get("format") != FORMAT:
        return None
    itemsize = token_dtype(meta["vocabulary_size"]).itemsize
    for split in ("train", "validation"):
        file = folder / f"{split}.bin"
        if not file.is_file() or file.stat().st_size != meta[f"{split}_tokens"] * itemsize:
            return None
    return PreparedText(
        train_path=str(folder / "train.bin"),
        validation_path=str(folder / "validation.bin"),
        vocabulary_size=meta["vocabulary_size"],
        train_tokens=meta["train_tokens"],
        validation_tokens=meta["validation_tokens"],
        bytes_per_token=meta["bytes_per_token"],
        sha256=folder.name,
        description=description,
    )


@dataclass
class _Written:
    """The documents in a file of tokens, in their order: hash, bytes and tokens of each."""

    digests: list[bytes]
    bytes: list[int]
    tokens: list[int]


def _build(config: DataConfig, source: Source, cache: Path, scratch: Path) -> PreparedText:
    """Read and tokenize the text in the folder `scratch`, and move the files into `cache`."""
    tokenizer = load_tokenizer(config.tokenizer)
    texts = source.documents(scratch / "datasets")
    whole = cap_bytes(drop_duplicates(encode_documents(texts)), config.max_bytes)
    documents, cut = cut_if_few(whole)
    both = scratch / "both.bin"
    written = _write_tokens(documents, tokenizer, both)
    if not written.tokens:
        raise DataError(f"{source.description} holds no text")
    if len(written.tokens) < 2:
        raise DataError(
            f"{source.description} holds {sum(written.bytes)} bytes, too few to train on one part "
            "and hold out the rest: give more text"
        )
    held_out = choose_validation(written.digests, written.bytes, config.validation_fraction)

    files = scratch / "files"
    files.mkdir()
    dtype = token_dtype(tokenizer.vocabulary_size)
    _copy_split(both, dtype, written.tokens, held_out, files)
    both.unlink()
    validation_tokens = sum(n for n, out in zip(written.tokens, held_out, strict=True) if out)
    validation_bytes = sum(n for n, out in zip(written.bytes, held_out, strict=True) if out)
    meta = {
        "format": FORMAT,
        "vocabulary_size": tokenizer.vocabulary_size,
        "train_tokens": sum(written.tokens) - validation_tokens,
        "validation_tokens": validation_tokens,
        "bytes_per_token": validation_bytes / validation_tokens,
        "documents": len(written.tokens),
        "held_out_documents": sum(held_out),
    }
    (files / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
    folder = cache / _content_hash(config, tokenizer, written.digests)
    description = _describe(source, written, cut)
    return _publish(files, folder, description)


def _content_hash(config: DataConfig, tokenizer: Tokenizer, digests: list[bytes]) -> str:
    content = sha256(json.dumps([FORMAT, tokenizer.identity, config.validation_fraction]).encode())
    for digest in digests:
        content.update(digest)
    return content.hexdigest()


def _describe(source: Source, written: _Written, cut: bool) -> str:
    if cut:
        unit = "pieces (too few documents to split them whole)"
    else:
        unit = "files" if source.files and len(source.files) >= len(written.tokens) else "documents"
    return f"{source.description}, {len(written.tokens):,} {unit}, {sum(written.bytes) / 1e6:.3g} MB"


def _publish(files: Path, folder: Path, description: str) -> PreparedText:
    """Move finished files to their place in one step, unless another process was first."""
    kept = _read_folder(folder, description)
    if kept is None:
        if folder.exists():  # damaged: moved to the scratch folder, which the caller removes
            folder.replace(files.parent / "damaged")
        try:
            files.replace(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        kept = _read_folder(folder, description)
    if kept is None:
        raise DataError(f"the token files in {folder} were damaged while they were made: run it again")
    return kept


def _write_tokens(documents: Iterable[Document], tokenizer: Tokenizer, file: Path) -> _Written:
    """Write the ids of all documents one after the other, each followed by the separator."""
    dtype = token_dtype(tokenizer.vocabulary_size)
    separator = np.array([tokenizer.separator], dtype=dtype)
    written = _Written([], [], [])
    with file.open("wb") as handle:
        for batch in _batches_of_bytes(documents, ENCODE_BYTES):
            for document, ids in zip(batch, tokenizer.encode([d.data for d in batch]), strict=True):
                ids.astype(dtype, copy=False).tofile(handle)
                separator.tofile(handle)
                written.digests.append(document.digest)
                written.bytes.append(len(document.data))
                written.tokens.append(len(ids) + 1)
    return written


def _batches_of_bytes(documents: Iterable[Document], size: int) -> Iterator[list[Document]]:
    batch: list[Document] = []
    waiting = 0
    for document in documents:
        batch.append(document)
        waiting += len(document.data)
        if waiting >= size:
            yield batch
            batch, waiting = [], 0
    if batch:
        yield batch


def _copy_split(
    both: Path,
    dtype: np.dtype[np.unsignedinteger],
    tokens: list[int],
    held_out: list[bool],
    files: Path,
) -> None:
    """Copy each document's ids to `train.bin` or `validation.bin`, keeping their order."""
    ids = np.memmap(both, dtype=dtype, mode="r")
    with (files / "train.bin").open("wb") as train, (files / "validation.bin").open("wb") as validation:
        start = 0
        for count, out in zip(tokens, held_out, strict=True):
            ids[start : start + count].tofile(validation if out else train)
            start += count
        for handle in (train, validation):
            handle.flush()
            os.fsync(handle.fileno())


def _cache_error(error: OSError, cache: Path) -> DataError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DataError(
            f"no space left for the token files in {cache}: free some, lower data.max_bytes, or set "
            "data.cache_directory=FOLDER"
        )
    reason = error.strerror or str(error)
    return DataError(f"cannot write the token files in {cache} ({reason}): set data.cache_directory=FOLDER")
