"""The database that a ledger is in: how it is named, opened to search or read, and what its errors mean."""

import gc
import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import optuna
import sqlalchemy
from optuna.storages._rdb.models import (
    NOT_FOUND_MSG,
    StudyModel,
    TrialIntermediateValueModel,
    TrialModel,
    TrialParamModel,
    TrialSystemAttributeModel,
    TrialUserAttributeModel,
    TrialValueModel,
)
from optuna.trial import FrozenTrial, TrialState

from carbs_scaling.config import StudyConfig
from carbs_scaling.errors import ConfigError, StudyError
from carbs_scaling.ledger.faults import distribution_of, examined
from carbs_scaling.ledger.trials import FAULT
from carbs_scaling.passwords import cleaned, remember

_Made = TypeVar("_Made")
_Storage = TypeVar("_Storage", bound="LedgerStorage")
_SQLITE_HEADER = b"SQLite format 3\0"
_BUSY_SECONDS = 30  # SQLite waits so long for another reader or writer, such as a dashboard
_LAST_TABLE = "alembic_version"  # Optuna fills it when all others are there
# What SQLite, PostgreSQL and MySQL say of a table or row that somebody else has just created.
_CREATED_MEANWHILE = re.compile("already exists|unique constraint|duplicate", re.IGNORECASE)
_CREATIONS, _CREATION_SECONDS = 50, 0.1  # attempts, and the pause between two
_MOST_IDS = 10_000  # in one query: SQLite takes 32,766 parameters by default, PostgreSQL 65,535
# What belongs to a trial: names of Optuna's `TrialModel`, and the tables that they stand in.
_PARTS: dict[str, Any] = {
    "params": TrialParamModel,
    "values": TrialValueModel,
    "user_attributes": TrialUserAttributeModel,
    "system_attributes": TrialSystemAttributeModel,
    "intermediate_values": TrialIntermediateValueModel,
}


class LedgerGone(StudyError):
    """The database cannot be reached now, and may be soon: it restarts, or another process has it locked."""


class LedgerFull(StudyError):
    """The database's disk is full."""


# What SQLite, PostgreSQL and MySQL and their drivers say of a database that may be there again in a moment.
_GONE = re.compile(
    "refused|timed? ?out|timeout expired|server closed|terminat|starting up|shutting down|recovery mode"
    "|not yet accepting"
    "|is locked|gone away|lost connection|connection is (lost|closed|bad)"
    "|connection (not open|already closed)"
    "|too many (clients|connections)|connection slots|reset by peer|broken pipe|consuming input failed"
    "|unreachable|no such file or directory.*running locally|connect to (mysql )?server",
    re.IGNORECASE | re.DOTALL,
)
_FULL = re.compile("disk is full|no space left|disk full|quota exceeded", re.IGNORECASE)
# Seconds after which a PostgreSQL server that says nothing counts as gone, instead of the system's hours.
_POSTGRESQL_PATIENCE = {
    "connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3,
}  # fmt: skip


