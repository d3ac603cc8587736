"""Where text comes from: the standard library, local files or a hub, each as one stream of documents.

Everything is read through `datasets`, which is imported when text is read: training workers do not need it.
"""

import errno
import glob
import os
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carbs_scaling.data.config import DataConfig
from carbs_scaling.data.hub import quiet_hub
from carbs_scaling.errors import DataError, NoSuchText

# Folders without ordinary programs (tests, tables of character codes), which differ most between builds of
# Python, and installed packages.
STDLIB_LEFT_OUT = {
    "test",
    "tests",
    "idle_test",
    "encodings",
    "lib2to3",
    "idlelib",
    "pydoc_data",
    "site-packages",
    "dist-packages",
    "__pycache__",
}
# A text file above this many bytes is no longer one document: it is streamed in pieces cut at blank lines.
LARGE_FILE_BYTES = 1 << 20
LARGE_FILE_PIECE_CHARACTERS = 1 << 16
# Attempts, and seconds between them, after which a hub counts as out of reach: the library's own 20 retries
# take minutes.
HUB_RETRIES = 1
HUB_RETRY_SECONDS = 1


@dataclass(frozen=True)
class Source:
    """A stream of documents that can be opened again and again.

    Args:
        description: what it is, without sizes.
        files: the local files that it reads, in order; empty for a hub.
        documents: opens the stream. Its argument is a scratch folder that the caller removes.
    """

    description: str
    files: tuple[Path, ...]
    documents: Callable[[Path], Iterator[str]]


def find_source(config: DataConfig) -> Source:
    """The source that `config` names. Local files are looked for, not read.

    Raises:
        DataError: a path or a pattern that matches no file.
    """
    if config.source == "stdlib":
        files = _stdlib_files()
        description = "standard library of Python " + ".".join(map(str, sys.version_info[:3]))
        return Source(description, files, lambda scratch: _text_documents(files, scratch))
    if config.source == "files":
        files = tuple(dict.fromkeys(file for path in config.paths for file in _matching_files(path)))
        return Source(
            ", ".join(config.paths),
            files,
            lambda scratch: _file_documents(files, config.text_column, scratch),
        )
    name = " ".join(part for part in (config.name, config.subset, config.split) if part)
    return Source(name, (), lambda scratch: _hub_documents(config, scratch))


