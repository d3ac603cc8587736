"""Packed windows of tokens: what a step trains on, and what every trial is scored on."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from carbs_scaling.data.token_files import PreparedText
from carbs_scaling.data.tokenization import token_dtype
from carbs_scaling.errors import DataError

# Indices of windows, [n].
Indices = npt.NDArray[np.int64]


class TokenWindows:
    """A token file as windows of T + 1 ids: inputs are the first T, targets the last T.

    Neighbours share one id, the last target of one and the first input of the next, so that every id but the
    first is predicted once. Ids at the end that fill no window are left out.

    Args:
        path: raw ids.
        vocabulary_size: number of tokens V, which gives the type of the ids.
        sequence_length: T.

    Raises:
        DataError: the file is too short for one window.
    """

    def __init__(self, path: str, vocabulary_size: int, sequence_length: int) -> None:
        dtype = token_dtype(vocabulary_size)
        self._ids = np.memmap(path, dtype=dtype, mode="r")
        self._offsets = np.arange(sequence_length + 1)
        self.sequence_length = sequence_length
        self.vocabulary_size = vocabulary_size
        if len(self) < 1:
            split = "validation" if path.endswith("validation.bin") else "training"
            raise DataError(
                f"the {split} text has {self._ids.size} tokens, too few for a sequence of {sequence_length}: "
                "give more text, or lower model.sequence_length"
            )

    def __len__(self) -> int:
        return (self._ids.size - 1) // self.sequence_length

    def read(self, indices: Indices) -> torch.Tensor:
        """The windows `indices`, int64 [b] -> int64 [b, T + 1]."""
        positions = indices[:, None] * self.sequence_length + self._offsets
        return torch.from_numpy(self._ids[positions].astype(np.int64))


def training_windows(text: PreparedText, sequence_length: int) -> TokenWindows:
    """The windows that are trained on."""
    return TokenWindows(text.train_path, text.vocabulary_size, sequence_length)


def validation_windows(text: PreparedText, sequence_length: int) -> TokenWindows:
    """All held-out windows; `validation_indices` says which are scored."""
    return TokenWindows(text.validation_path, text.vocabulary_size, sequence_length)


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
