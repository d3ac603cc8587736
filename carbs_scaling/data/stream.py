"""A text that is tokenized while runs train on it, in blocks that are shared by all trials of a machine.

The folder of a stream holds

    settings.json          where the text is and how it becomes tokens
    validation.bin         what every trial is scored on
    held_out.digests       hashes of documents that are never trained on
    places/NUMBER.json     where the text goes on at the beginning of a block
    blocks/NUMBER.bin      its tokens; those used longest ago are dropped
    end.json               number of blocks, once the end of the text was seen

Block k holds the same tokens whoever makes it, and from any place before it. A run needs one block at a time
and has the next one made meanwhile. Its checkpoints hold the place of its block, so that they go on at the
same document where the folder is gone.
"""

import atexit
import json
import math
import os
import shutil
import tempfile
import threading
from collections import deque
from dataclasses import asdict, dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from carbs_scaling.data.config import OWN_BPE, DataConfig
from carbs_scaling.data.prepared import FORMAT, PreparedText, read_json, sync
from carbs_scaling.data.sources import (
    Documents,
    Place,
    Source,
    find_source,
    find_validation_source,
    stat_files,
)
from carbs_scaling.data.splitting import Document, encode_documents
from carbs_scaling.data.tokenization import Tokenizer, load_tokenizer, token_dtype
from carbs_scaling.errors import ConfigError, DataError
from carbs_scaling.files import write_atomically

SETTINGS, HELD_OUT, END, TOKENIZER = "settings.json", "held_out.digests", "end.json", "tokenizer"
DIGEST_BYTES = 16
SAMPLES, SAMPLE_BYTES = 16, 4096  # of each file, for its fingerprint
# Text that is tokenized together: the stream's place is asked for so often.
BATCH_BYTES = 1 << 18


def make_stream(config: DataConfig, files: Path, scratch: Path) -> PreparedText:
    """Write the folder of a stream, with its validation set and its first block.

    Args:
        config: with the commit of a hub data set.
        files: the folder.
        scratch: another one, which the caller removes.

    Raises:
        DataError: text that is missing, unreadable or too short.
        ConfigError: nothing says which text is held out.
    """
    if not (config.has_validation_set or config.max_validation_bytes):
        raise ConfigError(
            "data.streaming=true needs data.validation_paths, data.validation_split, or "
            "data.max_validation_bytes for how much is held out"
        )
    source, validation = find_source(config), find_validation_source(config)
    fraction = 0.0 if validation else config.validation_fraction
    by_hash = HeldOut(b"", fraction)
    held_source = validation or source
    held: list[Document] = []
    room = math.inf if config.max_validation_bytes is None else config.max_validation_bytes
    for document in encode_documents(held_source.open(scratch / "held", None)):
        if validation or document in by_hash:
            held.append(document)
            room -= len(document.data)
            if room <= 0:
                break
    if not held:
        raise DataError(f"{held_source.description} holds no text to hold out")
    digests = b"".join(document.digest for document in held)
    held_out = HeldOut(digests, fraction)
    documents = encode_documents(source.open(scratch / "sample", None))
    sample = (document.data for document in documents if document not in held_out)
    tokenizer = load_tokenizer(config, sample, files / TOKENIZER)
    dtype = token_dtype(tokenizer.vocabulary_size)
    parts = []
    for ids in tokenizer.encode([document.data for document in held]):
        parts += [ids.astype(dtype), np.array([tokenizer.separator], dtype=dtype)]
    validation_ids = np.concatenate(parts)
    validation_ids.tofile(files / "validation.bin")
    (files / HELD_OUT).write_bytes(digests)
    (files / SETTINGS).write_text(json.dumps({"config": vars(config)}), encoding="utf-8")

    stream = TokenStream(files)
    if stream.block(0) is None:
        raise DataError(f"{source.description} holds no text beside what is held out")
    stream.close()
    where = {name: getattr(config, name) for name in ("name", "subset", "split", "revision", "text_column")}
    content = [
        FORMAT, where if config.source == "hub" else _fingerprint(source.files), config.max_bytes,
        config.block_tokens, tokenizer.identity, fraction, sha256(digests).hexdigest(),
    ]  # fmt: skip
    return PreparedText(
        train_path=str(files),
        validation_path=str(files / "validation.bin"),
        vocabulary_size=tokenizer.vocabulary_size,
        train_tokens=None,
        validation_tokens=validation_ids.size,
        bytes_per_token=sum(len(document.data) for document in held) / validation_ids.size,
        sha256=sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
        description=f"{source.description}, streamed in blocks of {config.block_tokens:,} tokens",
        tokenizer=tokenizer.saved_as,
        revision=config.revision if config.source == "hub" else None,
    )


