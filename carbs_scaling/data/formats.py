"""How a local file is read: plain text, rows with a text column, or an archive of such files.

The suffix says which, whatever its case, beneath the suffix of a compression: `rows.JSONL.zst` holds rows.
A file of any other suffix is plain text, one document.
"""

import glob
import io
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from lzma import LZMAError
from pathlib import Path
from typing import IO, Any

from carbs_scaling.errors import DataError, NoSuchText

# The loader of `datasets` for each suffix of rows, as in its own table of suffixes. What it reads as one
# text a file (.txt, .xml), as tasks (.md, .toml) or as media is not in here.
ROW_LOADERS = {
    **dict.fromkeys((".csv", ".tsv"), "csv"),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), "json"),
    **dict.fromkeys((".parquet", ".geoparquet", ".gpq"), "parquet"),
    ".arrow": "arrow",
    **dict.fromkeys((".hdf5", ".h5"), "hdf5"),
    ".tar": "webdataset",
    **dict.fromkeys((".conll", ".conllu"), "conll"),
    ".eval": "eval",
    ".lance": "lance",
    ".tsfile": "tsfile",
    ".vortex": "vortex",
    **dict.fromkeys((".fa", ".fasta", ".fna", ".ffn", ".faa", ".frn", ".afa"), "fasta"),
    **dict.fromkeys((".gb", ".gbk", ".genbank"), "genbank"),
    **dict.fromkeys((".fq", ".fastq"), "fastq"),
    **dict.fromkeys((".pdb", ".ent"), "pdb"),
    **dict.fromkeys((".cif", ".mmcif"), "mmcif"),
}
# Arguments of a loader that the suffix implies.
LOADER_ARGUMENTS: dict[str, dict[str, Any]] = {".tsv": {"sep": "\t"}, ".conllu": {"comment_prefix": "#"}}
# fsspec's name of each compression of single files.
COMPRESSIONS = {
    ".gz": "gzip",
    ".bz2": "bz2",
    ".xz": "xz",
    ".lzma": "lzma",
    ".zst": "zstd",
    ".zstd": "zstd",
    ".lz4": "lz4",
}
ARCHIVE = ".zip"
# Written by `save_to_disk`: one split, or one folder a split.
SAVED_SPLIT, SAVED_SPLITS = "state.json", "dataset_dict.json"
# A text file above this many bytes is no longer one document: it is streamed in pieces cut at blank lines.
LARGE_FILE_BYTES = 1 << 20
LARGE_FILE_PIECE_CHARACTERS = 1 << 16


def suffixes(file: Path) -> tuple[str, str | None]:
    """The suffix that says what a file holds, and fsspec's name of its compression or None."""
    parts = [part.lower() for part in file.suffixes]
    compression = COMPRESSIONS.get(parts[-1]) if parts else None
    inner = parts[:-1] if compression else parts
    return (inner[-1] if inner else ""), compression


def is_saved_dataset(path: Path) -> bool:
    """Whether a folder is one that `save_to_disk` wrote."""
    return any((path / name).is_file() for name in (SAVED_SPLIT, SAVED_SPLITS))


def read_documents(path: Path, text_column: str, split: str, scratch: Path) -> Iterator[str]:
    """The documents of a local file, or of a folder that `save_to_disk` wrote.

    Args:
        path: of the file or folder.
        text_column: which column of rows is read.
        split: of a folder that holds several.
        scratch: a folder that the caller removes.

    Raises:
        DataError: a file that is damaged, no text, or without that column.
    """
    suffix, _ = suffixes(path)
    if path.is_dir():
        yield from _saved_rows(path, text_column, split)
    elif suffix == ARCHIVE:
        for member in _extracted(path, scratch):
            yield from read_documents(member, text_column, split, scratch)
    elif suffix in ROW_LOADERS:
        yield from _rows(path, suffix, text_column, scratch)
    else:
        yield from _texts(path)


def _texts(file: Path) -> Iterator[str]:
    try:
        for text in _read_text(file):
            if "\0" in text:
                raise DataError(f"{file} is a binary file, not text: leave it out of data.paths")
            yield text
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file} is not UTF-8 text (byte {error.start} cannot be decoded): convert it or leave it out"
        ) from error
    except _reading_errors() as error:
        raise DataError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from error


