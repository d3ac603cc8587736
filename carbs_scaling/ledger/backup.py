"""A whole study as one file: its ledger as plain JSON lines, and all files of its folder, in a ZIP archive.

    study.json         format, name, version of the tables, and how many rows there are
    ledger.jsonl       one row of a table a line: {"table": ..., "row": {...}}
    files/...          the study's folder without its database

Rows are those of Optuna's tables, so that what was damaged stays as it was. They go into any database,
whichever one they came from. Nothing is unpickled, and no file is written outside of the new study's folder.
"""

import errno
import json
import lzma
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Any

import sqlalchemy
from optuna.storages._rdb.models import SCHEMA_VERSION, BaseModel

from carbs_scaling.config import StudyConfig
from carbs_scaling.errors import CarbsScalingError, StudyError, WrongStudy
from carbs_scaling.ledger.checking import study_id_of
from carbs_scaling.ledger.database import (
    database_of,
    ledger_engine,
    reading_errors,
    shown_place,
    storage_errors,
    storage_to_write,
)
from carbs_scaling.ledger.kept import RESERVE

FORMAT = 1
HEAD, LEDGER, FILES = "study.json", "ledger.jsonl", "files/"
DATABASE = "study.db"  # in the study's folder, with SQLite's own files beside it
_TABLES = BaseModel.metadata.tables
# Tables with rows of a study, and of a trial; a table after those that it refers to.
OF_STUDY = ("study_directions", "study_user_attributes", "study_system_attributes")
OF_TRIAL = (
    "trial_params", "trial_values", "trial_intermediate_values", "trial_user_attributes",
    "trial_system_attributes",
)  # fmt: skip
ROWS_AT_ONCE = 1000
LONGEST_LINE = 1 << 26  # bytes of a row


