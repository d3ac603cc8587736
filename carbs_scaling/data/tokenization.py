"""Text to token ids: bytes, a byte-level BPE made from the text, or any Hugging Face tokenizer."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from carbs_scaling.data.config import BYTES, NO_TOKENIZER, OWN_BPE, DataConfig
from carbs_scaling.data.hub import quiet_hub
from carbs_scaling.errors import ConfigError, DataError, NoSuchText

# Ids of one document, [n].
TokenIds = npt.NDArray[np.unsignedinteger]
# Text handed to the tokenizer at a time: enough to keep its threads busy.
ENCODE_BYTES = 1 << 22
# The first text that a BPE is made from: its merges hardly change with more.
BPE_BYTES = 1 << 26
END_OF_TEXT = "<|endoftext|>"


class Tokenizer(Protocol):
    """What the token file needs to know of a tokenizer.

    `vocabulary_size` is one above the largest id, `separator` the id that ends a document, `identity` changes
    whenever the same text would give other ids, and `saved_as` is the name or folder that
    `training.saved_model` loads it by.
    """

    @property
    def vocabulary_size(self) -> int: ...

    @property
    def separator(self) -> int: ...

    @property
    def identity(self) -> str: ...

    @property
    def saved_as(self) -> str: ...

    def count_bytes(self, ids: npt.NDArray[np.integer]) -> int:
        """UTF-8 bytes of the text that these ids stand for, without separators."""
        ...

    def encode(self, documents: list[bytes]) -> list[TokenIds]:
        """The ids of each UTF-8 document, without the separator."""
        ...


@dataclass(frozen=True)
class ByteTokenizer:
    """Each byte is a token; byte 0, which text does not hold, ends a document."""

    vocabulary_size: int = 256
    separator: int = 0
    identity: str = BYTES
    saved_as: str = BYTES

    def count_bytes(self, ids: npt.NDArray[np.integer]) -> int:
        """See `Tokenizer`."""
        return int(np.count_nonzero(ids != self.separator))

    def encode(self, documents: list[bytes]) -> list[TokenIds]:
        """Views of the documents' own bytes, uint8 [n]."""
        return [np.frombuffer(document, dtype=np.uint8) for document in documents]


class PretrainedTokenizer:
    """A Hugging Face tokenizer by name or folder; its end-of-text token ends a document.

    That token never stands within a document: text that spells it is tokenized as any other.
    """

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
                f"cannot load the tokenizer {name!r}: data.tokenizer is `bytes`, `bpe`, the folder of a "
                "saved tokenizer, or a name on the hub, which must be in reach"
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
        self.saved_as = name
        self.identity = sha256(f"{self.separator} {state}".encode()).hexdigest()

    def encode(self, documents: list[bytes]) -> list[TokenIds]:
        """The ids of each document, uint32 [n]."""
        texts = [document.decode("utf-8") for document in documents]
        # verbose=False: no warning that a document is longer than the tokenizer's own model takes.
        ids = self._tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)[
            "input_ids"
        ]
        return [np.asarray(row, dtype=np.uint32) for row in ids]

    def count_bytes(self, ids: npt.NDArray[np.integer]) -> int:
        """See `Tokenizer`."""
        plain = ids[ids != self.separator]
        return len(str(self._tokenizer.decode(plain, clean_up_tokenization_spaces=False)).encode())


def load_tokenizer(config: DataConfig, sample: Iterable[bytes], folder: Path) -> Tokenizer:
    """The tokenizer that `data.tokenizer` names.

    Args:
        config: the text.
        sample: UTF-8 documents that are trained on, which a BPE is made from; read no further than needed.
        folder: where such a one is saved.

    Raises:
        DataError: it cannot be found, or has no end-of-text token.
        ConfigError: there is none.
    """
    if config.tokenizer == BYTES:
        return ByteTokenizer()
    if config.tokenizer == NO_TOKENIZER:
        raise ConfigError("data.tokenizer=none is for token files (.bin, .npy): text needs a tokenizer")
    if config.tokenizer == OWN_BPE:
        assert config.vocabulary_size is not None
        make_bpe(sample, config.vocabulary_size, folder)
        return PretrainedTokenizer(str(folder))
    return PretrainedTokenizer(config.tokenizer)


def make_bpe(sample: Iterable[bytes], vocabulary_size: int, folder: Path) -> None:
    """Make a byte-level BPE, split into words as GPT-2's is, and save it as `transformers` loads it.

    A small text gives fewer tokens: no pair of tokens that comes once only is merged.

    Args:
        sample: UTF-8 documents; the first `BPE_BYTES` are used.
        vocabulary_size: most tokens, with the 256 bytes and the end of a text.
        folder: made for it.
    """
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator((data.decode("utf-8") for data in _first_bytes(sample)), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=END_OF_TEXT, clean_up_tokenization_spaces=False
    )
    fast.save_pretrained(folder)


def _first_bytes(sample: Iterable[bytes]) -> Iterator[bytes]:
    seen = 0
    for data in sample:
        yield data
        seen += len(data)
        if seen >= BPE_BYTES:
            return


def batches_of_bytes(documents: Iterable[tuple[int, bytes]], size: int) -> Iterator[list[tuple[int, bytes]]]:
    """Numbered documents in lists of about `size` bytes."""
    batch: list[tuple[int, bytes]] = []
    waiting = 0
    for number, data in documents:
        batch.append((number, data))
        waiting += len(data)
        if waiting >= size:
            yield batch
            batch, waiting = [], 0
    if batch:
        yield batch


def tokenizer_files(name: str) -> tuple[Path, ...]:
    """The files of a tokenizer in a local folder; empty for `bytes` and for names on a hub."""
    folder = Path(name)
    return tuple(sorted(file for file in folder.iterdir() if file.is_file())) if folder.is_dir() else ()


def token_dtype(vocabulary_size: int) -> np.dtype[np.unsignedinteger]:
    """The smallest unsigned integer that holds every id."""
    if vocabulary_size <= 1 << 8:
        return np.dtype(np.uint8)
    return np.dtype(np.uint16) if vocabulary_size <= 1 << 16 else np.dtype(np.uint32)
