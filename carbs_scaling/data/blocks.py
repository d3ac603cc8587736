"""The tokens of a text in blocks, read from any place where a block begins."""

from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from carbs_scaling.data.sources import Documents, Place, Source
from carbs_scaling.data.splitting import Document
from carbs_scaling.data.tokenization import Tokenizer, token_dtype

DIGEST_BYTES = 16
# Text that is tokenized together: the stream's place is asked for so often.
BATCH_BYTES = 1 << 18


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
