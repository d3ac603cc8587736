"""Every suffix and compression is read as what it is: the same rows give the same documents."""

import bz2
import gzip
import io
import json
import lzma
import zipfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from carbs_scaling.data.formats import COMPRESSIONS, ROW_LOADERS, read_documents
from carbs_scaling.errors import DataError

ROWS = [{"id": i, "text": f'Row {i}, "quoted", with a line\nand a tab\t.'} for i in range(5)]
TEXTS = [row["text"] for row in ROWS]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def arrow_bytes() -> bytes:
    table = pa.Table.from_pylist(ROWS)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def parquet_bytes() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    return sink.getvalue()


def compressors() -> dict:
    zstd, lz4 = pytest.importorskip("zstandard"), pytest.importorskip("lz4.frame")
    return {
        "gzip": gzip.compress,
        "bz2": bz2.compress,
        "xz": lzma.compress,
        "lzma": lzma.compress,
        "lz4": lz4.compress,
        # two frames, as parallel compressors write
        "zstd": lambda data: b"".join(zstd.compress(part) for part in (data[:50], data[50:])),
    }


def read(file: Path, scratch: Path, **changes) -> list[str]:
    return list(
        read_documents(file, **{"text_column": "text", "split": "train", "scratch": scratch, **changes})
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES),
        ("a.JSONL", LINES),
        ("a.ndjson", LINES),
        ("a.json", LINES),
        ("list.json", json.dumps(ROWS).encode()),
        ("a.csv", pd.DataFrame(ROWS).to_csv(index=False).encode()),
        ("a.tsv", pd.DataFrame(ROWS).to_csv(index=False, sep="\t").encode()),
        ("a.parquet", parquet_bytes()),
        ("a.Arrow", arrow_bytes()),
    ],
)
def test_rows_of_every_suffix(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert read(tmp_path / name, tmp_path / "scratch") == TEXTS


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_every_compression_of_text_and_of_rows(tmp_path, suffix):
    compress = compressors()[COMPRESSIONS[suffix]]
    for name, content, texts in (
        ("a.md", "# Höhe\n".encode() * 40, ["# Höhe\n" * 40]),
        ("a.JSONL", LINES, TEXTS),
    ):
        file = tmp_path / f"{name}{suffix}"
        file.write_bytes(compress(content))
        assert read(file, tmp_path / "scratch") == texts
        file.write_bytes(compress(content)[:-9])
        if suffix != ".lzma":  # whose end says nothing
            with pytest.raises(DataError, match="cannot read"):
                read(file, tmp_path / "scratch")


def test_members_of_an_archive_are_read_as_what_they_are(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("b/rows.jsonl.gz", gzip.compress(LINES))
        archive.writestr("a.txt", "plain")
    assert read(tmp_path / "a.zip", tmp_path / "scratch") == ["plain", *TEXTS]
    (tmp_path / "b.zip").write_bytes(b"PK\3\4 broken")
    with pytest.raises(DataError, match="as an archive"):
        read(tmp_path / "b.zip", tmp_path / "scratch")


def test_a_large_compressed_text_is_streamed_in_pieces(tmp_path):
    text = "".join(f"Line {i} of a long book.\n" for i in range(60_000))
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(text.encode()))
    pieces = read(tmp_path / "a.txt.gz", tmp_path / "scratch")
    assert len(pieces) > 10
    assert "".join(pieces) == text


def test_folders_of_save_to_disk(tmp_path):
    from datasets import Dataset, DatasetDict

    rows = Dataset.from_list(ROWS)
    rows.save_to_disk(tmp_path / "one")
    DatasetDict({"train": rows, "held": rows.select([1])}).save_to_disk(tmp_path / "two")
    assert read(tmp_path / "one", tmp_path) == TEXTS
    assert read(tmp_path / "two", tmp_path, split="held") == TEXTS[1:2]
    with pytest.raises(DataError, match=r"no split 'other': set data.split to one of train, held"):
        read(tmp_path / "two", tmp_path, split="other")
    with pytest.raises(DataError, match=r"no column 'body': set data.text_column to one of id, text"):
        read(tmp_path / "one", tmp_path, text_column="body")


def test_no_suffix_of_rows_of_the_library_is_missing():
    from datasets.packaged_modules import _EXTENSION_TO_MODULE

    folders = {"text", "xml", "harbor"}  # one text a file, which is how they are read here, or tasks
    theirs = {
        suffix: module
        for suffix, (module, _) in _EXTENSION_TO_MODULE.items()
        if module not in folders and not module.endswith("folder") and suffix == suffix.lower()
    }
    assert {suffix: module for suffix, module in theirs.items() if ROW_LOADERS.get(suffix) != module} == {}
