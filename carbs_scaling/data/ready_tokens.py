"""Text that is tokens already: `.bin` as nanoGPT or llm.c write it, and `.npy`.

One file a split is used where it lies; several are joined in the cache.
"""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from carbs_scaling.data.config import NO_TOKENIZER, OWN_BPE, DataConfig
from carbs_scaling.data.prepared import FORMAT, PreparedText, sync
from carbs_scaling.data.sources import Source
from carbs_scaling.data.tokenization import Tokenizer, load_tokenizer
from carbs_scaling.errors import ConfigError, DataError

SUFFIXES = (".bin", ".npy")
# llm.c's files begin with 256 integers of 32 bits, the first of which is one of these.
HEADER_BYTES, HEADER_MAGIC = 1024, {20240520: np.uint16, 20240801: np.uint32}
CHUNK = 1 << 24  # ids that are looked at together
# The tokens whose bytes are counted: more say no more of bytes a token.
MEASURED_TOKENS = 1 << 20


def are_token_files(files: tuple[Path, ...], validation: tuple[Path, ...]) -> bool:
    """Whether a text is token files.

    Raises:
        DataError: only in part.
    """
    ready = [file.suffix.lower() in SUFFIXES for file in (*files, *validation)]
    if any(ready) and not all(ready):
        raise DataError(
            "data.paths and data.validation_paths name token files (.bin, .npy) beside text: take one"
        )
    return bool(ready) and ready[0]


def build_ready(config: DataConfig, source: Source, validation: Source | None, files: Path) -> PreparedText:
    """The text of token files; what cannot stay where it lies is written to the folder `files`.

    Raises:
        DataError: a file that holds no ids, or ids that the vocabulary does not have.
        ConfigError: settings that do not go with token files.
    """
    if config.tokenizer == OWN_BPE or config.streaming:
        raise ConfigError(
            "data.paths names token files: they have a tokenizer already, data.tokenizer=NAME or none, and "
            "are read where they lie, without data.streaming"
        )
    tokenizer = None if config.tokenizer == NO_TOKENIZER else load_tokenizer(config, (), files)
    size = config.vocabulary_size if tokenizer is None else tokenizer.vocabulary_size
    train = [_open(file, size) for file in source.files]
    held = [] if validation is None else [_open(file, size) for file in validation.files]
    if not all(len(ids) for ids in (*train, *held)):
        raise DataError(f"{source.description} holds no tokens")
    content, most = sha256(), 0
    for ids in (*train, None, *held):  # None keeps the two apart
        if ids is None:
            content.update(b"held out")
            continue
        for chunk in _chunks(ids):
            content.update(chunk.astype("<u4").tobytes())
            most = max(most, int(chunk.max()))
            if chunk.min() < 0:
                raise DataError(f"{source.description} holds the token {chunk.min()}, which is none")
    if size is not None and most >= size:
        raise DataError(
            f"{source.description} holds the token {most}, but data.tokenizer has {size} tokens: name the "
            "tokenizer that made the files"
        )
    size = size or most + 1
    identity = NO_TOKENIZER if tokenizer is None else tokenizer.identity
    fraction = None if held else config.validation_fraction
    content.update(repr((FORMAT, identity, size, fraction)).encode())

    dtype = max(ids.dtype.newbyteorder("=") for ids in (*train, *held))
    tokens = sum(map(len, train))
    if held:
        validation_tokens = sum(map(len, held))
        validation_path = _in_place(validation.files, held) if validation else None
    else:
        validation_tokens = max(1, int(tokens * config.validation_fraction))
        tokens -= validation_tokens
        held, validation_path = [_last(train, validation_tokens)], None
    return PreparedText(
        train_path=_in_place(source.files, train) or _joined(train, files / "train.bin", dtype),
        validation_path=validation_path or _joined(held, files / "validation.bin", dtype),
        vocabulary_size=size,
        train_tokens=tokens,
        validation_tokens=validation_tokens,
        bytes_per_token=None if tokenizer is None else _bytes_per_token(tokenizer, held[0]),
        sha256=content.hexdigest(),
        description=f"{source.description}, {tokens + validation_tokens:,} tokens",
        tokenizer=NO_TOKENIZER if tokenizer is None else tokenizer.saved_as,
        dtype=str(dtype),
    )


def _open(file: Path, vocabulary_size: int | None) -> npt.NDArray[Any]:
    """The ids of a file, mapped."""
    try:
        if file.suffix.lower() == ".npy":
            ids = np.load(file, mmap_mode="r", allow_pickle=False)
            if ids.ndim != 1 or ids.dtype.kind not in "iu":
                raise DataError(f"{file} holds {ids.dtype} {list(ids.shape)}, not a row of whole numbers")
            return ids
        with file.open("rb") as handle:
            head = handle.read(4)
        header = HEADER_MAGIC.get(int.from_bytes(head, "little"))
        offset = 0 if header is None else HEADER_BYTES
        dtype = header or (np.uint16 if (vocabulary_size or 0) <= 1 << 16 else np.uint32)
        left = file.stat().st_size - offset
        if left < 4:
            raise DataError(f"{file} holds no tokens")
        ids = np.memmap(file, dtype=dtype, mode="r", offset=offset, shape=left // np.dtype(dtype).itemsize)
        # Ids of 32 bits read as 16: the upper halves are all 0.
        if header is None and dtype is np.uint16 and left % 4 == 0 and not ids[1:8192:2].any():
            ids = np.memmap(file, dtype=np.uint32, mode="r")
        return ids
    except (ValueError, EOFError) as error:
        raise DataError(f"cannot read {file} as tokens: {error}") from error


def _chunks(ids: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    return (ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK))


def _in_place(files: tuple[Path, ...], ids: list[npt.NDArray[Any]]) -> str | None:
    """The path of the only file, if its ids begin at its start."""
    is_plain = len(ids) == 1 and (files[0].suffix.lower() == ".npy" or not getattr(ids[0], "offset", 0))
    return str(files[0].absolute()) if is_plain else None


def _last(parts: list[npt.NDArray[Any]], count: int) -> npt.NDArray[Any]:
    """The last `count` ids of all."""
    found: list[npt.NDArray[Any]] = []
    for ids in reversed(parts):
        found.insert(0, ids[max(0, len(ids) - count) :])
        count -= len(found[0])
        if not count:
            break
    return np.concatenate(found)


def _joined(parts: list[npt.NDArray[Any]], file: Path, dtype: np.dtype[Any]) -> str:
    with file.open("wb") as handle:
        for ids in parts:
            _copy(ids, handle, dtype)
    sync(file)
    return str(file)


def _copy(ids: npt.NDArray[Any], handle: IO[bytes], dtype: np.dtype[Any]) -> None:
    for chunk in _chunks(ids):
        chunk.astype(dtype, copy=False).tofile(handle)


def _bytes_per_token(tokenizer: Tokenizer, ids: npt.NDArray[Any]) -> float:
    measured = np.asarray(ids[:MEASURED_TOKENS])
    return tokenizer.count_bytes(measured) / len(measured)