def _read_text(file: Path) -> Iterator[str]:
    """The file as one text, or, if it is large, as pieces that end at blank lines (or lines, or anywhere)."""
    with _opened(file) as handle:
        head = handle.read(LARGE_FILE_BYTES + 1)
        if len(head) <= LARGE_FILE_BYTES:
            yield head.decode("utf-8-sig")
            return
    rest = ""
    with _opened(file) as handle:
        text = io.TextIOWrapper(handle, encoding="utf-8-sig", newline="")
        while block := text.read(LARGE_FILE_PIECE_CHARACTERS):
            rest += block
            end = rest.rfind("\n\n") + 2
            if end < 2:
                end = rest.rfind("\n") + 1 or len(rest)
            yield rest[:end]
            rest = rest[end:]
    yield rest


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, decompressed."""
    compression = suffixes(file)[1]
    if compression is None:
        with file.open("rb") as plain:
            yield plain
        return
    import fsspec

    with fsspec.open(str(file.absolute()), "rb", compression=compression, expand=False) as handle:
        yield handle


def _rows(file: Path, suffix: str, text_column: str, scratch: Path) -> Iterator[str]:
    if file.stat().st_size == 0 and ROW_LOADERS[suffix] == "json":  # its reader raises an error
        return
    kind = ROW_LOADERS[suffix]
    with quiet_datasets(scratch):
        import pyarrow
        from datasets import load_dataset
        from datasets.exceptions import DatasetGenerationError

        try:
            # A list, because the library expands a plain string as a pattern: names may hold '[' or '*'.
            rows = load_dataset(
                kind,
                data_files=[glob.escape(str(file.absolute()))],
                split="train",
                streaming=True,
                cache_dir=str(scratch),
                **LOADER_ARGUMENTS.get(suffix, {}),
            )
            yield from text_cells(rows, text_column, str(file))
        # The readers raise any of these for a damaged file, depending on where the damage is.
        except (
            pyarrow.ArrowException, DatasetGenerationError, ValueError, KeyError, *_reading_errors()
        ) as error:  # fmt: skip
            raise DataError(f"cannot read {file} as {kind}: {one_line(error)}") from error
        except ImportError as error:
            raise DataError(f"reading {file} needs another package: {one_line(error)}") from error


def _saved_rows(folder: Path, text_column: str, split: str) -> Iterator[str]:
    import pyarrow
    from datasets import DatasetDict, load_from_disk

    try:
        saved = load_from_disk(str(folder))
        if isinstance(saved, DatasetDict):
            if split not in saved:
                raise NoSuchText(
                    f"{folder} has no split {split!r}: set data.split to one of {', '.join(saved)}"
                )
            saved = saved[split]
        if text_column in saved.column_names:
            saved = saved.select_columns([text_column])  # so that no images of other columns are decoded
        yield from text_cells(saved, text_column, str(folder))
    except (pyarrow.ArrowException, ValueError, OSError, KeyError, TypeError) as error:
        raise DataError(f"cannot read {folder} as save_to_disk wrote it: {one_line(error)}") from error


def _extracted(file: Path, scratch: Path) -> Iterator[Path]:
    """The files in an archive, sorted by name, each in `scratch` while it is read."""
    try:
        with zipfile.ZipFile(file) as archive:
            for name in sorted(info.filename for info in archive.infolist() if not info.is_dir()):
                member = Path(archive.extract(name, scratch / "archive"))
                yield member
                member.unlink()
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, zlib.error) as error:
        raise DataError(f"cannot read {file} as an archive: {one_line(error)}") from error


def text_cells(rows: Iterable[Mapping[str, Any]], text_column: str, where: str) -> Iterator[str]:
    """The texts in one column; an empty cell is an empty text.

    Raises:
        DataError: there is no such column, or it holds no text.
    """
    for row in rows:
        if text_column not in row:
            raise NoSuchText(
                f"{where} has no column {text_column!r}: set data.text_column to one of {', '.join(row)}"
            )
        text = row[text_column]
        if isinstance(text, bytes):  # of archives of `webdataset`
            text = text.decode("utf-8", errors="replace")
        if text is not None and not isinstance(text, str):
            raise DataError(f"column {text_column!r} of {where} holds {type(text).__name__}, not text")
        yield text or ""


def _reading_errors() -> tuple[type[Exception], ...]:
    """What reading a file may raise, of the system and of the decompressors that have been imported."""
    errors: list[type[Exception]] = [OSError, EOFError, RuntimeError, zlib.error, LZMAError]
    for name in ("backports.zstd", "compression.zstd"):
        if (module := sys.modules.get(name)) is not None:
            errors.append(module.ZstdError)
    return tuple(errors)


def one_line(error: BaseException) -> str:
    """The first line of the innermost error; those around it say only that something failed."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


@contextmanager
def quiet_datasets(scratch: Path, **settings: Any) -> Iterator[None]:
    """Use `datasets` without progress bars and log lines, with its files in `scratch`.

    Args:
        scratch: a folder that the caller removes.
        settings: further values of `datasets.config`, for the time being.
    """
    import datasets

    settings = {"HF_DATASETS_CACHE": scratch, **settings}
    before = {name: getattr(datasets.config, name) for name in settings}
    verbosity = datasets.logging.get_verbosity()
    bars = datasets.is_progress_bar_enabled()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.disable_progress_bars()
    for name, value in settings.items():
        setattr(datasets.config, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(datasets.config, name, value)
        datasets.logging.set_verbosity(verbosity)
        if bars:
            datasets.enable_progress_bars()
