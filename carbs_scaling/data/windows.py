"""Packed windows of tokens: what a step trains on, and what every trial is scored on."""

from collections.abc import Iterator
from itertools import islice
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from carbs_scaling.data.prepared import PreparedText, map_ids
from carbs_scaling.data.stream import open_stream
from carbs_scaling.data.streamed_windows import StreamedWindows
from carbs_scaling.errors import DataError

# Indices of windows, [n].
Indices = npt.NDArray[np.int64]


class Windows(Protocol):
    """Windows of T + 1 ids, and the order in which a run reads them."""

    sequence_length: int
    vocabulary_size: int

    def read(self, indices: Indices) -> torch.Tensor:
        """The windows `indices`, int64 [b] -> int64 [b, T + 1]."""
        ...

    def order(self, batch_size: int, steps: int, seed: int, done: int = 0) -> Iterator[Indices]:
        """Window indices of each step after the first `done`, int64 [batch_size]."""
        ...

    def repeats(self, windows_read: int) -> float:
        """How often a run that read so many windows saw each of those that it saw, on average; at least 1."""
        ...

    def place(self, windows_read: int) -> dict[str, Any] | None:
        """What a checkpoint must keep, as plain JSON, to go on after so many windows; None for nothing."""
        ...

    def restore(self, place: dict[str, Any] | None) -> None:
        """The inverse of `place`, before `order`."""
        ...


class ShuffledWindows:
    """What all `Windows` share that lie on disk as a whole: every epoch is a permutation of all of them."""

    def __len__(self) -> int:
        raise NotImplementedError

    def order(self, batch_size: int, steps: int, seed: int, done: int = 0) -> Iterator[Indices]:
        """See `Windows`."""
        return islice(training_order(len(self), batch_size, steps, seed), done, None)

    def repeats(self, windows_read: int) -> float:
        """See `Windows`."""
        return max(1.0, windows_read / len(self))

    def place(self, windows_read: int) -> dict[str, Any] | None:
        """See `Windows`: the step says it all."""
        return None

    def restore(self, place: dict[str, Any] | None) -> None:
        """See `Windows`."""


class TokenWindows(ShuffledWindows):
    """Ids as windows of T + 1: inputs are the first T, targets the last T. A `Windows`.

    Neighbours share one id, the last target of one and the first input of the next, so that every id but the
    first is predicted once. Ids at the end that fill no window are left out.

    Args:
        ids: [n], of any type of whole numbers; read where it is needed.
        vocabulary_size: number of tokens V.
        sequence_length: T.
        what: of the text, for messages.

    Raises:
        DataError: there are too few ids for one window.
    """

    def __init__(
        self, ids: npt.NDArray[Any], vocabulary_size: int, sequence_length: int, what: str = "training"
    ) -> None:
        self._ids = ids
        self._offsets = np.arange(sequence_length + 1)
        self.sequence_length = sequence_length
        self.vocabulary_size = vocabulary_size
        if len(self) < 1:
            raise DataError(
                f"the {what} text has {ids.size} tokens, too few for a sequence of {sequence_length}: "
                "give more text, or lower model.sequence_length"
            )

    def __len__(self) -> int:
        return (self._ids.size - 1) // self.sequence_length

    def read(self, indices: Indices) -> torch.Tensor:
        """See `Windows`."""
        positions = indices[:, None] * self.sequence_length + self._offsets
        return torch.from_numpy(self._ids[positions].astype(np.int64))


def training_windows(text: PreparedText, sequence_length: int) -> Windows:
    """The windows that are trained on.

    Raises:
        DataError: the text is too short for one, or its file was cut short.
    """
    if text.train_tokens is None:
        stream = open_stream(text.train_path)
        return StreamedWindows(stream, text.ids_dtype, text.vocabulary_size, sequence_length)
    ids = map_ids(text.train_path, text.train_tokens, text.ids_dtype)
    return TokenWindows(ids, text.vocabulary_size, sequence_length)


def validation_windows(text: PreparedText, sequence_length: int) -> TokenWindows:
    """All held-out windows; `validation_indices` says which are scored.

    Raises:
        DataError: the text is too short for one, or its file was cut short.
    """
    ids = map_ids(text.validation_path, text.validation_tokens, text.ids_dtype)
    return TokenWindows(ids, text.vocabulary_size, sequence_length, "validation")


def training_order(windows: int, batch_size: int, steps: int, seed: int) -> Iterator[Indices]:
    """Window indices of each step, int64 [batch_size]: every epoch is a permutation drawn from (seed, epoch).

    Epochs follow each other without a gap: a batch may hold the end of one and the start of the next.
    """
    waiting = np.empty(0, dtype=np.int64)
    epoch = 0
    for _ in range(steps):
        parts = [waiting]
        have = len(waiting)
        while have < batch_size:
            parts.append(np.random.default_rng((seed, epoch)).permutation(windows))
            have += windows
            epoch += 1
        if len(parts) > 1:
            waiting = np.concatenate(parts)
        yield waiting[:batch_size]
        waiting = waiting[batch_size:]


def validation_indices(windows: int, sequence_length: int, validation_tokens: int) -> Indices:
    """The windows that are scored, int64 [n]: always the same, evenly spread, of `validation_tokens` tokens.

    At least one window is scored, however few tokens are asked for.
    """
    wanted = min(windows, max(1, validation_tokens // sequence_length))
    return np.arange(wanted) * windows // wanted
