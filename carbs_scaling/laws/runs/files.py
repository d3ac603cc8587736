"""Files of tables as people have them: CSV, TSV, JSON or Parquet, also packed, nested or with semicolons."""

import ast
import gzip
import io
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carbs_scaling.laws.runs.table import REQUIRED, LawArgumentError

if TYPE_CHECKING:
    import pandas as pd

TEXTS = (".csv", ".tsv")
JSON = (".json", ".jsonl", ".ndjson")
SUFFIXES = (*TEXTS, *JSON, ".parquet")
SEPARATORS = ",\t;|"
# How Weights & Biases and others call the two halves of a run; a name without them is looked for in both.
HALVES = ("config", "summary")


def read_table(path: Path, holds: Sequence[str] = REQUIRED) -> "pd.DataFrame":
    """The table in a CSV, TSV, JSON, JSON lines or Parquet file; all but Parquet may be compressed (.gz).

    The separator of a CSV or TSV file is the one of `,`, tab, `;` and `|` that its first line has most of.
    A JSON file holds an array of runs, a run a line, or an array a column. Nested objects `config` and
    `summary` become columns `config.x` and `summary.x`.

    Args:
        path: of the file.
        holds: columns that are named where there is no such file.

    Raises:
        LawArgumentError: there is no such file, or it cannot be read.
    """
    if not path.is_file():
        raise LawArgumentError(
            f"{path} is not a file: give a CSV, TSV, JSON, JSONL or Parquet table with {', '.join(holds)}"
        )
    packed = path.suffix.lower() == ".gz"
    suffix = (path.with_suffix("") if packed else path).suffix.lower()
    if suffix not in SUFFIXES or (packed and suffix == ".parquet"):
        raise LawArgumentError(f"{path} ends in none of {', '.join(SUFFIXES)}, {TEXTS[0]}.gz, {JSON[0]}.gz")
    try:
        if suffix == ".parquet":
            return with_halves(_parquet(path))
        raw = path.read_bytes()
        text = _decoded(gzip.decompress(raw) if packed else raw)
        return with_halves(_json(text) if suffix in JSON else _separated(text))
    except (ValueError, ArithmeticError, OSError, EOFError, RecursionError, zlib.error) as error:
        # pandas' and Arrow's errors are ValueErrors
        said = (str(error).splitlines() or ["damaged"])[0]
        raise LawArgumentError(f"{path} cannot be read as {suffix[1:]}: {said}") from error


def _parquet(path: Path) -> "pd.DataFrame":
    import pandas as pd

    return pd.read_parquet(path)


def _decoded(raw: bytes) -> str:
    """Text in UTF-8, or with the byte order mark of UTF-16 that spreadsheets write."""
    utf_16 = raw.startswith((b"\xff\xfe", b"\xfe\xff"))
    return raw.decode("utf-16" if utf_16 else "utf-8-sig")


def _separated(text: str) -> "pd.DataFrame":
    import pandas as pd

    head, _, body = text.lstrip("\r\n").partition("\n")
    separator = max(SEPARATORS, key=head.count)
    # Where commas do not separate, they are the decimal mark of half the world.
    comma = separator != "," and re.search(r"\d,\d", body) and not re.search(r"\d\.\d", body)
    return pd.read_csv(io.StringIO(text), sep=separator, decimal="," if comma else ".", skipinitialspace=True)


def _json(text: str) -> "pd.DataFrame":
    """Runs of an array, of lines, or of one object with a list a column."""
    import pandas as pd

    try:
        values = json.loads(text)
    except ValueError:
        values = [json.loads(line) for line in text.splitlines() if line.strip()]
    if isinstance(values, dict):
        if not values or not all(isinstance(column, list) for column in values.values()):
            values = [values]
        else:
            return pd.DataFrame(values)
    if not (isinstance(values, list) and all(isinstance(row, dict) for row in values)):
        raise ValueError("it holds no array of runs, no run a line and no list a column")
    return pd.DataFrame(values)


def with_halves(frame: "pd.DataFrame") -> "pd.DataFrame":
    """The table with what stands in nested objects as columns of its own, such as `config.lr`."""
    import pandas as pd

    frame = frame.rename(columns=lambda name: str(name).strip())
    for name in list(frame.columns):
        if list(frame.columns).count(name) > 1:
            continue
        cells = [mapping(cell) if name in HALVES or isinstance(cell, Mapping) else {} for cell in frame[name]]
        if any(cells):
            rows = pd.DataFrame([_flat(name, cell) for cell in cells], index=frame.index)
            frame = pd.concat([frame.drop(columns=name), rows], axis=1)
    return frame


def _flat(name: str, value: Any) -> dict[str, Any]:
    value = plain(value)
    if not isinstance(value, Mapping):
        return {name: value}
    return {key: leaf for k, v in value.items() for key, leaf in _flat(f"{name}.{k}", v).items()}


def without_half(name: str) -> str:
    """A column's name without the half of the run that it stands in, such as `lr` of `config.lr`."""
    head, _, rest = name.replace("/", ".").partition(".")
    return rest if head in HALVES and rest else name


def plain(value: Any) -> Any:
    """A value by itself: in the files of a run, W&B keeps it beside its description."""
    return value["value"] if isinstance(value, Mapping) and "value" in value else value


def mapping(value: Any) -> Mapping[str, Any]:
    """A nested object, or its text as JSON or as Python prints it; nothing for anything else."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        for read in (json.loads, ast.literal_eval):  # neither runs code
            try:
                value = read(value)
                break
            except (TypeError, ValueError, SyntaxError, RecursionError, MemoryError):
                continue
    return value if isinstance(value, Mapping) else {}