@contextmanager
def storage_errors(where: str) -> Iterator[None]:
    """Says in one line what a database driver says in fifty.

    Raises:
        LedgerGone: the database cannot be reached at the moment.
        LedgerFull: its disk is full.
        StudyError: the ledger cannot be read or written.
    """
    try:
        yield
    except ImportError as error:
        raise StudyError(
            f"the ledger {where} cannot be used ({str(error).splitlines()[0]}): install the database's "
            "Python driver, such as psycopg[binary] or pymysql"
        ) from error
    except json.JSONDecodeError as error:
        raise StudyError(
            f"the ledger {where} holds a value that is no JSON: carbs-scaling check names its trial"
        ) from error
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
        said = cleaned(str(getattr(cause, "orig", None) or cause or error))
        reason = (said.strip().splitlines() or [type(cause).__name__])[0]
        if _FULL.search(said):
            raise LedgerFull(
                f"the disk of the ledger {where} is full ({reason}): free some space and run the same "
                "command again; nothing is lost"
            ) from error
        # Optuna answers a failed query by another one in the same transaction, which SQLAlchemy refuses.
        broken = isinstance(cause, sqlalchemy.exc.PendingRollbackError)
        if broken or getattr(cause, "connection_invalidated", False) or _GONE.search(said):
            raise LedgerGone(
                f"the ledger {where} cannot be reached ({reason}): run the same command again when it can"
            ) from error
        advice = {
            "file is not a database": "the file is damaged or is something else: move it away to begin anew",
            "database disk image is malformed": "the file is damaged: move it away, and restore a backup or "
            "begin anew",
            "readonly database": "the folder or file is read-only: choose another study.directory",
            "unable to open database file": "check that the folder exists and can be written",
            "deleted or moved": "put it back, or restore a backup, and run the same command again",
            "disk I/O error": "check that the folder is still there and its disk is whole",
        }
        if getattr(getattr(cause, "orig", None), "sqlite_errorname", "") == "SQLITE_READONLY_DBMOVED":
            reason = "its file was deleted or moved while it was open"
        hint = next((text for key, text in advice.items() if key in reason), "check study.storage")
        raise StudyError(f"the ledger {where} cannot be used ({reason}): {hint}") from error
    except LookupError as error:
        if NOT_FOUND_MSG in str(error):
            raise StudyError(f"the study or a trial of it was taken out of the ledger {where}") from error
        # SQLAlchemy's word on a state or kind of value that Optuna does not have.
        if not isinstance(error, KeyError) and "is not among the defined enum values" in str(error):
            raise StudyError(
                f"the ledger {where} holds a state that no trial can have ({str(error).split('.')[0]}): "
                "carbs-scaling check names its trial"
            ) from error
        raise


@contextmanager
def reading_errors(where: str) -> Iterator[None]:
    """As `storage_errors`, for a body that only reads: what it stumbles over is damage to the ledger.

    Raises:
        StudyError: the ledger cannot be read.
    """
    try:
        with storage_errors(where):
            yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        said = (str(error).splitlines() or [""])[0][:200]
        raise StudyError(
            f"the ledger {where} is damaged ({type(error).__name__} {cleaned(said)}): restore a backup, or "
            "move it away to begin anew"
        ) from error


