"""Labelled examples as arrays in the cache: tokens or pixels, and the number of each one's class."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from carbs_scaling.data.example_encoding import PAD, ImageEncoder, InputForm, TextEncoder
from carbs_scaling.data.example_tables import Tables, columns_of, naming, read_tables
from carbs_scaling.data.examples_config import ExamplesConfig
from carbs_scaling.data.prepared import holds_arrays, map_array
from carbs_scaling.data.stdlib_lines import stdlib_lines
from carbs_scaling.data.token_files import cache_folder
from carbs_scaling.data.windows import Indices, ShuffledWindows
from carbs_scaling.errors import DataError, NoSuchText

if TYPE_CHECKING:
    import pandas as pd

# Raised whenever the same examples would give other arrays.
FORMAT = 1
META = "meta.json"
MOST_CLASSES = 10_000


@dataclass(frozen=True)
class LabelledExamples:
    """Examples on disk, and everything that a trial needs to know about them. Picklable.

    Args:
        folder: of the arrays.
        form: what the inputs are.
        classes: names, by number.
        vocabulary_size: of the tokenizer; 1 for images.
        pad: token that fills up a text.
        train_examples, validation_examples: how many.
        majority_share: of the held-out examples, that of the most frequent class.
        sha256: of examples, form and tokenizer.
        description: one line for people.
        tokenizer: saved with a model of texts; `none` for images.
    """

    folder: str
    form: InputForm
    classes: tuple[str, ...]
    vocabulary_size: int
    pad: int
    train_examples: int
    validation_examples: int
    majority_share: float
    sha256: str
    description: str
    tokenizer: str
    revision: str | None = None


class Examples(ShuffledWindows):
    """Labelled examples of one split, as rows whose last value is the number of the class. A `Windows`.

    Rows are int64 [b, 2 T + 1], tokens and their types, for texts, and float32 [b, channels size^2 + 1] in
    [-1, 1] for images.

    Args:
        examples: of which.
        split: `train` or `validation`.
    """

    def __init__(self, examples: LabelledExamples, split: str) -> None:
        folder = Path(examples.folder)
        count = examples.train_examples if split == "train" else examples.validation_examples
        self._inputs = map_array(folder / f"{split}_inputs.npy", count)
        self._labels = map_array(folder / f"{split}_labels.npy", count)
        self._of_images = examples.form.of_images
        self.sequence_length = examples.form.sequence_length
        self.vocabulary_size = len(examples.classes)

    def __len__(self) -> int:
        return len(self._labels)

    def read(self, indices: Indices) -> torch.Tensor:
        """See `Windows`."""
        inputs, labels = self._inputs[indices], self._labels[indices][:, None]
        if self._of_images:
            pixels = inputs.astype(np.float32) / 127.5 - 1
            return torch.from_numpy(np.concatenate([pixels, labels.astype(np.float32)], axis=1))
        return torch.from_numpy(np.concatenate([inputs.astype(np.int64), labels], axis=1))


def prepare_examples(config: ExamplesConfig, form: InputForm) -> LabelledExamples:
    """The examples of a configuration, in the cache.

    Raises:
        DataError: one line: what is missing or cannot be read, fewer than two classes, an absent label.
    """
    cache = cache_folder(config)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix="building-", dir=cache))
        try:
            return _build(config, form, cache, scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise DataError(f"examples cannot be kept in {cache}: {error.strerror or error}") from error


@dataclass(frozen=True)
class _Split:
    """Inputs, [n, ...], and the names of their classes."""

    inputs: npt.NDArray[Any]
    labels: list[str]


def _build(config: ExamplesConfig, form: InputForm, cache: Path, scratch: Path) -> LabelledExamples:
    vocabulary_size, pad, identity = 1, PAD, "images"
    if config.source == "digits":
        if not form.of_images:
            raise NoSuchText("examples=digits holds images: use model=vit, or other examples")
        train, held_out, what = _digits(form), None, "scikit-learn's digits"
    else:
        if config.source == "stdlib":
            if form.of_images:
                raise NoSuchText("examples=stdlib holds texts: use a model of texts, or other examples")
            tables = Tables(stdlib_lines(), None)
        else:
            tables = read_tables(config, scratch)
        encode: Any
        if form.of_images:
            encode = ImageEncoder(form)
        else:
            encode = TextEncoder(config.tokenizer, form)
            vocabulary_size, pad, identity = encode.vocabulary_size, encode.pad, encode.identity
        what = config.name or ", ".join(config.paths) or "lines of Python's standard library"
        with naming(what):
            train = _split(config, tables.train, form, encode)
        held_out = None
        if tables.held_out is not None:
            with naming(f"held-out examples of {what}"):
                held_out = _split(config, tables.held_out, form, encode)
    classes = _classes(train.labels, what)
    if held_out is None:
        train, held_out = _held_out(train, config.validation_fraction)
    if config.max_examples is not None:
        train = _Split(train.inputs[: config.max_examples], train.labels[: config.max_examples])
    numbers = {name: number for number, name in enumerate(classes)}
    unknown = sorted(set(held_out.labels) - set(numbers))
    if unknown:
        raise DataError(
            f"{what}: no example of the class {unknown[0]!r} is trained on, and some are held out"
        )
    arrays = {}
    for name, split in (("train", train), ("validation", held_out)):
        if not len(split.inputs):
            raise DataError(
                f"{what}: no example is left for {name}: give more, or change data.validation_fraction"
            )
        arrays[f"{name}_inputs"] = split.inputs
        arrays[f"{name}_labels"] = np.array([numbers[label] for label in split.labels], dtype=np.int64)
    digest = sha256(json.dumps([FORMAT, asdict(form), list(classes), identity, pad]).encode())
    for name, array in arrays.items():
        digest.update(f"{name} {array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    counts = np.bincount(arrays["validation_labels"], minlength=len(classes))
    majority = float(counts.max() / counts.sum())
    kind = "images" if form.of_images else "texts"
    folder = cache / f"examples-{digest.hexdigest()}"
    result = LabelledExamples(
        folder=str(folder),
        form=form,
        classes=classes,
        vocabulary_size=vocabulary_size,
        pad=pad,
        train_examples=len(train.labels),
        validation_examples=len(held_out.labels),
        majority_share=majority,
        sha256=digest.hexdigest(),
        description=(
            f"{what}: {len(train.labels):,} {kind} to train on, {len(held_out.labels):,} held out, "
            f"{len(classes)} classes, the largest {majority:.1%}"
        ),
        tokenizer="none" if form.of_images else config.tokenizer,
        revision=config.revision,
    )
    if not holds_arrays(folder, arrays):
        files = scratch / "files"
        files.mkdir()
        for name, array in arrays.items():
            np.save(files / f"{name}.npy", array)
        (files / META).write_text(json.dumps(asdict(result), indent=1), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        try:
            files.replace(folder)
        except OSError:
            if not (folder / META).is_file():  # another process was first
                raise
    return result


def _classes(labels: Sequence[str], what: str) -> tuple[str, ...]:
    """Names in order: as numbers where all are whole ones.

    Raises:
        DataError: fewer than two, or labels that are measurements.
    """
    names = set(labels)
    if len(names) < 2:
        raise DataError(f"{what}: all examples are of one class, {next(iter(names), 'none')!r}")
    if len(names) > max(50, len(labels) // 2) or len(names) > MOST_CLASSES:
        raise DataError(f"{what}: {len(names):,} different labels: classes are needed, not measurements")
    if any(_is_fraction(name) for name in names):
        fraction = next(name for name in names if _is_fraction(name))
        raise DataError(
            f"{what}: the label {fraction} is a measurement: regression is no task of this program"
        )
    whole = all(name.lstrip("-").isdecimal() for name in names)
    return tuple(sorted(names, key=int) if whole else sorted(names))


def _is_fraction(name: str) -> bool:
    try:
        return not float(name).is_integer()
    except (ValueError, OverflowError):
        return False


def _split(config: ExamplesConfig, frame: "pd.DataFrame", form: InputForm, encode: Any) -> _Split:
    inputs, label = columns_of(config, frame, form.of_images)
    labels = []
    for number, value in enumerate(frame[label].tolist()):
        if value is None or value == "" or value != value:
            raise DataError(f"row {number + 1} has no label in column {label!r}")
        is_whole = isinstance(value, float) and value.is_integer()
        labels.append(str(int(value)) if is_whole or isinstance(value, bool) else str(value))
    return _Split(encode([frame[name].tolist() for name in inputs], inputs), labels)


def _held_out(train: _Split, fraction: float) -> tuple[_Split, _Split]:
    """A share of the examples, drawn by their own hashes: equal inputs fall on the same side."""
    shares = np.array(
        [
            int(sha256(row.tobytes()).hexdigest()[:12], 16) / 16**12
            for row in np.ascontiguousarray(train.inputs)
        ]
    )
    held = shares < fraction
    sides = [np.flatnonzero(~held), np.flatnonzero(held)]
    kept, out = (_Split(train.inputs[side], [train.labels[i] for i in side]) for side in sides)
    return kept, out


def _digits(form: InputForm) -> _Split:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise NoSuchText(
            "examples=digits needs scikit-learn: pip install 'carbs_scaling[classification]'"
        ) from None
    found = load_digits()
    grey = np.rint(found.images * (255 / 16)).astype(np.uint8)
    return _Split(ImageEncoder(form)([list(grey)], ["image"]), [str(label) for label in found.target])
