"""The database that a ledger is in: how it is named, opened to search or read, and what its errors mean."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import optuna
import sqlalchemy

from carbs_scaling.config import StudyConfig
from carbs_scaling.errors import ConfigError, StudyError
from carbs_scaling.passwords import cleaned, remember

Storage = TypeVar("Storage", bound=optuna.storages.RDBStorage)
_SQLITE_HEADER = b"SQLite format 3\0"
_BUSY_SECONDS = 30  # SQLite waits so long for another reader or writer, such as a dashboard
_LAST_TABLE = "alembic_version"  # Optuna fills it when all others are there
# What SQLite, PostgreSQL and MySQL say of a table or row that somebody else has just created.
_CREATED_MEANWHILE = re.compile("already exists|unique constraint|duplicate", re.IGNORECASE)
_CREATIONS, _CREATION_SECONDS = 50, 0.1  # attempts, and the pause between two


@contextmanager
def storage_errors(where: str) -> Iterator[None]:
    """Says in one line what a database driver says in fifty.

    Raises:
        StudyError: the ledger cannot be read or written.
    """
    try:
        yield
    except ImportError as error:
        raise StudyError(
            f"the ledger {where} cannot be used ({str(error).splitlines()[0]}): install the database's "
            "Python driver, such as psycopg2-binary or pymysql"
        ) from error
    except json.JSONDecodeError as error:
        raise StudyError(
            f"the ledger {where} holds a value that is no JSON: carbs-scaling check names its trial"
        ) from error
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
        reason = cleaned(str(getattr(cause, "orig", None) or cause or error).splitlines()[0])
        advice = {
            "file is not a database": "the file is damaged or is something else: move it away to begin anew",
            "database disk image is malformed": "the file is damaged: move it away to begin anew",
            "disk is full": "free some space and run the same command again; nothing is lost",
            "readonly database": "the folder or file is read-only: choose another study.directory",
            "unable to open database file": "check that the folder exists and can be written",
        }
        hint = next((text for key, text in advice.items() if key in reason), "check study.storage")
        raise StudyError(f"the ledger {where} cannot be used ({reason}): {hint}") from error


def storage_to_write(config: StudyConfig) -> optuna.storages.RDBStorage:
    """The ledger's database, with its tables created where there are none."""
    url, options = database_of(config)
    for attempt in range(_CREATIONS):
        try:
            return optuna.storages.RDBStorage(
                url.render_as_string(hide_password=False), engine_kwargs=options
            )
        except (sqlalchemy.exc.DatabaseError, optuna.exceptions.StorageInternalError) as error:
            # Another process, such as a dashboard, creates them at this moment: what it made is taken over.
            if attempt == _CREATIONS - 1 or not _CREATED_MEANWHILE.search(f"{error} {error.__cause__}"):
                raise
            time.sleep(_CREATION_SECONDS)
    raise AssertionError


def storage_to_read(
    config: StudyConfig,
    kind: type[Storage] = optuna.storages.RDBStorage,  # type: ignore[assignment]
    read_only: bool = False,
) -> Storage:
    """The ledger's database as it is: reading creates no file and no table.

    Args:
        config: where it is.
        kind: of the storage.
        read_only: whether SQLite and PostgreSQL are told to refuse every write.

    Raises:
        KeyError: there are no tables yet, or not all of them.
    """
    url, options = database_of(config)
    if read_only:
        options |= {"execution_options": {"postgresql_readonly": True}}
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
        raise KeyError(config.name)
    if read_only and url.get_backend_name() == "sqlite" and url.database:
        file = Path(url.database).resolve().as_uri()
        url = url.set(database=file, query={**url.query, "mode": "ro", "uri": "true"})
    engine = sqlalchemy.create_engine(url, **options)
    try:
        with engine.connect() as connection:
            if not sqlalchemy.inspect(connection).has_table(_LAST_TABLE):
                raise KeyError(config.name)
            if connection.execute(sqlalchemy.text(f"SELECT * FROM {_LAST_TABLE}")).first() is None:
                raise KeyError(config.name)
    finally:
        engine.dispose()
    return kind(url.render_as_string(hide_password=False), engine_kwargs=options, skip_table_creation=True)


def database_of(config: StudyConfig) -> tuple[sqlalchemy.URL, dict[str, Any]]:
    """URL of the ledger's database, and options of its engine."""
    if config.storage is not None:
        return database_url(config.storage), {}
    file = config.folder / "study.db"
    if file.exists():
        with file.open("rb") as stream:
            header = stream.read(len(_SQLITE_HEADER))
        if header and header != _SQLITE_HEADER:  # SQLite itself would overwrite a very short file
            raise StudyError(f"the ledger {file} is not an SQLite file: move it away to begin anew")
    url = sqlalchemy.URL.create("sqlite", database=str(file.resolve()))
    return url, {"connect_args": {"timeout": _BUSY_SECONDS}}


def shown_place(config: StudyConfig) -> str:
    """Where the ledger is, for messages: without login and query, which may hold a password.

    Raises:
        ConfigError: `study.storage` is no database URL.
    """
    if config.storage is None:
        return str(config.folder / "study.db")
    return database_url(config.storage).set(username=None, password=None, query={}).render_as_string()


def database_url(storage: str) -> sqlalchemy.URL:
    """`study.storage`, remembered as something whose password is never printed.

    Raises:
        ConfigError: it is no URL, or can be read in two ways.
    """
    remember(storage)
    login, at, _ = storage.partition("://")[2].rpartition("@")
    try:
        url = sqlalchemy.make_url(storage)
        if at and url.get_backend_name() != "sqlite" and ("@" in login or "?" in login):
            raise ValueError("a password with an @, or a query with one")
    except (sqlalchemy.exc.ArgumentError, sqlalchemy.exc.NoSuchModuleError, ValueError):
        # Without the error's own words, and not from it: they hold parts of the URL, perhaps of its password.
        raise ConfigError(
            "study.storage is no database URL: write postgresql+psycopg://USER:PASSWORD@HOST:PORT/NAME, "
            "with %40 for an @ and %3F for a ? in the password"
        ) from None
    return url