@contextmanager
def _without_collections() -> Iterator[None]:
    """Turn this process's garbage collector off: it takes a tenth of a reading, and all of that is kept."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class LedgerStorage(optuna.storages.RDBStorage):
    """Optuna's storage, which a single damaged trial does not bring down.

    What is wrong with a trial is looked for once, as it is read. It then counts as a failure with the user
    attribute `FAULT`, and `read_trials` leaves it out.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Trials that had not ended when they were read, with the rows that they were made of.
        self._open_trials: dict[int, tuple[list[Any], FrozenTrial]] = {}

    def numbers(self, study_id: int) -> list[int]:
        """Numbers of a study's trials, as they are stored, in the order of creation."""
        query = sqlalchemy.select(TrialModel.number).where(TrialModel.study_id == study_id)
        with self.engine.connect() as connection:
            found = connection.execute(query.order_by(TrialModel.trial_id))
            return [-1 if number is None else int(number) for (number,) in found]

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        """Read trials as Optuna does, but by plain rows, in half the time.

        Trials that have not ended are read at each of a proposal's readings: one whose rows are as they were
        is not made again, so that callers must not change them.

        Raises:
            KeyError: there is no such study.
        """
        known = {trial_id for trial_id in included_trial_ids if trial_id <= trial_id_greater_than}
        if states is not None or len(known) > _MOST_IDS:
            return super()._get_trials(study_id, states, included_trial_ids, trial_id_greater_than)
        wanted = TrialModel.study_id == study_id
        if trial_id_greater_than >= 0:
            newer = TrialModel.trial_id > trial_id_greater_than
            wanted &= sqlalchemy.or_(newer, TrialModel.trial_id.in_(known)) if known else newer
        with _without_collections(), self.engine.connect() as connection:
            of_study = sqlalchemy.select(StudyModel.study_id).where(StudyModel.study_id == study_id)
            if connection.execute(of_study).first() is None:
                raise KeyError(NOT_FOUND_MSG)
            query = sqlalchemy.select(TrialModel.__table__).where(wanted).order_by(TrialModel.trial_id)
            trials = connection.execute(query).all()
            if not trials:
                return []
            parts: list[dict[int, list[Any]]] = []
            for model in _PARTS.values():
                parts.append(defaultdict(list))
                table = model.__table__
                of_trials = sqlalchemy.select(table).join(TrialModel, table.c.trial_id == TrialModel.trial_id)
                for row in connection.execute(of_trials.where(wanted)):
                    parts[-1][row.trial_id].append(row)
        with _without_collections():
            return [self._trial_of([trial, *(of[trial.trial_id] for of in parts)]) for trial in trials]

    def _trial_of(self, rows: list[Any]) -> FrozenTrial:
        """The trial of its rows: that of `TrialModel`, and those of each of `_PARTS`."""
        trial, *parts = rows
        before, made = self._open_trials.get(trial.trial_id, (None, None))
        if made is None or before != rows:
            model: Any = SimpleNamespace(**trial._asdict(), **dict(zip(_PARTS, parts, strict=True)))
            made = self._build_frozen_trial_from_trial_model(model)
        if made.state.is_finished():
            self._open_trials.pop(trial.trial_id, None)
        else:
            self._open_trials[trial.trial_id] = rows, made
        return made

    def _build_frozen_trial_from_trial_model(self, trial: TrialModel) -> FrozenTrial:
        """Make a trial of its rows as Optuna does, but a failure with the attribute `FAULT` of a damaged one.

        Its user attributes and distributions are parsed once, in `examined`, and not again.
        """
        row: Any = trial  # SQLAlchemy's types are those of the columns
        fault, attributes = examined(trial)
        if fault is not None:
            begun = trial.datetime_start or datetime.fromtimestamp(0)
            return FrozenTrial(
                number=row.number,
                state=TrialState.FAIL,
                value=None,
                datetime_start=begun,
                datetime_complete=trial.datetime_complete or begun,
                params={},
                distributions={},
                user_attrs={FAULT: fault.what},
                system_attrs={},
                intermediate_values={},
                trial_id=row.trial_id,
            )
        params = sorted(row.params, key=lambda param: param.param_id)
        distributions = {param.param_name: distribution_of(param.distribution_json) for param in params}
        values = {
            of.objective: TrialValueModel.stored_repr_to_value(of.value, of.value_type) for of in row.values
        }
        return FrozenTrial(
            number=row.number,
            state=row.state,
            value=None,
            values=[values[objective] for objective in range(len(values))] or None,
            datetime_start=row.datetime_start,
            datetime_complete=row.datetime_complete,
            params={
                param.param_name: distributions[param.param_name].to_external_repr(param.param_value)
                for param in params
            },
            distributions=distributions,
            user_attrs=attributes,
            system_attrs={of.key: json.loads(of.value_json) for of in row.system_attributes},
            intermediate_values={
                of.step: TrialIntermediateValueModel.stored_repr_to_intermediate_value(
                    of.intermediate_value, of.intermediate_value_type
                )
                for of in row.intermediate_values
            },
            trial_id=row.trial_id,
        )


def ledger_engine(config: StudyConfig) -> sqlalchemy.Engine:
    """An engine of the ledger's database, beside the one that Optuna has."""
    url, options = database_of(config)
    return sqlalchemy.create_engine(url, **options)


def created_by_one(create: Callable[[], _Made]) -> _Made:
    """Create what another process, such as a dashboard, may be creating too: what it made is taken over."""
    for attempt in range(_CREATIONS):
        try:
            return create()
        except (sqlalchemy.exc.DatabaseError, optuna.exceptions.StorageInternalError) as error:
            if attempt == _CREATIONS - 1 or not _CREATED_MEANWHILE.search(f"{error} {error.__cause__}"):
                raise
            time.sleep(_CREATION_SECONDS)
    raise AssertionError


def storage_to_write(config: StudyConfig) -> LedgerStorage:
    """The ledger's database, with its tables created where there are none."""
    url, options = database_of(config)
    shown = url.render_as_string(hide_password=False)
    return created_by_one(lambda: LedgerStorage(shown, engine_kwargs=dict(options)))


def storage_to_read(
    config: StudyConfig,
    kind: type[_Storage] = LedgerStorage,  # type: ignore[assignment]
    read_only: bool = False,
) -> _Storage:
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
        url, patience = database_url(config.storage), {}
        if url.get_driver_name() in ("psycopg", "psycopg2"):
            patience = {key: value for key, value in _POSTGRESQL_PATIENCE.items() if key not in url.query}
        return url, {"connect_args": patience} if patience else {}
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