def back_up(config: StudyConfig, output: Path) -> int:
    """Write a study to one file, whole or not at all; gives how many trials it has.

    The ledger is read at one moment: a search may go on meanwhile.

    Raises:
        CarbsScalingError: there is a file already, or it cannot be written.
        StudyError: there is no such study, or the ledger cannot be read.
    """
    if output.exists():
        raise CarbsScalingError(f"{output} is there already, and is not overwritten: name another output")
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(temporary, "x", zipfile.ZIP_DEFLATED, allowZip64=True) as archive:
            counts: dict[str, int] = {}
            with archive.open(LEDGER, "w", force_zip64=True) as lines:
                for table, row in _rows(config):
                    counts[table] = counts.get(table, 0) + 1
                    lines.write(json.dumps({"table": table, "row": row}).encode() + b"\n")
            for path in sorted(config.folder.rglob("*")):
                name = path.relative_to(config.folder)
                ours = str(name).startswith(DATABASE) or path.name == RESERVE
                if path.is_file() and not path.is_symlink() and not ours:
                    archive.write(path, FILES + name.as_posix())
            head = {"format": FORMAT, "name": config.name, "schema": SCHEMA_VERSION, "rows": counts}
            archive.writestr(HEAD, json.dumps(head, indent=1))
        os.link(temporary, output)  # unless it is there by now
    except OSError as error:
        raise CarbsScalingError(f"cannot write {output}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return counts.get("trials", 0)


def _rows(config: StudyConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """Table and row, as plain JSON values, of all that the ledger holds of a study."""
    with reading_errors(shown_place(config)):
        engine = ledger_engine(config)
        try:
            if engine.dialect.name != "sqlite":
                engine = engine.execution_options(isolation_level="REPEATABLE READ")
            with engine.connect() as connection:
                if engine.dialect.name == "sqlite":
                    connection.exec_driver_sql("BEGIN")  # the driver itself begins none for reading
                study_id = study_id_of(connection, config)
                trials = _TABLES["trials"]
                of_study = sqlalchemy.select(trials.c.trial_id).where(trials.c.study_id == study_id)
                for name in ("studies", *OF_STUDY, "trials", *OF_TRIAL):
                    table = _TABLES[name]
                    key = table.primary_key.columns.values()[0]
                    inside = (
                        table.c.trial_id.in_(of_study) if name in OF_TRIAL else table.c.study_id == study_id
                    )
                    found = connection.execution_options(yield_per=ROWS_AT_ONCE).execute(
                        sqlalchemy.select(table).where(inside).order_by(key)
                    )
                    for row in found.mappings():
                        yield name, {column: _plain(value) for column, value in row.items()}
        finally:
            engine.dispose()


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return value.name if isinstance(value, Enum) else value


def restore(source: Path, name: str | None, config: StudyConfig) -> tuple[StudyConfig, int]:
    """A study from such a file, where there is none of its name; gives its place, and how many trials it has.

    Args:
        source: the file.
        name: of the new study; None for the one that it had.
        config: its directory and database.

    Raises:
        CarbsScalingError: the file is none of `back_up`, or damaged.
        StudyError: there is such a study already, or the ledger cannot be written.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            head = json.loads(archive.read(HEAD))
            if head["format"] != FORMAT or head["schema"] != SCHEMA_VERSION:
                raise StudyError(
                    f"{source} was written by another version of this program or of Optuna: use that one"
                )
            place = StudyConfig(name or str(head["name"]), config.directory, config.storage, config.seed)
            return place, _restore(archive, head, place)
    except FileNotFoundError as error:
        raise WrongStudy(f"there is no file {error.filename}") from error
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        ArithmeticError,
        KeyError,
        TypeError,
        ValueError,
        EOFError,
        NotImplementedError,
        RuntimeError,
        OSError,  # of bz2, and of places before the beginning of the file
    ) as e:
        if isinstance(e, OSError) and e.errno not in (None, errno.EINVAL):
            raise
        raise CarbsScalingError(
            f"{source} is no whole backup of a study ({type(e).__name__} {e}): nothing was restored"
        ) from e


def _restore(archive: zipfile.ZipFile, head: dict[str, Any], place: StudyConfig) -> int:
    if place.folder.exists() and any(place.folder.iterdir()):
        raise StudyError(f"{place.folder}/ is there already, and is not overwritten: set study.name")
    directory = place.folder.parent
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{place.name[:50]}-", dir=directory))
    try:
        new = scratch / place.name
        new.mkdir()
        _extract(archive, new)
        in_folder = place.storage is None
        # A database of its own is written beside the files, and both appear at once.
        there = StudyConfig(place.name, str(scratch), None, 0) if in_folder else place
        with storage_errors(shown_place(place)):
            storage_to_write(there).engine.dispose()
            engine = ledger_engine(there)
            try:
                with engine.begin() as connection:
                    trials = _write(connection, archive, head, place)
                    if not in_folder:
                        _move(new, place.folder)
            finally:
                engine.dispose()
        if in_folder:
            assert str(database_of(there)[0].database).startswith(str(scratch.resolve()))
            _move(new, place.folder)
        return trials
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        with suppress(OSError):  # the study is in it
            for folder in missing:
                folder.rmdir()


def _move(new: Path, folder: Path) -> None:
    try:
        new.replace(folder)  # an empty folder gives way
    except OSError as error:
        raise StudyError(f"cannot make {folder}/ ({error.strerror}): nothing was restored") from error


def _extract(archive: zipfile.ZipFile, folder: Path) -> None:
    for entry in archive.infolist():
        if not entry.filename.startswith(FILES) or entry.is_dir():
            continue
        name = PurePosixPath(entry.filename.removeprefix(FILES))
        path = folder.joinpath(*name.parts)
        safe = name.parts and not name.is_absolute() and ".." not in name.parts and "\\" not in str(name)
        if not safe or str(name).startswith(DATABASE) or not path.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"a file named {entry.filename!r}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(entry) as content, path.open("xb") as file:
            shutil.copyfileobj(content, file)


def _write(
    connection: sqlalchemy.Connection, archive: zipfile.ZipFile, head: dict[str, Any], place: StudyConfig
) -> int:
    """Writes all rows under new keys; how many trials there are."""
    known = sqlalchemy.text("SELECT 1 FROM studies WHERE study_name = :name")
    if connection.execute(known, {"name": place.name}).first() is not None:
        raise StudyError(
            f"the ledger {shown_place(place)} holds study {place.name!r} already, and is not overwritten: "
            "set study.name"
        )
    new_keys: dict[str, dict[int, int]] = {"studies": {}, "trials": {}}
    counts: dict[str, int] = {}
    batch: list[dict[str, Any]] = []
    of = ""

    def flush() -> None:
        if batch:
            connection.execute(_TABLES[of].insert(), batch)
            batch.clear()

    with archive.open(LEDGER) as lines:
        while line := lines.readline(LONGEST_LINE):
            try:
                content = json.loads(line)
            except json.JSONDecodeError as error:  # which would be said of the new ledger
                raise ValueError(f"a row that is no JSON, {error}") from None
            name, row = content["table"], _typed(content["table"], content["row"])
            counts[name] = counts.get(name, 0) + 1
            if name != of or len(batch) >= ROWS_AT_ONCE:
                flush()
            of = name
            key = _TABLES[name].primary_key.columns.values()[0].name
            old = row.pop(key)
            if name == "studies":
                row["study_name"] = place.name
            else:
                parents = "trials" if name in OF_TRIAL else "studies"
                column = "trial_id" if name in OF_TRIAL else "study_id"
                row[column] = new_keys[parents][row[column]]
            if name in new_keys:
                made = connection.execute(_TABLES[name].insert().values(**row)).inserted_primary_key
                assert made is not None
                new_keys[name][old] = made[0]
            else:
                batch.append(row)
    flush()
    if counts != head["rows"] or counts.get("studies") != 1:
        raise ValueError("rows are missing")
    return counts.get("trials", 0)


def _typed(name: str, row: dict[str, Any]) -> dict[str, Any]:
    """A row with dates and choices as SQLAlchemy takes them.

    Raises:
        ValueError: a table or column that there is not.
    """
    if name not in ("studies", "trials", *OF_STUDY, *OF_TRIAL) or set(row) != set(_TABLES[name].c.keys()):
        raise ValueError(f"a row of {name} with other columns")
    typed = dict(row)
    for column in _TABLES[name].c:
        value = row[column.name]
        if value is not None and isinstance(column.type, sqlalchemy.DateTime):
            typed[column.name] = datetime.fromisoformat(value)
        elif value is not None and isinstance(column.type, sqlalchemy.Enum):
            kind = column.type.enum_class
            typed[column.name] = kind[value] if kind is not None else value
    return typed
