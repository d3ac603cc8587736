"""Rows with labels: files that pandas reads, folders as GLUE's, data sets of `datasets`."""

import csv
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from carbs_scaling.data.examples_config import ExamplesConfig
from carbs_scaling.data.formats import one_line, quiet_datasets, suffixes
from carbs_scaling.data.hub import quiet_hub
from carbs_scaling.errors import DataError, NoSuchText

if TYPE_CHECKING:
    import pandas as pd

# Names of columns in GLUE's files and their like: a pair of texts, or one; the first that is there.
TEXT_COLUMNS = (
    ("sentence1", "sentence2"), ("question1", "question2"), ("question", "sentence"),
    ("premise", "hypothesis"), ("#1 String", "#2 String"), ("sentence", None), ("text", None),
)  # fmt: skip
LABEL_COLUMNS = ("label", "gold_label", "is_duplicate", "Quality")
# CoLA's files have no line of names.
COLA_COLUMNS = ["source", "label", "star", "sentence"]
HELD_OUT_NAMES = ("dev", "dev_matched", "validation", "valid", "test")


class RowSource(Protocol):
    """What a configuration says of its rows; see `ExamplesConfig`."""

    @property
    def source(self) -> str: ...
    @property
    def paths(self) -> list[str]: ...
    @property
    def validation_paths(self) -> list[str]: ...
    @property
    def name(self) -> str | None: ...
    @property
    def subset(self) -> str | None: ...
    @property
    def split(self) -> str: ...
    @property
    def validation_split(self) -> str | None: ...
    @property
    def revision(self) -> str | None: ...


class Tables(NamedTuple):
    """What is trained on, and what is held out; None where a part of the first is."""

    train: "pd.DataFrame"
    held_out: "pd.DataFrame | None"


def read_tables(config: RowSource, scratch: Path) -> Tables:
    """The rows that a configuration names.

    Args:
        config: of `source=files` or `dataset`.
        scratch: a folder that the caller removes.

    Raises:
        DataError: one line: a file or data set that is missing or cannot be read.
    """
    if config.source == "dataset":
        return _dataset(config, scratch)
    train, held_out = _split_files("data.paths", config.paths)
    if config.validation_paths:
        held_out = [
            file for files in _split_files("data.validation_paths", config.validation_paths) for file in files
        ]
    return Tables(_read(train), _read(held_out) if held_out else None)


