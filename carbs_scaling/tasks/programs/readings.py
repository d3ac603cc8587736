"""What is read of a run: its metric and its loss curve, from the output or from files in its folder."""

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import regex
from omegaconf import MISSING

from carbs_scaling.config import require, require_choice
from carbs_scaling.errors import ConfigError
from carbs_scaling.tasks.programs.event_file import BrokenRecord, records, scalars
from carbs_scaling.tasks.programs.files import files_below, open_inside, require_inside

FORMATS = ("json", "jsonl", "csv", "tensorboard")
LONGEST_PATTERN = 1000
PATTERN_SECONDS = 0.2  # for one line: an ordinary pattern takes microseconds
LONGEST_ROW = 1 << 16  # bytes of a row of JSON lines or CSV
LARGEST_JSON = 4 << 20  # bytes
# A growing file: so much at a time, and no more than so much of it in all.
CHUNK, MOST_BYTES = 1 << 20, 256 << 20
EVENT_FILES, EVENT_MARK = 20, "tfevents"
COLOURS = regex.compile(r"\x1b\[[0-9;]*[A-Za-z]")  # of a terminal
PUNCTUATION = ".,;:!)]}>\"'"
# What groups of a pattern, keys or columns may give beside the loss and its step.
BESIDE = ("train_loss", "validation_loss", "learning_rate", "tokens")


@dataclass(frozen=True)
class Reading:
    """One value that a program reported.

    Args:
        value: of the metric; may be NaN.
        step: of the training, where it was reported.
        beside: those of `BESIDE` that were reported with it.
        others: further numbers of a JSON file, by key.
    """

    value: float
    step: float | None = None
    beside: dict[str, float] = field(default_factory=dict)
    others: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SourceConfig:
    """Where a value is read.

    `file`: in the trial's folder; null for what the program prints. `format`: null for that of the file's
    name. `name`: key (a.b for nested ones), column or tag. `step`: key or column of the step. `pattern`: for
    the output, with a group `loss`, or whose first group is the value.
    """

    file: str | None = MISSING
    format: str | None = MISSING
    name: str = MISSING
    step: str = MISSING
    pattern: str | None = MISSING


class Source(Protocol):
    """Reads values of one run while it runs.

    `has_steps`: whether its values can say at which step, or after how many tokens, they were.
    `unread`: what stood last in the place of the value and is no number.
    """

    has_steps: bool = True
    unread: str = ""

    def line(self, text: str) -> list[Reading]:
        """The values in a printed line."""
        return []

    def poll(self, folder: Path) -> list[Reading]:
        """The values that files of the run's folder have gained."""
        return []

    def last(self, folder: Path) -> list[Reading]:
        """Those that are there only once the run has ended."""
        return self.poll(folder)


def number(value: Any) -> float | None:
    """A number, or a text of one, as a float; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str) or (
        isinstance(value, str) and len(value) > 100
    ):  # fmt: skip
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def compiled(key: str, pattern: str) -> "regex.Pattern[str]":
    """A pattern whose search is given a time limit; see `matched`.

    Raises:
        ConfigError: it is none, or too long.
    """
    require(len(pattern) <= LONGEST_PATTERN, f"{key} is longer than {LONGEST_PATTERN} characters")
    try:
        return regex.compile(pattern)
    except (regex.error, ValueError, OverflowError, RecursionError, IndexError) as error:
        raise ConfigError(f"{key}={pattern[:80]!r} is no regular expression: {error}") from None


def matched(key: str, pattern: "regex.Pattern[str]", text: str) -> "regex.Match[str] | None":
    """A search that ends within `PATTERN_SECONDS`.

    Raises:
        ConfigError: it does not.
    """
    try:
        return pattern.search(text, timeout=PATTERN_SECONDS)
    except TimeoutError:
        raise ConfigError(
            f"{key}={pattern.pattern[:80]!r} takes over {PATTERN_SECONDS} seconds for one line of output: "
            "write it without repeats inside of repeats"
        ) from None


class OutputSource(Source):
    """Values in printed lines, by a pattern.

    Args:
        key: of the configuration, for messages.
        pattern: with a group `loss`, or whose first group is the value; `step` and those of `BESIDE` are
            read by groups of these names.
    """

    def __init__(self, key: str, pattern: str) -> None:
        self._key = key
        self._pattern = compiled(key, pattern)
        names = self._pattern.groupindex
        require(
            "loss" in names or self._pattern.groups > 0,
            f"{key}={pattern[:80]!r} needs a group for the value, such as 'val loss (?P<loss>[-+.\\deE]+)'",
        )
        self._value: int | str = "loss" if "loss" in names else 1
        self._beside = [name for name in BESIDE if name in names]
        self.has_steps = "step" in names or "tokens" in names

    def line(self, text: str) -> list[Reading]:
        """The value of a line that matches, without colours and the punctuation that ends a value."""
        found = matched(self._key, self._pattern, COLOURS.sub("", text))
        if found is None:
            return []
        printed = {
            name: number((found[name] or "").rstrip(PUNCTUATION))
            for name in (self._value, "step", *self._beside)
            if name == self._value or name in self._pattern.groupindex
        }
        value = printed[self._value]
        if value is None:
            self.unread = found[self._value] or self.unread
            return []
        beside = {name: v for name in self._beside if (v := printed[name]) is not None}
        return [Reading(value, printed.get("step"), beside)]


class JsonSource(Source):
    """The value in a JSON file that is written when the run ends."""

    def __init__(self, config: SourceConfig) -> None:
        self._config = config

    def last(self, folder: Path) -> list[Reading]:
        """The value, where the file has it."""
        assert self._config.file is not None
        file = open_inside(folder, self._config.file)
        if file is None:
            return []
        with file:
            data = file.read(LARGEST_JSON + 1)
        reading = None if len(data) > LARGEST_JSON else _row(_json(data), self._config, others=True)
        return [] if reading is None else [reading]


class GrowingFile:
    """A file of a folder that is read on from where it was read to."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._at = 0
        self._open = b""

    def gained(self, folder: Path) -> bytes:
        """What the last call left over, and what the file has gained since; `keep` says what was not used."""
        file: BinaryIO | None = open_inside(folder, self.name) if self._at < MOST_BYTES else None
        if file is None:
            return b""
        with file:
            file.seek(self._at)
            data = file.read(CHUNK)
        self._at += len(data)
        kept, self._open = self._open, b""
        return kept + data if data else self._keep_all(kept)

    def _keep_all(self, data: bytes) -> bytes:
        self._open = data
        return b""

    def keep(self, data: bytes) -> None:
        """The rest, of a row that is not complete."""
        self._open = data

    def rest(self) -> bytes:
        """What was kept."""
        return self._open


