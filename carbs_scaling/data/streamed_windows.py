"""Windows of a text that is tokenized as it is read: in order of its blocks, shuffled within each."""

import logging
import threading
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from carbs_scaling.data.blocks import BlockPlace
from carbs_scaling.data.prepared import map_ids
from carbs_scaling.data.stream import TokenStream
from carbs_scaling.errors import CarbsScalingError, DataError

logger = logging.getLogger(__name__)

# Blocks that are mapped at once: a batch may lie in two.
OPEN_BLOCKS = 2


class StreamedWindows:
    """The `windows.Windows` of a stream, numbered on from block to block.

    No window lies in two blocks. After the end of the text it begins again, in another order.

    Args:
        stream: of the text.
        dtype: of its ids.
        vocabulary_size: number of tokens V.
        sequence_length: T.

    Raises:
        DataError: a block, or the whole text, is too short for one window.
    """

    def __init__(
        self, stream: TokenStream, dtype: np.dtype[Any], vocabulary_size: int, sequence_length: int
    ) -> None:
        self._stream, self._dtype = stream, dtype
        self.sequence_length, self.vocabulary_size = sequence_length, vocabulary_size
        self._offsets = np.arange(sequence_length + 1)
        self._blocks: dict[int, npt.NDArray[Any]] = {}
        self._ahead: threading.Thread | None = None
        self._per_block = self._windows_of(stream.block_tokens)
        end = stream.end()
        if self._per_block < 1 or (end is not None and self._total(end) < 1):
            raise DataError(
                f"the training text, or a block of data.block_tokens={stream.block_tokens}, is too short for "
                f"a sequence of {sequence_length}: give more text, raise it, or lower model.sequence_length"
            )

    def _windows_of(self, tokens: int) -> int:
        return (tokens - 1) // self.sequence_length

    def _total(self, end: tuple[int, int]) -> int:
        blocks, last_tokens = end
        return (blocks - 1) * self._per_block + self._windows_of(last_tokens)

    def read(self, indices: npt.NDArray[np.int64]) -> torch.Tensor:
        """See `Windows`."""
        numbers, within = np.divmod(indices, self._per_block)
        windows = np.empty((len(indices), self.sequence_length + 1), dtype=np.int64)
        for number in np.unique(numbers):
            those = numbers == number
            ids = self._open(int(number))
            assert ids is not None
            windows[those] = ids[within[those, None] * self.sequence_length + self._offsets]
        return torch.from_numpy(windows)

    def order(self, batch_size: int, steps: int, seed: int, done: int = 0) -> Iterator[npt.NDArray[np.int64]]:
        """See `Windows`."""
        waiting = np.empty(0, dtype=np.int64)
        wanted = steps * batch_size
        parts = self._shuffled(seed, done * batch_size, wanted)
        for _ in range(done, steps):
            while len(waiting) < batch_size:
                waiting = np.concatenate([waiting, next(parts)])
            yield waiting[:batch_size]
            waiting = waiting[batch_size:]

    def _shuffled(self, seed: int, skip: int, wanted: int) -> Iterator[npt.NDArray[np.int64]]:
        """The windows of one block after the other, each in an order drawn from (seed, epoch, block).

        Args:
            seed: of the run.
            skip: windows that were read before.
            wanted: windows that the run reads in all.
        """
        epoch = number = given = 0
        while True:
            count = self._count(number, skip - given)
            if count is None:  # after the end
                epoch, number = epoch + 1, 0
                continue
            given += count
            if given > skip:
                if given < wanted:
                    self._make_ahead(number + 1)
                order = np.random.default_rng((seed, epoch, number)).permutation(count)
                yield order[max(0, count - (given - skip)) :] + number * self._per_block
                skip = given
            number += 1

    def _count(self, number: int, to_skip: int) -> int | None:
        """Windows in a block; None after the last. A block that is skipped whole is not made."""
        end = self._stream.end()
        if end is None and to_skip < self._per_block:
            self._open(number)
            end = self._stream.end()
        if end is None or number < end[0] - 1:
            return self._per_block
        return (self._windows_of(end[1]) or None) if number == end[0] - 1 else None

    def _open(self, number: int) -> npt.NDArray[Any] | None:
        """The ids of a block; None after the end."""
        if number not in self._blocks:
            file = self._stream.block(number)
            if file is None:
                return None
            while len(self._blocks) >= OPEN_BLOCKS:
                del self._blocks[next(iter(self._blocks))]
            end = self._stream.end()
            is_last = end is not None and number == end[0] - 1
            tokens = end[1] if end is not None and is_last else self._stream.block_tokens
            self._blocks[number] = map_ids(str(file), tokens, self._dtype)
        return self._blocks[number]

    def _make_ahead(self, number: int) -> None:
        """Have a block made while the one before it is trained on."""

        def make() -> None:
            try:
                self._stream.block(number)
            except (CarbsScalingError, OSError):
                return  # the run meets the same when it asks for the block

        if self._ahead is None or not self._ahead.is_alive():
            self._ahead = threading.Thread(target=make, name="next block of text", daemon=True)
            self._ahead.start()

    def repeats(self, windows_read: int) -> float:
        """See `Windows`; 1 until the end of the text was seen."""
        end = self._stream.end()
        return 1.0 if end is None else max(1.0, windows_read / self._total(end))

    def place(self, windows_read: int) -> dict[str, Any] | None:
        """See `Windows`: where the block begins that is read next, and where the text ends."""
        end = self._stream.end()
        number = (windows_read if end is None else windows_read % self._total(end)) // self._per_block
        place = self._stream.place(number)
        if place is None:
            return None
        return {"block": number, "document": place.document, "place": asdict(place), "end": end}

    def restore(self, place: dict[str, Any] | None) -> None:
        """See `Windows`."""
        if place is None:
            return
        end = place["end"]
        self._stream.remember(
            place["block"], BlockPlace(**place["place"]), None if end is None else (end[0], end[1])
        )
        logger.info(
            "%s: going on in block %d, which begins in document %d",
            self._stream.description, place["block"], place["document"],
        )  # fmt: skip