def _split_files(key: str, paths: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Files that are trained on, and those that a folder calls by one of `HELD_OUT_NAMES`."""
    train: list[Path] = []
    held_out: list[Path] = []
    for text in paths:
        path = Path(text).expanduser()
        if path.is_file():
            train.append(path)
            continue
        files = sorted(path.parent.glob(path.name)) if not path.is_dir() else sorted(path.iterdir())
        named = {file.name.split(".")[0]: file for file in reversed(files) if file.is_file()}
        if path.is_dir():
            if "train" not in named:
                raise NoSuchText(
                    f"{key}: the folder {path} has no file train.tsv (or .csv, .jsonl, .parquet)"
                )
            train.append(named["train"])
            held_out += [named[name] for name in HELD_OUT_NAMES if name in named][:1]
        elif files:
            train += [file for file in files if file.is_file()]
        else:
            raise NoSuchText(f"{key}: there is no file {path}")
    return train, held_out


def _read(files: Sequence[Path]) -> "pd.DataFrame":
    import pandas as pd

    frame = pd.concat([_read_file(file) for file in files], ignore_index=True)
    if not len(frame):
        raise DataError(f"{', '.join(map(str, files))}: no rows")
    return frame


def _read_file(file: Path) -> "pd.DataFrame":
    import pandas as pd

    suffix, _ = suffixes(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            if suffix == ".tsv":
                # As GLUE writes them: no quotes, a line a row.
                frame = pd.read_csv(file, sep="\t", quoting=csv.QUOTE_NONE, dtype=str, keep_default_na=False)
                # Its label in place of a name.
                if len(frame.columns) == len(COLA_COLUMNS) and frame.columns[1] in ("0", "1"):
                    frame = pd.read_csv(
                        file, sep="\t", quoting=csv.QUOTE_NONE, dtype=str, keep_default_na=False, header=None,
                        names=COLA_COLUMNS,
                    )  # fmt: skip
                return frame
            if suffix == ".csv":
                return pd.read_csv(file, dtype=str, keep_default_na=False)
            if suffix in (".jsonl", ".ndjson", ".json"):
                return pd.read_json(file, lines=suffix != ".json", dtype=False)
            if suffix == ".parquet":
                return pd.read_parquet(file)
    except (
        OSError,
        ValueError,
        UnicodeError,
        EOFError,
        pd.errors.ParserError,
        pd.errors.ParserWarning,
    ) as error:
        raise DataError(f"cannot read {file} as {suffix[1:]}: {one_line(error)}") from error
    raise DataError(f"{file}: rows come from .tsv, .csv, .jsonl, .json or .parquet files")


def _dataset(config: RowSource, scratch: Path) -> Tables:
    """A data set of `datasets`: of the hub, saved by `save_to_disk`, or a folder of images."""
    import datasets
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import HTTPError

    assert config.name is not None
    folder = Path(config.name).expanduser()
    with quiet_datasets(scratch), quiet_hub():
        try:
            if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
                found: Any = datasets.load_from_disk(str(folder))
            elif folder.is_dir():
                found = datasets.load_dataset("imagefolder", data_dir=str(folder.absolute()))
            else:
                found = datasets.load_dataset(config.name, config.subset, revision=config.revision)
            if isinstance(found, datasets.Dataset):
                found = {config.split: found}
            splits = {name: _frame(part) for name, part in found.items() if name in _wanted(config, found)}
        except (DatasetNotFoundError, HTTPError, OSError, ValueError, RuntimeError, KeyError) as error:
            hint = ""
            if folder.is_dir() and isinstance(error, FileNotFoundError | ValueError):
                hint = "; a folder must hold one of images for each class, or be one of save_to_disk"
            raise NoSuchText(f"data.name={config.name}: {one_line(error)}{hint}") from error
    if config.split not in splits:
        raise NoSuchText(f"data.split={config.split}: {config.name} has the splits {', '.join(found)}")
    if config.validation_split is not None and config.validation_split not in splits:
        raise NoSuchText(
            f"data.validation_split={config.validation_split}: {config.name} has {', '.join(found)}"
        )
    held_out = [name for name in _wanted(config, found) if name != config.split]
    return Tables(splits[config.split], splits[held_out[0]] if held_out else None)


def _wanted(config: RowSource, found: Any) -> list[str]:
    if config.validation_split is not None:
        return [config.split, config.validation_split]
    return [config.split, *[name for name in HELD_OUT_NAMES if name in found and name != config.split][:1]]


def _frame(part: Any) -> "pd.DataFrame":
    """Rows with the names of classes in place of their numbers; images as `PIL` has them."""
    import pandas as pd
    from datasets import ClassLabel

    columns = {name: list(part[name]) for name in part.column_names}
    for name, feature in part.features.items():
        if isinstance(feature, ClassLabel):
            columns[name] = [None if i is None or i < 0 else feature.names[i] for i in columns[name]]
    return pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})


@contextmanager
def naming(table: str) -> Iterator[None]:
    """Begins errors about rows and columns with the table that they are in."""
    try:
        yield
    except DataError as error:
        raise type(error)(f"{table}: {error}") from error


def require_text(name: str, texts: Sequence[object]) -> None:
    """Checks that a column holds nothing but texts.

    Raises:
        DataError: the first row that has none.
    """
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            empty = text is None or text != text
            what = "is empty" if empty else f"holds {type(text).__name__}, not text"
            raise DataError(f"column {name!r}, row {number + 1}, {what}")


def columns_of(config: ExamplesConfig, frame: "pd.DataFrame", with_images: bool) -> tuple[list[str], str]:
    """The columns of the inputs, one or two texts or an image, and that of the labels.

    Raises:
        NoSuchText: a column that is not there.
    """
    known = [str(name) for name in frame.columns]
    there = f"there are {', '.join(known)}"
    label = config.label_column or next((name for name in LABEL_COLUMNS if name in known), None)
    if label is None:
        folders = ", or give a folder of images for each of two classes or more" if with_images else ""
        raise NoSuchText(f"data.label_column=... must name the column of labels{folders}; {there}")
    if label not in known:
        raise NoSuchText(f"data.label_column={label}: no such column; {there}")
    if with_images:
        inputs = [config.image_column]
    elif config.text_column is not None:
        inputs = [config.text_column, *([] if config.pair_column is None else [config.pair_column])]
    else:
        pairs = [[name for name in pair if name is not None] for pair in TEXT_COLUMNS]
        inputs = next((pair for pair in pairs if set(pair) <= set(known)), [])
        if not inputs:
            raise NoSuchText(f"data.text_column=... must name a column of texts; {there}")
    for name in inputs:
        if name not in known:
            raise NoSuchText(f"no column {name!r} of inputs; {there}")
    return inputs, str(label)