def _stdlib_files() -> tuple[Path, ...]:
    """The standard library's own modules, sorted."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = []
    for folder, inner, names in os.walk(root):
        # Changing `inner` in place keeps the walk out of the others: site-packages may hold 100,000 files.
        inner[:] = [name for name in inner if name not in STDLIB_LEFT_OUT]
        files += [Path(folder, name) for name in names if name.endswith(".py")]
    if not files:
        raise DataError(f"this Python has no library sources in {root}: use data=files data.paths=[...]")
    return tuple(sorted(files))


def _matching_files(path: str) -> list[Path]:
    """The files that one entry of `data.paths` stands for: a file, a folder, or a pattern."""
    given = Path(path).expanduser()
    if given.is_dir():
        found = [
            file
            for file in sorted(given.rglob("*"))
            if file.is_file() and not any(part.startswith(".") for part in file.relative_to(given).parts)
        ]
        if not found:
            raise NoSuchText(f"data.paths: the folder {path} holds no files")
        return found
    if given.exists():
        return [given]
    if not glob.has_magic(path):
        raise NoSuchText(f"data.paths: there is no file {path}")
    # `Path.glob` takes no absolute pattern.
    matches = map(Path, glob.glob(str(given), recursive=True))  # noqa: PTH207
    found = sorted(file for file in matches if file.is_file())
    if not found:
        raise NoSuchText(f"data.paths: no file matches the pattern {path}")
    return found


def _file_documents(files: tuple[Path, ...], text_column: str, scratch: Path) -> Iterator[str]:
    for file in files:
        kind = _table_format(file)
        if kind is None:
            yield from _text_documents((file,), scratch)
        else:
            yield from _table_documents(file, kind, text_column, scratch)


def _table_format(file: Path) -> str | None:
    """The `datasets` loader for a file of rows; None for plain text."""
    suffix = Path(file.name.removesuffix(".gz")).suffix
    return {".jsonl": "json", ".json": "json", ".parquet": "parquet"}.get(suffix)


def _text_documents(files: tuple[Path, ...], scratch: Path) -> Iterator[str]:
    with _quiet_datasets(scratch):
        from datasets import Features, IterableDataset, Value

        rows = IterableDataset.from_generator(
            _text_rows,
            features=Features({"text": Value("string")}),
            gen_kwargs={"files": list(map(str, files))},
        )
        for row in rows:
            yield row["text"]


def _text_rows(files: list[str]) -> Iterator[dict[str, str]]:
    for file in map(Path, files):
        try:
            for text in _read_text(file):
                if "\0" in text:
                    raise DataError(f"{file} is a binary file, not text: leave it out of data.paths")
                yield {"text": text}
        except UnicodeDecodeError as error:
            raise DataError(
                f"{file} is not UTF-8 text (byte {error.start} cannot be decoded): convert it or leave it out"
            ) from error
        except OSError as error:
            raise DataError(f"cannot read {file}: {error.strerror or error}") from error


def _read_text(file: Path) -> Iterator[str]:
    """The file as one text, or, if it is large, as pieces that end at blank lines (or lines, or anywhere)."""
    if file.stat().st_size <= LARGE_FILE_BYTES:
        yield file.read_bytes().decode("utf-8-sig")
        return
    rest = ""
    with file.open(encoding="utf-8-sig", newline="") as handle:
        while block := handle.read(LARGE_FILE_PIECE_CHARACTERS):
            rest += block
            end = rest.rfind("\n\n") + 2
            if end < 2:
                end = rest.rfind("\n") + 1 or len(rest)
            yield rest[:end]
            rest = rest[end:]
    yield rest


def _table_documents(file: Path, kind: str, text_column: str, scratch: Path) -> Iterator[str]:
    if kind == "json" and file.stat().st_size == 0:  # the reader raises an error for an empty file
        return
    with _quiet_datasets(scratch):
        import pyarrow
        from datasets import load_dataset
        from datasets.exceptions import DatasetGenerationError

        try:
            # A list, because the library expands a plain string as a pattern: names may hold '[' or '*'.
            escaped = glob.escape(str(file.absolute()))
            rows = load_dataset(
                kind, data_files=[escaped], split="train", streaming=True, cache_dir=str(scratch)
            )
            yield from _column(rows, text_column, str(file))
        # The readers raise any of these for a damaged file, depending on where the damage is.
        except (pyarrow.ArrowException, DatasetGenerationError, ValueError, OSError, KeyError) as error:
            raise DataError(f"cannot read {file} as {kind}: {_one_line(error)}") from error


def _column(rows: Iterable[Mapping[str, Any]], text_column: str, where: str) -> Iterator[str]:
    """The texts in one column; empty cells are left out."""
    for row in rows:
        if text_column not in row:
            raise NoSuchText(
                f"{where} has no column {text_column!r}: set data.text_column to one of {', '.join(row)}"
            )
        text = row[text_column]
        if text is None:
            continue
        if not isinstance(text, str):
            raise DataError(f"column {text_column!r} of {where} holds {type(text).__name__}, not text")
        yield text


def _hub_documents(config: DataConfig, scratch: Path) -> Iterator[str]:
    where = " ".join(part for part in (config.name, config.subset) if part)
    with _quiet_datasets(scratch), quiet_hub() as reachable:
        from datasets import DownloadConfig, load_dataset
        from datasets.exceptions import DatasetNotFoundError
        from huggingface_hub.errors import HfHubHTTPError, HTTPError

        try:
            rows = load_dataset(
                config.name,
                config.subset,
                split=config.split,
                streaming=config.streaming,
                cache_dir=str(scratch),
                download_config=DownloadConfig(max_retries=HUB_RETRIES),
            )
            yield from _column(rows, config.text_column, where)
        except DatasetNotFoundError as error:
            if not reachable:
                raise _out_of_reach(where) from error
            raise NoSuchText(
                f"the hub has no data set {config.name!r} that this machine may read: check data.name, "
                "or log in with `hf auth login`"
            ) from error
        except (HTTPError, ConnectionError, TimeoutError) as error:
            if isinstance(error, HfHubHTTPError):
                raise DataError(f"the hub refused {where}: {_one_line(error)}") from error
            raise _out_of_reach(where) from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            if not reachable:
                raise _out_of_reach(where) from error
            raise DataError(f"cannot load {where} from the hub: {_one_line(error)}") from error
        except (ValueError, RuntimeError) as error:
            if (full := _no_space(error)) is not None:
                raise full from error
            if not reachable:
                raise _out_of_reach(where) from error
            raise NoSuchText(
                f"cannot load {where}: check data.subset and data.split ({_one_line(error)})"
            ) from error


def _out_of_reach(where: str) -> DataError:
    return DataError(
        f"the data set hub cannot be reached for {where}, and it is not cached here: go online, or use "
        "data=files or data=stdlib"
    )


def _no_space(error: BaseException | None) -> OSError | None:
    """The 'no space left' at the root of a wrapped error, if that is what it was."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return error
        error = error.__cause__ or error.__context__
    return None


def _one_line(error: BaseException) -> str:
    """The first line of the innermost error; those around it say only that something failed."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


@contextmanager
def _quiet_datasets(scratch: Path) -> Iterator[None]:
    """Use `datasets` without progress bars and log lines, with its files in `scratch` and few retries."""
    import datasets

    settings = {
        "HF_DATASETS_CACHE": scratch,
        "STREAMING_READ_MAX_RETRIES": HUB_RETRIES,
        "STREAMING_READ_RETRY_INTERVAL": HUB_RETRY_SECONDS,
    }
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
