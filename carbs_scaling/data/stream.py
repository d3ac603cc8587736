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
from dataclasses import asdict, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from carbs_scaling.data.blocks import BlockPlace, BlockReader, HeldOut
from carbs_scaling.data.config import OWN_BPE, DataConfig
from carbs_scaling.data.prepared import FORMAT, PreparedText, read_json, sync
from carbs_scaling.data.sources import (
    find_source,
    find_validation_source,
    stat_files,
)
from carbs_scaling.data.splitting import Document, encode_documents
from carbs_scaling.data.tokenization import load_tokenizer, token_dtype
from carbs_scaling.errors import ConfigError, DataError
from carbs_scaling.files import write_atomically

SETTINGS, HELD_OUT, END, TOKENIZER = "settings.json", "held_out.digests", "end.json", "tokenizer"
SAMPLES, SAMPLE_BYTES = 16, 4096  # of each file, for its fingerprint


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
