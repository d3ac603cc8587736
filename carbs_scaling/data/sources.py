"""Where text comes from: the standard library, local files or a hub, each as one stream of documents.

Rows are read through `datasets`, which is imported when text is read: training workers do not need it.
"""

import glob
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from carbs_scaling.data.config import DataConfig
from carbs_scaling.data.formats import is_saved_dataset, read_documents
from carbs_scaling.data.hub_documents import HubDocuments
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
# Where a stream of documents goes on, as plain JSON; None for its beginning.
Place = dict[str, Any]


class Documents(Protocol):
    """Documents in their order."""

    def __iter__(self) -> Iterator[str]: ...

    def place(self) -> Place:
        """Where the stream goes on after the document that came last."""
        ...


@dataclass(frozen=True)
class Source:
    """A stream of documents that can be opened again and again.

    Args:
        description: what it is, without sizes.
        files: the local files or folders that it reads, in order; empty for a hub.
        open: opens the stream, in a scratch folder that the caller removes, at a place.
    """

    description: str
    files: tuple[Path, ...]
    open: Callable[[Path, Place | None], Documents]


class FileDocuments:
    """The documents of local files.

    Args:
        files: in order; also folders that `save_to_disk` wrote.
        text_column, split: see `formats.read_documents`.
        scratch: a folder that the caller removes.
        place: where to begin.
    """

    def __init__(
        self, files: tuple[Path, ...], text_column: str, split: str, scratch: Path, place: Place | None
    ) -> None:
        self._files, self._text_column, self._split, self._scratch = files, text_column, split, scratch
        self._file = 0 if place is None else int(place["file"])
        self._document = 0 if place is None else int(place["document"])

    def __iter__(self) -> Iterator[str]:
        while self._file < len(self._files):
            texts = read_documents(self._files[self._file], self._text_column, self._split, self._scratch)
            for text in islice(texts, self._document, None):
                self._document += 1
                yield text
            self._file, self._document = self._file + 1, 0

    def place(self) -> Place:
        """See `Documents`."""
        return {"file": self._file, "document": self._document}


def find_source(config: DataConfig) -> Source:
    """The text that `config` names. Local files are looked for, not read.

    Raises:
        DataError: a path or a pattern that matches no file.
    """
    if config.source == "stdlib":
        description = "standard library of Python " + ".".join(map(str, sys.version_info[:3]))
        return _file_source(description, stdlib_files(), config)
    if config.source == "files":
        return _file_source(", ".join(config.paths), _files("data.paths", config.paths), config)
    return _hub_source(config, config.split)


def find_validation_source(config: DataConfig) -> Source | None:
    """The validation set that `config` names, or None.

    Raises:
        DataError: a path or a pattern that matches no file.
    """
    if config.validation_paths:
        files = _files("data.validation_paths", config.validation_paths)
        return _file_source(", ".join(config.validation_paths), files, config)
    return None if config.validation_split is None else _hub_source(config, config.validation_split)


def _file_source(description: str, files: tuple[Path, ...], config: DataConfig) -> Source:
    return Source(
        description,
        files,
        lambda scratch, place: FileDocuments(files, config.text_column, config.split, scratch, place),
    )


def _hub_source(config: DataConfig, split: str) -> Source:
    name = " ".join(part for part in (config.name, config.subset, split) if part)
    return Source(name, (), lambda scratch, place: HubDocuments(config, split, scratch, place))


def _files(key: str, paths: list[str]) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(file for path in paths for file in _matching_files(key, path)))


def stat_files(files: tuple[Path, ...]) -> Iterator[Path]:
    """The files themselves, and those in the folders among them."""
    for file in files:
        yield from sorted(inner for inner in file.rglob("*") if inner.is_file()) if file.is_dir() else [file]


def stdlib_files() -> tuple[Path, ...]:
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


def _matching_files(key: str, path: str) -> list[Path]:
    """The files that one entry of `data.paths` stands for: a file, a folder, or a pattern."""
    given = Path(path).expanduser()
    if is_saved_dataset(given):
        return [given]
    if given.is_dir():
        found = list(_files_below(given))
        if not found:
            raise NoSuchText(f"{key}: the folder {path} holds no files")
        return found
    if given.exists():
        return [given]
    if not glob.has_magic(path):
        raise NoSuchText(f"{key}: there is no file {path}")
    # `Path.glob` takes no absolute pattern.
    matches = sorted(map(Path, glob.glob(str(given), recursive=True)))  # noqa: PTH207
    found = [file for file in matches if file.is_file() or is_saved_dataset(file)]
    if not found:
        raise NoSuchText(f"{key}: no file matches the pattern {path}")
    return found


def _files_below(folder: Path) -> Iterator[Path]:
    """The files in a folder and those in it, without hidden ones; a folder of `save_to_disk` as a whole."""
    for inner in sorted(folder.iterdir()):
        if inner.name.startswith("."):
            continue
        if inner.is_file() or is_saved_dataset(inner):
            yield inner
        elif inner.is_dir():
            yield from _files_below(inner)
