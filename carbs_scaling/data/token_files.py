"""Text to a memory-mapped token file, made once and kept under a hash of its content.

The cache folder holds

    CONTENT_HASH/train.bin, validation.bin, meta.json     the tokens, and what they are
    CONTENT_HASH/tokenizer/                               where it was made from the text
    CONTENT_HASH/blocks/, places/                         of a stream instead of train.bin
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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import numpy as np

from carbs_scaling.data.config import DataConfig
from carbs_scaling.data.hub_documents import resolved_revision
from carbs_scaling.data.prepared import (
    FORMAT,
    PreparedText,
    publish,
    read_folder,
    read_json,
    sync,
    write_meta,
)
from carbs_scaling.data.ready_tokens import are_token_files, build_ready
from carbs_scaling.data.sources import Source, find_source, find_validation_source, stat_files
from carbs_scaling.data.splitting import (
    Document,
    cap_bytes,
    choose_validation,
    cut_if_few,
    drop_duplicates,
    encode_documents,
)
from carbs_scaling.data.stream import make_stream, set_cached_blocks
from carbs_scaling.data.tokenization import (
    ENCODE_BYTES,
    Tokenizer,
    batches_of_bytes,
    load_tokenizer,
    token_dtype,
    tokenizer_files,
)
from carbs_scaling.errors import DataError
from carbs_scaling.files import write_atomically

CACHE_VARIABLE = "CARBS_SCALING_CACHE"
DEFAULT_CACHE = "~/.cache/carbs_scaling"
# A request for a younger file is not kept: the file may change again without a new time of last change.
SETTLED_SECONDS = 2.0


class Cached(Protocol):
    """A section `data`, as far as its cache goes."""

    @property
    def cache_directory(self) -> str | None: ...


def prepare_text(config: DataConfig) -> PreparedText:
    """The token files for `config`, from the cache or made now.

    Raises:
        DataError: text that is missing, unreadable or too short, or a cache folder that cannot be written.
        CarbsScalingError: the cache folder could be written at first, and not any more.
    """
    source, validation = find_source(config), find_validation_source(config)
    cache = cache_folder(config)
    held = () if validation is None else tuple(stat_files(validation.files))
    files = (*stat_files(source.files), *held)
    request = cache / "requests" / f"{_request_hash(config, files, len(held))}.json"
    kept = _read_kept(cache, request)
    if kept is not None:
        if config.streaming:
            set_cached_blocks(Path(kept.train_path), config.cached_blocks)
        return kept
    try:
        cache.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix="building-", dir=cache))
        try:
            text = _build(config, source, validation, scratch)
            name = text.sha256
            if not _lies_in(scratch, text):  # for these files alone: others may hold the same ids
                name = f"{name}-{request.stem[:16]}"
            write_meta(scratch / "files", text)
            text = publish(scratch / "files", cache / name, text.description)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        if _settled(files):
            record = {"folder": name, "description": text.description}
            write_atomically(request, json.dumps(record).encode())
    except OSError as error:
        raise _cache_error(error, cache) from error
    return text


def cache_folder(config: Cached) -> Path:
    """The folder of token files: `data.cache_directory`, `$CARBS_SCALING_CACHE`, or one in the home."""
    folder = config.cache_directory or os.environ.get(CACHE_VARIABLE) or DEFAULT_CACHE
    return Path(folder).expanduser().absolute()


def _request_hash(config: DataConfig, files: tuple[Path, ...], held_out_files: int) -> str:
    known = [
        (str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns)
        for file in (*files, *tokenizer_files(config.tokenizer))
    ]
    settings = {
        name: value
        for name, value in vars(config).items()
        if name not in ("cache_directory", "cached_blocks")
    }
    # The files say where the text lies; patterns may match others tomorrow.
    settings |= {"paths": [], "validation_paths": held_out_files}
    return sha256(json.dumps([FORMAT, known, settings], sort_keys=True).encode()).hexdigest()


def _settled(files: tuple[Path, ...]) -> bool:
    """Whether all files are old enough for their times to tell whether they change."""
    newest = max((file.stat().st_mtime for file in files), default=0.0)
    return newest < time.time() - SETTLED_SECONDS


def _read_kept(cache: Path, request: Path) -> PreparedText | None:
    """The token files that an earlier request like this one led to, or None."""
    record = read_json(request)
    if record is None:
        return None
    return read_folder(cache / record["folder"], record["description"])


def _lies_in(folder: Path, text: PreparedText) -> bool:
    """Whether all ids of a text are in a folder."""
    return all(Path(path).is_relative_to(folder) for path in (text.train_path, text.validation_path))


def _build(config: DataConfig, source: Source, validation: Source | None, scratch: Path) -> PreparedText:
    """Read and tokenize the text; its files are in `scratch`/files, and as token files where they lie."""
    files = scratch / "files"
    files.mkdir()
    if are_token_files(source.files, () if validation is None else validation.files):
        return build_ready(config, source, validation, files)
    if config.source == "hub":
        # Found once, so that the text is the same to its end.
        config = replace(config, revision=resolved_revision(config) or config.revision)
        source, validation = find_source(config), find_validation_source(config)
    if config.streaming:
        return make_stream(config, files, scratch)
    text = _build_whole(config, source, validation, scratch)
    return replace(text, revision=config.revision if config.source == "hub" else None)


@dataclass
class _Raw:
    """Documents one after the other in a file, and the hash and bytes of each."""

    file: Path
    digests: list[bytes]
    sizes: list[int]

    def read(self, wanted: Callable[[int], bool]) -> Iterator[tuple[int, bytes]]:
        """Numbers and bytes of the documents whose number is wanted."""
        with self.file.open("rb") as handle:
            for number, size in enumerate(self.sizes):
                if wanted(number):
                    yield number, handle.read(size)
                else:
                    handle.seek(size, os.SEEK_CUR)


def _build_whole(
    config: DataConfig, source: Source, validation: Source | None, scratch: Path
) -> PreparedText:
    """Token files of a text that is read to its end, in `scratch`/files."""
    files, cut = scratch / "files", False
    documents = encode_documents(source.open(scratch / "datasets", None))
    if validation is None:
        whole = cap_bytes(drop_duplicates(documents), config.max_bytes)
        pieces, cut = cut_if_few(whole)
        raw = _write_raw(pieces, scratch / "raw")
        _require_text(raw, source)
        held_out = choose_validation(raw.digests, raw.sizes, config.validation_fraction)
    else:
        held = encode_documents(validation.open(scratch / "datasets", None))
        raw = _write_raw(cap_bytes(drop_duplicates(held), config.max_validation_bytes), scratch / "raw")
        if not raw.sizes:
            raise DataError(f"the validation set {validation.description} holds no text")
        count = len(raw.sizes)
        known = set(raw.digests)
        fresh = (d for d in drop_duplicates(documents) if d.digest not in known)
        raw = _write_raw(cap_bytes(fresh, config.max_bytes), scratch / "raw", raw)
        if len(raw.sizes) == count:
            raise DataError(f"{source.description} holds no text that is not in the validation set")
        held_out = [number < count for number in range(len(raw.sizes))]

    sample = (data for _, data in raw.read(lambda number: not held_out[number]))
    tokenizer = load_tokenizer(config, sample, files / "tokenizer")
    tokens = _write_tokens(raw, held_out, tokenizer, files)
    validation_bytes = sum(size for size, out in zip(raw.sizes, held_out, strict=True) if out)
    content = sha256(
        json.dumps([FORMAT, tokenizer.identity, validation is None and config.validation_fraction]).encode()
    )
    for digest, out in zip(raw.digests, held_out, strict=True):
        content.update(digest + (b"held out" if out else b""))
    return PreparedText(
        train_path=str(files / "train.bin"),
        validation_path=str(files / "validation.bin"),
        vocabulary_size=tokenizer.vocabulary_size,
        train_tokens=tokens[False],
        validation_tokens=tokens[True],
        bytes_per_token=validation_bytes / tokens[True],
        sha256=content.hexdigest(),
        description=_describe(source, validation, raw, cut),
        tokenizer=tokenizer.saved_as,
    )


def _require_text(raw: _Raw, source: Source) -> None:
    if not raw.sizes:
        raise DataError(f"{source.description} holds no text")
    if len(raw.sizes) < 2:
        raise DataError(
            f"{source.description} holds {sum(raw.sizes)} bytes, copies counted once: too few "
            "to train on one part and hold out the rest; give more text"
        )


def _describe(source: Source, validation: Source | None, raw: _Raw, cut: bool) -> str:
    if cut:
        unit = "pieces (too few documents to split them whole)"
    else:
        unit = "files" if source.files and len(source.files) >= len(raw.sizes) else "documents"
    held = "" if validation is None else f" with the validation set {validation.description}"
    return f"{source.description}{held}, {len(raw.sizes):,} {unit}, {sum(raw.sizes) / 1e6:.3g} MB"


def _write_raw(documents: Iterable[Document], file: Path, before: _Raw | None = None) -> _Raw:
    """Write documents one after the other, after those that the file already holds."""
    raw = before or _Raw(file, [], [])
    with file.open("ab") as handle:
        for document in documents:
            handle.write(document.data)
            raw.digests.append(document.digest)
            raw.sizes.append(len(document.data))
    return raw


def _write_tokens(raw: _Raw, held_out: list[bool], tokenizer: Tokenizer, files: Path) -> dict[bool, int]:
    """Write the ids of all documents, each followed by the separator, to `train.bin` or `validation.bin`.

    Returns:
        Ids in the file of those that are held out (True) and of the others.
    """
    dtype = token_dtype(tokenizer.vocabulary_size)
    separator = np.array([tokenizer.separator], dtype=dtype)
    paths = {False: files / "train.bin", True: files / "validation.bin"}
    tokens = {False: 0, True: 0}
    with paths[False].open("wb") as train, paths[True].open("wb") as validation:
        for batch in batches_of_bytes(raw.read(lambda _: True), ENCODE_BYTES):
            for (number, _), ids in zip(batch, tokenizer.encode([data for _, data in batch]), strict=True):
                handle = validation if held_out[number] else train
                ids.astype(dtype, copy=False).tofile(handle)
                separator.tofile(handle)
                tokens[held_out[number]] += len(ids) + 1
    for path in paths.values():
        sync(path)
    return tokens


def _cache_error(error: OSError, cache: Path) -> DataError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DataError(
            f"no space left for the token files in {cache}: free some, lower data.max_bytes, or set "
            "data.cache_directory=FOLDER"
        )
    reason = error.strerror or str(error)
    return DataError(f"cannot write the token files in {cache} ({reason}): set data.cache_directory=FOLDER")
