"""Held-out text never lies in the training text."""

import random

from carbs_scaling.data.splitting import (
    FEW_DOCUMENTS,
    Document,
    cap_bytes,
    choose_validation,
    cut_if_few,
    drop_duplicates,
    encode_documents,
)


def split(documents: list[Document], fraction: float = 0.1) -> tuple[set[bytes], set[bytes]]:
    held_out = choose_validation([d.digest for d in documents], [len(d.data) for d in documents], fraction)
    pairs = list(zip(documents, held_out, strict=True))
    return {d.data for d, out in pairs if not out}, {d.data for d, out in pairs if out}


def random_documents(count: int) -> list[Document]:
    drawn = random.Random(0)
    return list(encode_documents(f"{i} " * drawn.randint(1, 200) for i in range(count)))


def test_split_does_not_depend_on_the_order_of_documents():
    documents = random_documents(500)
    train, validation = split(documents)
    random.Random(1).shuffle(documents)
    assert split(documents) == (train, validation)
    assert train.isdisjoint(validation)
    assert len(train) + len(validation) == 500


def test_held_out_share_of_bytes_is_about_the_fraction():
    documents = random_documents(500)
    for fraction in (0.05, 0.1, 0.5):
        _, validation = split(documents, fraction)
        share = sum(map(len, validation)) / sum(len(d.data) for d in documents)
        assert 0.9 * fraction <= share <= fraction


def test_both_sides_hold_something_even_with_two_documents():
    documents = list(encode_documents(["long " * 100, "short"]))
    assert split(documents) == ({b"long " * 100}, {b"short"})


def test_duplicates_and_white_space_are_dropped():
    documents = list(drop_duplicates(encode_documents(["a", "b", "a", " \n", "", "b", "c"])))
    assert [d.data for d in documents] == [b"a", b"b", b"c"]


def test_cap_cuts_the_last_document_between_two_characters():
    documents = encode_documents(["abc", "äöü", "never"])
    assert [d.data for d in cap_bytes(documents, 6)] == [b"abc", "ä".encode()]
    assert sum(len(d.data) for d in cap_bytes(encode_documents(["abc", "def"]), 6)) == 6


def test_few_documents_are_cut_at_blank_lines_and_nothing_is_lost():
    text = "\n\n".join(f"paragraph {i} " + "ä" * (i % 90) for i in range(2000))
    pieces, cut = cut_if_few(encode_documents([text]))
    pieces = list(pieces)
    assert cut
    assert len(pieces) >= FEW_DOCUMENTS
    assert b"".join(piece.data for piece in pieces).decode() == text
    assert all(piece.data.endswith(b"\n\n") for piece in pieces[:-1])


def test_text_without_line_ends_is_cut_between_characters():
    pieces, _ = cut_if_few(encode_documents(["".join(chr(0x4E00 + i) for i in range(20000))]))
    assert all(piece.data.decode() for piece in pieces)


def test_enough_documents_stay_whole():
    documents = random_documents(FEW_DOCUMENTS)
    kept, cut = cut_if_few(iter(documents))
    assert not cut
    assert list(kept) == documents