class RowsSource(Source):
    """Values in the rows of a file of JSON lines or CSV that grows while the run goes on."""

    def __init__(self, config: SourceConfig, format: str) -> None:
        assert config.file is not None
        self._config, self._format = config, format
        self._file = GrowingFile(config.file)
        self._columns: list[str] | None = None

    def poll(self, folder: Path) -> list[Reading]:
        """Those of the rows that were completed since."""
        readings = []
        while data := self._file.gained(folder):
            *rows, rest = data.split(b"\n")
            self._file.keep(rest if len(rest) <= LONGEST_ROW else b"")
            readings += [reading for row in rows if (reading := self._parsed(row)) is not None]
        return readings

    def last(self, folder: Path) -> list[Reading]:
        """Also that of a last row without an end."""
        readings = self.poll(folder)
        reading = self._parsed(self._file.rest())
        return readings if reading is None else [*readings, reading]

    def _parsed(self, row: bytes) -> Reading | None:
        if len(row) > LONGEST_ROW or not row.strip():
            return None
        if self._format == "jsonl":
            return _row(_json(row), self._config)
        try:
            (cells,) = csv.reader([row.decode("utf-8", errors="replace").replace("\r", "")])
        except (csv.Error, ValueError):
            return None
        if self._columns is None:
            self._columns = [cell.strip() for cell in cells]
            return None
        return _row(dict(zip(self._columns, cells, strict=False)), self._config)


class EventSource(Source):
    """Scalars of TensorBoard's files anywhere below a folder of the run."""

    def __init__(self, config: SourceConfig) -> None:
        assert config.file is not None
        self._folder, self._tag = config.file, config.name
        self._files: dict[str, GrowingFile] = {}

    def poll(self, folder: Path) -> list[Reading]:
        """Those of the events that were completed since."""
        for name in files_below(folder, self._folder, EVENT_MARK)[:EVENT_FILES]:
            self._files.setdefault(name, GrowingFile(name))
        readings: list[Reading] = []
        for name, file in sorted(self._files.items()):
            while data := file.gained(folder):
                try:
                    whole, used = records(data)
                    file.keep(data[used:])
                    found = [scalars(record) for record in whole]
                except BrokenRecord:
                    self._files[name] = GrowingFile("")  # never opened again
                    break
                readings += [
                    Reading(v[self._tag], step, {k: v[k] for k in BESIDE if k in v})
                    for step, v in found
                    if self._tag in v
                ]
        return readings


def build_source(key: str, config: SourceConfig) -> Source:
    """The source that a configuration describes.

    Raises:
        ConfigError: it describes none.
    """
    if config.file is None:
        require(config.pattern is not None, f"{key}: say {key}.file or {key}.pattern")
        return OutputSource(f"{key}.pattern", str(config.pattern))
    require(config.pattern is None, f"{key}: set {key}.file or {key}.pattern, not both")
    require_inside(f"{key}.file", config.file)
    suffix = config.file.rpartition(".")[2].lower()
    format = config.format or {"ndjson": "jsonl"}.get(suffix, suffix)
    if config.format is None and suffix not in (*FORMATS, "ndjson"):
        format = "tensorboard"
    require_choice(f"{key}.format", format, FORMATS)
    if format == "tensorboard":
        return EventSource(config)
    return JsonSource(config) if format == "json" else RowsSource(config, format)


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _row(values: Any, config: SourceConfig, others: bool = False) -> Reading | None:
    """The reading in an object; None where it has no such number."""
    if isinstance(values, list) and values:
        values = values[-1]
    if not isinstance(values, Mapping):
        return None
    found: Any = values.get(config.name)
    if found is None:
        found = values
        for part in config.name.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
    value = number(found)
    if value is None:
        return None
    beside = {name: number(values.get(name)) for name in BESIDE if name != config.name}
    numbers = {} if not others else {
        str(key)[:40]: float(v)
        for key, v in list(values.items())[:50]
        if isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e300 and math.isfinite(v)
    }  # fmt: skip
    return Reading(
        value,
        number(values.get(config.step)),
        {name: v for name, v in beside.items() if v is not None},
        {key: v for key, v in numbers.items() if key != config.name},
    )
