"""Text to token ids: bytes, or any Hugging Face tokenizer."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from carbs_scaling.data.hub import quiet_hub
from carbs_scaling.errors import DataError, NoSuchText

# Ids of one document, [n].
TokenIds = npt.NDArray[np.unsignedinteger]


class Tokenizer(Protocol):
    """What the token file needs to know of a tokenizer.

    `vocabulary_size` is one above the largest id, `separator` the id that ends a document, and `identity`
    changes whenever the same text would give other ids.
    """

    @property
    def vocabulary_size(self) -> int: ...

    @property
    def separator(self) -> int: ...

    @property
    def identity(self) -> str: ...

    def encode(self, documents: list[bytes]) -> list[TokenIds]:
        """The ids of each UTF-8 document, without the separator."""
        ...


@dataclass(frozen=True)
class ByteTokenizer:
    """Each byte is a token; byte 0, which text does not hold, ends a document."""

    vocabulary_size: int = 256
    separator: int = 0
    identity: str = "bytes"

    def encode(self, documents: list[bytes]) -> list[TokenIds]:
        """Views of the documents' own bytes, uint8 [n]."""
        return [np.frombuffer(document, dtype=np.uint8) for document in documents]


class PretrainedTokenizer:
    """A Hugging Face tokenizer by name or folder; its end-of-text token ends a document."""

    def __init__(self, name: str) -> None:
        from huggingface_hub.errors import HTTPError
        from transformers import AutoTokenizer
        from transformers.utils import logging

        logging.set_verbosity_error()
        try:
            with quiet_hub():
                self._tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        except (OSError, ValueError, KeyError, ImportError, HTTPError) as error:
            raise NoSuchText(
                f"cannot load the tokenizer {name!r}: data.tokenizer is `bytes`, the folder of a saved "
                "tokenizer, or a name on the hub, which must be in reach"
            ) from error
        if self._tokenizer.eos_token_id is None:
            raise DataError(
                f"the tokenizer {name!r} has no end-of-text token (eos_token) to put between documents"
            )
        vocabulary = self._tokenizer.get_vocab()
        # What transformers makes of a folder without a tokenizer's files.
        if set(vocabulary) <= set(self._tokenizer.all_special_tokens):
            raise DataError(
                f"the tokenizer {name!r} knows no words: are its files in the folder of the model?"
            )
        self.vocabulary_size = max(vocabulary.values()) + 1
        self.separator = int(self._tokenizer.eos_token_id)
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        state = backend.to_str() if backend is not None else repr(sorted(vocabulary.items()))
        self.identity = sha256(f"{self.separator} {state}".encode()).hexdigest()

    def encode(self, documents: list[bytes]) -> list[TokenIds]:
        """The ids of each document, uint32 [n]."""
        texts = [document.decode("utf-8") for document in documents]
        # verbose=False: no warning that a document is longer than the tokenizer's own model takes.
        ids = self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return [np.asarray(row, dtype=np.uint32) for row in ids]


def load_tokenizer(name: str) -> Tokenizer:
    """The tokenizer that `data.tokenizer` names.

    Raises:
        DataError: it cannot be found, or has no end-of-text token.
    """
    return ByteTokenizer() if name == "bytes" else PretrainedTokenizer(name)


def tokenizer_files(name: str) -> tuple[Path, ...]:
    """The files of a tokenizer in a local folder; empty for `bytes` and for names on a hub."""
    folder = Path(name)
    return tuple(sorted(file for file in folder.iterdir() if file.is_file())) if folder.is_dir() else ()


def token_dtype(vocabulary_size: int) -> np.dtype[np.unsignedinteger]:
    """The smallest unsigned integer that holds every id."""
    if vocabulary_size <= 1 << 8:
        return np.dtype(np.uint8)
    return np.dtype(np.uint16) if vocabulary_size <= 1 << 16 else np.dtype(np.uint32)
