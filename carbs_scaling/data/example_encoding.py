"""Texts and images as arrays of whole numbers, of the form that a model reads."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt

from carbs_scaling.data.example_tables import require_text
from carbs_scaling.data.hub import quiet_hub
from carbs_scaling.errors import DataError, NoSuchText

PAD = 0  # of bytes


@dataclass(frozen=True)
class InputForm:
    """What a model reads: texts of at most `sequence_length` tokens, or images.

    Args:
        sequence_length: T.
        image_size, channels: of images; 0 for texts.
    """

    sequence_length: int
    image_size: int = 0
    channels: int = 0

    @property
    def of_images(self) -> bool:
        """Whether it reads images."""
        return self.image_size > 0


class ImageEncoder:
    """Images to pixels, uint8 [n, channels size^2], a channel after the other."""

    def __init__(self, form: InputForm) -> None:
        self._form = form

    def __call__(self, columns: Sequence[Sequence[Any]], names: Sequence[str]) -> npt.NDArray[np.uint8]:
        size, channels = self._form.image_size, self._form.channels
        rows = np.empty((len(columns[0]), channels * size * size), dtype=np.uint8)
        for number, value in enumerate(columns[0]):
            pixels = self._pixels(value, number, names[0])
            rows[number] = pixels.reshape(size, size, channels).transpose(2, 0, 1).reshape(-1)
        return rows

    def _pixels(self, value: Any, number: int, name: str) -> npt.NDArray[np.uint8]:
        """An image as the model reads it, bytes [size, size, channels], or [size, size] of one channel."""
        size = self._form.image_size
        if isinstance(value, np.ndarray) and value.shape == (size, size) and self._form.channels == 1:
            return value
        from PIL import Image

        if isinstance(value, np.ndarray):
            value = Image.fromarray(value)
        if not isinstance(value, Image.Image):
            raise DataError(f"column {name!r}, row {number + 1}, holds {type(value).__name__}, not an image")
        try:
            image = value.convert("L" if self._form.channels == 1 else "RGB")
            return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
        except (OSError, ValueError) as error:
            raise DataError(f"the image in row {number + 1} cannot be read: {error}") from error


class TextEncoder:
    """Texts, or pairs of them, to tokens and their types, uint32 [n, 2 T], cut and filled up to T.

    Bytes: byte 0 stands between two texts and fills up. Another tokenizer adds its own marks.

    Args:
        name: of the tokenizer, as in `data.tokenizer`.
        form: what the model reads.
    """

    def __init__(self, name: str, form: InputForm) -> None:
        self._length = form.sequence_length
        self._tokenizer: Any = None
        self.vocabulary_size, self.pad, self.identity = 256, PAD, "bytes"
        if name != "bytes":
            self._tokenizer = load_fast_tokenizer(name)
            vocabulary = self._tokenizer.get_vocab()
            self.vocabulary_size = max(vocabulary.values()) + 1
            pad = self._tokenizer.pad_token_id
            self.pad = int(self._tokenizer.eos_token_id if pad is None else pad)
            self.identity = sha256(repr(sorted(vocabulary.items())).encode()).hexdigest()

    def __call__(self, columns: Sequence[Sequence[Any]], names: Sequence[str]) -> npt.NDArray[np.uint32]:
        for name, texts in zip(names, columns, strict=True):
            require_text(name, texts)
        length = self._length
        rows = np.zeros((len(columns[0]), 2 * length), dtype=np.uint32)
        rows[:, :length] = self.pad
        for number, (ids, types) in enumerate(self._encoded(columns)):
            rows[number, : len(ids)] = ids
            rows[number, length : length + len(types)] = types
        return rows

    def _encoded(self, columns: Sequence[Sequence[str]]) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
        if self._tokenizer is None:
            for texts in zip(*columns, strict=True):
                parts = [text.encode().replace(b"\0", b" ") for text in texts]
                share = self._length // len(parts)  # of a pair that is too long, as much of each
                if sum(map(len, parts)) + len(parts) - 1 > self._length:
                    parts = [part[: max(1, share - 1)] for part in parts] if len(parts) > 1 else parts
                ids = b"\0".join(parts)[: self._length]
                first = min(len(parts[0]) + 1, len(ids)) if len(parts) > 1 else len(ids)
                yield list(ids), [0] * first + [1] * (len(ids) - first)
            return
        found = self._tokenizer(
            *[list(c) for c in columns], truncation=True, max_length=self._length, verbose=False
        )
        types = found.get("token_type_ids") or [[0] * len(ids) for ids in found["input_ids"]]
        yield from zip(found["input_ids"], types, strict=True)


def load_fast_tokenizer(name: str) -> Any:
    """A tokenizer by its name or folder.

    Raises:
        NoSuchText: there is none.
    """
    from huggingface_hub.errors import HTTPError
    from transformers import AutoTokenizer

    try:
        with quiet_hub():
            return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError, HTTPError) as error:
        raise NoSuchText(
            f"cannot load the tokenizer {name!r}: data.tokenizer is `bytes`, the folder of a saved one, "
            "or a name on the hub, which must be in reach"
        ) from error
