"""Which text is held out: by document, through a hash of its content, whatever the order of the files."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain, islice

# Fewer documents than this cannot be split at about the wanted fraction: they are cut into pieces.
FEW_DOCUMENTS = 50
PIECES_OF_FEW = 200
SMALLEST_PIECE_BYTES = 256


@dataclass(frozen=True)
class Document:
    """A text as UTF-8 bytes, with the hash that names it."""

    data: bytes
    digest: bytes

    @staticmethod
    def of(data: bytes) -> "Document":
        """The document with these bytes."""
        return Document(data, blake2b(data, digest_size=16).digest())


def encode_documents(texts: Iterable[str]) -> Iterator[Document]:
    """The texts as documents; those of white space alone are left out."""
    for text in texts:
        if text and not text.isspace():
            yield Document.of(text.encode("utf-8", errors="replace"))


def drop_duplicates(documents: Iterable[Document]) -> Iterator[Document]:
    """Each content once, where it comes first: a copy on the other side of the split would be a leak."""
    seen: set[bytes] = set()
    for document in documents:
        if document.digest not in seen:
            seen.add(document.digest)
            yield document


def cap_bytes(documents: Iterable[Document], max_bytes: int | None) -> Iterator[Document]:
    """The documents up to `max_bytes` in all; the last one is cut there, between two characters."""
    if max_bytes is None:
        yield from documents
        return
    left = max_bytes
    for document in documents:
        if len(document.data) < left:
            left -= len(document.data)
            yield document
            continue
        data = document.data[: _character_boundary(document.data, left)]
        if data:
            yield Document.of(data)
        return


def cut_if_few(documents: Iterable[Document]) -> tuple[Iterable[Document], bool]:
    """Fewer than `FEW_DOCUMENTS` documents are cut at blank lines into about `PIECES_OF_FEW` pieces in all.

    Returns:
        The documents or their pieces, and whether they were cut.
    """
    stream = iter(documents)
    head = list(islice(stream, FEW_DOCUMENTS))
    if len(head) == FEW_DOCUMENTS:
        return chain(head, stream), False
    size = max(SMALLEST_PIECE_BYTES, sum(len(document.data) for document in head) // PIECES_OF_FEW)
    pieces = (Document.of(piece) for document in head for piece in _pieces(document.data, size))
    return drop_duplicates(pieces), True


def _pieces(data: bytes, size: int) -> Iterator[bytes]:
    """`data` in pieces of `size` / 2 to `size` bytes, cut at a blank line or else a line end, if any."""
    start = 0
    while len(data) - start > size:
        half, whole = start + size // 2, start + size
        end = data.rfind(b"\n\n", half, whole) + 2
        if end < 2:
            end = data.rfind(b"\n", half, whole) + 1 or _character_boundary(data, whole)
        yield data[start:end]
        start = end
    yield data[start:]


def _character_boundary(data: bytes, end: int) -> int:
    """The last position up to `end` where a UTF-8 character starts."""
    while 0 < end < len(data) and data[end] & 0xC0 == 0x80:
        end -= 1
    return end


def choose_validation(digests: list[bytes], sizes: list[int], fraction: float) -> list[bool]:
    """Which documents are held out: in order of their hashes, those that fit into `fraction` of the bytes.

    With at least two documents both sides get at least one: where none fits, the smallest is held out.

    Args:
        digests: content hash of each document.
        sizes: bytes of each document.
        fraction: share of the bytes to hold out, in (0, 1).
    """
    room = fraction * sum(sizes)
    held_out = [False] * len(sizes)
    for index in sorted(range(len(sizes)), key=digests.__getitem__):
        if sizes[index] <= room:
            held_out[index] = True
            room -= sizes[index]
    if not any(held_out) and len(sizes) > 1:
        held_out[min(range(len(sizes)), key=lambda index: (sizes[index], digests[index]))] = True
    return held_out
