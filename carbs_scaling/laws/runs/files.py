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
SHEETS = (".xlsx", ".xls", ".ods")
SUFFIXES = (*TEXTS, *JSON, ".parquet")
SEPARATORS = ",\t;|"
RULE = re.compile(r"[\s|:-]+")  # the line below the names of a Markdown table
# Numbers with a decimal point or comma, and the other between thousands.
POINT = re.compile(r"[+-]?(\d+|[1-9]\d{0,2}(,\d{3})+)(\.\d*)?(e[+-]?\d+)?", re.IGNORECASE)
COMMA = re.compile(r"[+-]?(\d+|[1-9]\d{0,2}(\.\d{3})+)(,\d*)?(e[+-]?\d+)?", re.IGNORECASE)
# How Weights & Biases and others call the two halves of a run; a name without them is looked for in both.
HALVES = ("config", "summary")


def read_table(path: Path, holds: Sequence[str] = REQUIRED) -> "pd.DataFrame":
    """The table in a CSV, TSV, JSON, JSON lines or Parquet file; all but Parquet may be compressed (.gz).

    The separator of a CSV or TSV file is the one of `,`, tab, `;` and `|` that its first line has most of,
    or blanks. Commas may be decimal marks. Lines that begin with `#` above the names are comments.
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
        raise LawArgumentError(
            f"{path} ends in none of {', '.join(SUFFIXES)}, {TEXTS[0]}.gz, {JSON[0]}.gz"
            + ("; save the sheet as CSV" if suffix in SHEETS else "")
        )
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
    """Text in UTF-8, with the byte order mark of UTF-16 that spreadsheets write, or in Windows' code page."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("cp1252")


def _separated(text: str) -> "pd.DataFrame":
    """Rows below a line of names; comments above it, and lines that repeat the names, are passed over."""
    import pandas as pd

    lines = [line for line in re.split(r"\r\n|\r|\n", text) if line.strip()]
    comments = next((i for i, line in enumerate(lines) if not line.startswith("#")), 0)
    head = lines[comments] if lines else ""
    separator = max(SEPARATORS, key=head.count)
    pattern = re.escape(separator) if separator in head else r"\s+"
    if comments and len(re.split(pattern, lines[comments - 1].lstrip("# "))) == len(re.split(pattern, head)):
        comments -= 1  # the names are the last comment, as numpy.savetxt writes them
        head = lines[comments].lstrip("# ")
    rows = [line for line in lines[comments + 1 :] if line != head]
    if separator == "|":
        rows = [line for line in rows if not RULE.fullmatch(line)]
    numerals = _numerals(rows, separator)
    # Where a comma cannot be that of thousands, it is the decimal mark of half the world.
    comma = all(map(COMMA.fullmatch, numerals)) and not all(map(POINT.fullmatch, numerals))
    frame = pd.read_csv(
        io.StringIO("\n".join((head, *rows))),
        sep=separator if separator in head else pattern,
        decimal="," if comma else ".",
        thousands="." if comma else None,
        skipinitialspace=True,
    )
    if isinstance(frame.index, pd.RangeIndex) or not frame.iloc[:, -1].isna().all():
        return frame
    shifted = frame.reset_index()  # each row ends in a separator, and the names do not
    return shifted.iloc[:, : len(frame.columns)].set_axis(frame.columns, axis=1)


def _numerals(rows: Sequence[str], separator: str) -> list[str]:
    """Cells that are written as numbers; where commas separate, those in quotes."""
    text = "\n".join(rows)
    cells = re.findall(r'"([^"\n]*)"', text) if separator == "," else re.split(rf"[\n{separator}]", text)
    cells = [cell.strip(' "') for cell in cells]
    return [cell for cell in cells if POINT.fullmatch(cell) or COMMA.fullmatch(cell)]  # no dates


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