def _fingerprint(files: tuple[Path, ...]) -> str:
    """A hash of sizes and samples of local files, wherever they lie: a stream is not read to its end."""
    digest = sha256()
    for file in stat_files(files):
        size = file.stat().st_size
        digest.update(f"{file.name} {size} ".encode())
        with file.open("rb") as handle:
            for sample in range(SAMPLES):
                handle.seek(sample * max(0, size - SAMPLE_BYTES) // (SAMPLES - 1))
                digest.update(handle.read(SAMPLE_BYTES))
    return digest.hexdigest()


def set_cached_blocks(folder: Path, cached_blocks: int | None) -> None:
    """Change how many blocks of a stream stay on disk, for whoever opens it from now on."""
    settings = read_json(folder / SETTINGS)
    if settings is not None and settings["config"]["cached_blocks"] != cached_blocks:
        settings["config"]["cached_blocks"] = cached_blocks
        write_atomically(folder / SETTINGS, json.dumps(settings).encode())


@cache
def open_stream(folder: str) -> "TokenStream":
    """The stream of a folder, one a process: trials after each other read its text once."""
    return TokenStream(Path(folder))


@dataclass(frozen=True)
class BlockPlace:
    """Where a block begins.

    Args:
        place: of the source, at the beginning of some documents.
        bytes: text that was used before it.
        documents: documents that came before it.
        skip_documents: of those that follow, so many are in earlier blocks ...
        skip_tokens: ... and so many tokens of the next one.
    """

    place: Place | None = None
    bytes: int = 0
    documents: int = 0
    skip_documents: int = 0
    skip_tokens: int = 0

    @property
    def document(self) -> int:
        """Number of the document that the block begins in."""
        return self.documents + self.skip_documents


class HeldOut:
    """Which documents of a stream are never trained on.

    Args:
        digests: hashes of documents, one after the other.
        fraction: share of all documents that is held out, by their hash; 0 where the digests say it all.
    """

    def __init__(self, digests: bytes, fraction: float) -> None:
        self._digests = {digests[i : i + DIGEST_BYTES] for i in range(0, len(digests), DIGEST_BYTES)}
        self._below = int(fraction * (1 << 64))

    def __contains__(self, document: Document) -> bool:
        by_hash = int.from_bytes(document.digest[:8], "big") < self._below
        return by_hash or document.digest in self._digests


class BlockReader:
    """Reads a text from a place on and gives its tokens in blocks.

    Args:
        source: of the text.
        tokenizer: for it.
        held_out: documents to leave out.
        max_bytes: of text in all; None for all there is.
        scratch: a folder that the caller removes.
        start: where to begin.
    """

    def __init__(
        self,
        source: Source,
        tokenizer: Tokenizer,
        held_out: HeldOut,
        max_bytes: int | None,
        scratch: Path,
        start: BlockPlace,
    ) -> None:
        self._tokenizer, self._held_out, self._max_bytes = tokenizer, held_out, max_bytes
        self._documents: Documents = source.open(scratch, start.place)
        self._texts = iter(self._documents)
        self._dtype = token_dtype(tokenizer.vocabulary_size)
        # Ids of documents that were read and not given away, each with its number in the batch; of the first
        # so many ids were given away.
        self._waiting: deque[tuple[int, npt.NDArray[Any]]] = deque()
        self._given = start.skip_tokens
        self._is_full = False
        # Where the batch of these documents begins and ends.
        self._batch = self._batch_end = replace(start, skip_documents=0, skip_tokens=0)
        if start != self._batch:
            self._read_batch(start.skip_documents + 1)
            while self._waiting and self._waiting[0][0] < start.skip_documents:
                self._waiting.popleft()

    def place(self) -> BlockPlace:
        """Where the next block begins."""
        if not self._waiting:
            return self._batch_end
        return replace(self._batch, skip_documents=self._waiting[0][0], skip_tokens=self._given)

    def next_block(self, tokens: int) -> npt.NDArray[Any]:
        """The next ids, [tokens], or fewer at the end of the text."""
        parts: list[npt.NDArray[Any]] = []
        while tokens:
            if not self._waiting and not self._read_batch():
                break
            if not self._waiting:
                continue
            ids = self._waiting[0][1][self._given : self._given + tokens]
            parts.append(ids)
            tokens -= len(ids)
            self._given += len(ids)
            if self._given == len(self._waiting[0][1]):
                self._waiting.popleft()
                self._given = 0
        return np.concatenate(parts) if parts else np.empty(0, dtype=self._dtype)

    def _read_batch(self, at_least: int = 1) -> bool:
        """Read and tokenize further documents; False at the end of the text."""
        if self._is_full:
            return False
        self._batch = self._batch_end
        numbers: list[int] = []
        batch: list[bytes] = []
        count, size, used = 0, 0, self._batch.bytes
        while size < BATCH_BYTES or count < at_least:
            text = next(self._texts, None)
            if text is None:
                break
            number, count = count, count + 1
            size += len(text)
            if not text or text.isspace():
                continue
            document = Document.of(text.encode("utf-8", errors="replace"))
            if document in self._held_out:
                continue
            used += len(document.data)
            if self._max_bytes is not None and used > self._max_bytes:
                self._is_full = True
                break
            numbers.append(number)
            batch.append(document.data)
        separator = np.array([self._tokenizer.separator], dtype=self._dtype)
        for number, ids in zip(numbers, self._tokenizer.encode(batch) if batch else [], strict=True):
            self._waiting.append((number, np.concatenate([ids.astype(self._dtype, copy=False), separator])))
        self._batch_end = BlockPlace(self._documents.place(), used, self._batch.documents + count)
        return count > 0


class TokenStream:
    """The blocks of a stream, made when they are asked for.

    Args:
        folder: of the stream; see `make_stream`.

    Raises:
        DataError: it is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        settings = read_json(folder / SETTINGS)
        if settings is None:
            raise DataError(
                f"the folder {folder} of a stream of text is damaged: remove it, and run it again"
            )
        self.folder = folder
        self._config = DataConfig(**settings["config"])
        self.block_tokens = self._config.block_tokens
        self._reader: BlockReader | None = None
        self._at = 0  # number of the block that the reader gives next
        self._scratch: str | None = None
        self._one_at_a_time = threading.Lock()

    @property
    def description(self) -> str:
        """What the text is."""
        return find_source(self._config).description

    def end(self) -> tuple[int, int] | None:
        """Number of blocks and tokens of the last one; None while nobody has seen the end."""
        end = read_json(self.folder / END)
        return None if end is None else (end["blocks"], end["last_tokens"])

    def place(self, number: int) -> BlockPlace | None:
        """Where a block begins, if that is known."""
        if number == 0:
            return BlockPlace()
        values = read_json(self._place_file(number))
        return None if values is None else BlockPlace(**values)

    def remember(self, number: int, place: BlockPlace, end: tuple[int, int] | None) -> None:
        """Take over where a block begins, and where the text ends, from a checkpoint."""
        if self.place(number) is None:
            write_atomically(self._place_file(number), json.dumps(asdict(place)).encode())
        if end is not None and self.end() is None:
            self._write_end(*end)

    def block(self, number: int) -> Path | None:
        """The file of a block, made where it is not there; None after the end.

        Raises:
            DataError: the text cannot be read.
            OSError, CarbsScalingError: the folder cannot be written.
        """
        file = self._block_file(number)
        with self._one_at_a_time:
            end = self.end()
            if end is not None and number >= end[0]:
                return None
            if not file.exists():
                with FileLock(self.folder / ".lock"):
                    self._make(number)
                if not file.exists():
                    return None
        os.utime(file)  # used just now: dropped after the others
        return file

    def _make(self, number: int) -> None:
        """Make a block, and those between it and the nearest known place."""
        file = self._block_file(number)
        while not file.exists():
            known = number
            while (place := self.place(known)) is None:
                known -= 1
            if self._reader is None or not known <= self._at <= number:
                self._open(known, place)
            assert self._reader is not None
            ids = self._reader.next_block(self.block_tokens)
            after = self._reader.place()
            if len(ids):
                self._write(self._at, ids)
                write_atomically(self._place_file(self._at + 1), json.dumps(asdict(after)).encode())
            if len(ids) < self.block_tokens:
                full = self._at if not len(ids) else self._at + 1
                self._write_end(full, len(ids) or self.block_tokens)
                self._reader = None
                return
            self._at += 1

    def _open(self, number: int, place: BlockPlace) -> None:
        if self._scratch is None:
            self._scratch = tempfile.mkdtemp(prefix="carbs-scaling-stream-")
            atexit.register(shutil.rmtree, self._scratch, ignore_errors=True)
        config = self._config
        held_out = HeldOut(
            (self.folder / HELD_OUT).read_bytes(),
            0.0 if config.has_validation_set else config.validation_fraction,
        )
        made = config
        if config.tokenizer == OWN_BPE:
            made = replace(config, tokenizer=str(self.folder / TOKENIZER), vocabulary_size=None)
        tokenizer = load_tokenizer(made, (), self.folder)
        self._reader = BlockReader(
            find_source(config), tokenizer, held_out, config.max_bytes, Path(self._scratch), place
        )
        self._at = number

    def _write(self, number: int, ids: npt.NDArray[Any]) -> None:
        file = self._block_file(number)
        file.parent.mkdir(exist_ok=True)
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        ids.tofile(temporary)
        sync(temporary)
        temporary.replace(file)
        if self._config.cached_blocks is not None:
            kept = sorted(file.parent.glob("[0-9]*.bin"), key=lambda path: path.stat().st_mtime_ns)
            for old in kept[: -self._config.cached_blocks]:
                old.unlink(missing_ok=True)  # who reads it keeps it open

    def _write_end(self, blocks: int, last_tokens: int) -> None:
        values = {"blocks": blocks, "last_tokens": last_tokens}
        write_atomically(self.folder / END, json.dumps(values).encode())

    def _block_file(self, number: int) -> Path:
        return self.folder / "blocks" / f"{number:09d}.bin"

    def _place_file(self, number: int) -> Path:
        return self.folder / "places" / f"{number:09d}.json"

    def close(self) -> None:
        """Close the text."""
        self._reader = None
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None
