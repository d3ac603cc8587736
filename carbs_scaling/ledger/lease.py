"""The lease of a study: the row in its database that says which coordinator is at work on it.

It is taken, renewed and given back by statements that change it only where it still is what was read, so that
of two coordinators on any two machines one gets it. No clock is compared: a holder counts up while it lives,
and whoever wants the lease watches the count.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Column, Integer, String, Text

from carbs_scaling.config import StudyConfig
from carbs_scaling.errors import StudyError, warn
from carbs_scaling.files import undone_if_refused
from carbs_scaling.ledger.database import (
    LedgerStorage,
    created_by_one,
    ledger_engine,
    shown_place,
    storage_errors,
)

# A holder counts up so often; one that has not for as long as the lease lasts has lost it.
BEAT_SECONDS, LEASE_SECONDS = 3.0, 60.0
SEEN_SECONDS = 4 * BEAT_SECONDS  # after which `who_searches` takes a holder to be gone
AFTER_TRIALS, NOW = "after the running trials", "now"

LEASES = sqlalchemy.Table(
    "carbs_scaling_leases",
    sqlalchemy.MetaData(),
    Column("study_name", String(512), primary_key=True),
    Column("token", String(32), nullable=False),
    Column("beats", Integer, nullable=False),
    Column("holder", Text, nullable=False),
    Column("stop", String(32)),
)


class LeaseLost(StudyError):
    """Another coordinator has taken the study over: whoever meets this writes nothing more."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease.

    Args:
        host: name of the machine, for people.
        pid: of its process.
        started: when that began, by the machine's own count of ticks; 0 where that is not known.
        place: what only processes of one running system share, so that one can see whether another lives.
    """

    host: str
    pid: int
    started: int
    place: str

    @staticmethod
    def this_process() -> "Holder":
        """This very process."""
        return Holder(socket.gethostname(), os.getpid(), _started(os.getpid()), _place())

    @staticmethod
    def from_text(text: str) -> "Holder":
        """The inverse of `as_text`; nobody that can be seen, where it cannot be read."""
        try:
            return Holder(**json.loads(text))
        except (TypeError, ValueError):
            return Holder("an unknown host", 0, 0, "")

    def as_text(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))

    @property
    def can_be_seen(self) -> bool:
        """Whether it is on this very system, so that its process says whether it lives."""
        return self.place == _place()

    @property
    def lives(self) -> bool:
        """Whether its process is there; only where it can be seen."""
        try:
            os.kill(self.pid, 0)
        except PermissionError:
            pass
        except (ProcessLookupError, OverflowError):
            return False
        return _started(self.pid) == self.started and not _is_zombie(self.pid)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def _place() -> str:
    """Host, boot and process-number space: containers may share the first."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {Path('/proc/self/ns/pid').stat().st_ino}"
    return f"{socket.gethostname()} {uuid.getnode()}"


def _stat(pid: int) -> list[str]:
    """Fields of Linux's /proc/PID/stat after the name, which may hold blanks; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _started(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def _is_zombie(pid: int) -> bool:
    return _stat(pid)[:1] == ["Z"]


class Lease:
    """A lease that this process holds and renews. `sole_coordinator` takes it.

    Args:
        config: of the study.
        engine: of the ledger's database, the lease's own.
        token: that only this holder has.
    """

    def __init__(self, config: StudyConfig, engine: sqlalchemy.Engine, token: str) -> None:
        self._config, self._engine, self._token = config, engine, token
        self._where = (LEASES.c.study_name == config.name) & (LEASES.c.token == token)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def _renew(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            # While the database is away nobody else can take the lease either.
            with suppress(sqlalchemy.exc.SQLAlchemyError), self._engine.begin() as connection:
                connection.execute(LEASES.update().where(self._where).values(beats=LEASES.c.beats + 1))

    def guard(self, storage: LedgerStorage) -> None:
        """From now on every transaction that writes to `storage` is undone if the lease is not held any more.

        The lease's row stays locked until that transaction ends.
        """
        held = sqlalchemy.select(LEASES.c.beats).where(self._where).with_for_update(read=True)

        def wrote(connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if statement.lstrip()[:6].upper() in ("INSERT", "UPDATE", "DELETE"):
                connection.info["carbs_scaling_wrote"] = True

        def check(session: sqlalchemy.orm.Session) -> None:
            session.flush()
            connection = session.connection()
            if connection.info.pop("carbs_scaling_wrote", False) and connection.execute(held).first() is None:
                raise self._lost()

        sqlalchemy.event.listen(storage.engine, "before_cursor_execute", wrote)
        sqlalchemy.event.listen(storage.scoped_session, "before_commit", check)

    def stop_request(self) -> str | None:
        """What was asked for: `AFTER_TRIALS`, `NOW`, or None for nothing.

        Raises:
            LeaseLost: another coordinator has the study.
            StudyError: the ledger cannot be read.
        """
        with storage_errors(shown_place(self._config)), self._engine.connect() as connection:
            row = connection.execute(sqlalchemy.select(LEASES.c.stop).where(self._where)).first()
        if row is None:
            raise self._lost()
        return None if row.stop is None else str(row.stop)

    def release(self) -> None:
        """Give it back. Where the database cannot be reached it runs out."""
        self._ended.set()
        self._thread.join()
        with suppress(sqlalchemy.exc.SQLAlchemyError), self._engine.begin() as connection:
            connection.execute(LEASES.delete().where(self._where))
        self._engine.dispose()

    def _lost(self) -> LeaseLost:
        return LeaseLost(
            f"study {self._config.name!r} was taken over by another search, since this one's lease had run "
            "out: this one ends, and what it had not recorded is not counted"
        )


def take_lease(config: StudyConfig, say: Callable[[str], None] = warn) -> Lease:
    """Take the lease of a study; that of a holder that has gone is taken over.

    Args:
        config: of the study, whose folder is there.
        say: told that a holder on another machine is watched, which takes up to `LEASE_SECONDS`.

    Raises:
        StudyError: somebody else holds it, or the ledger cannot be used.
    """
    with storage_errors(shown_place(config)), ExitStack() as refused:
        engine = ledger_engine(config)
        refused.callback(engine.dispose)
        created_by_one(lambda: LEASES.create(engine, checkfirst=True))
        token = uuid.uuid4().hex
        _take(engine, config.name, token, say)
        refused.pop_all()
        return Lease(config, engine, token)
    raise AssertionError


def _take(engine: sqlalchemy.Engine, name: str, token: str, say: Callable[[str], None]) -> None:
    mine = {"token": token, "beats": 0, "holder": Holder.this_process().as_text(), "stop": None}
    seen: tuple[str, int] | None = None
    watched_since = 0.0
    while True:
        with engine.connect() as connection:
            row = connection.execute(LEASES.select().where(LEASES.c.study_name == name)).first()
        if row is None:
            with suppress(sqlalchemy.exc.IntegrityError), engine.begin() as connection:
                connection.execute(LEASES.insert().values(study_name=name, **mine))
                return
            continue
        holder, now = Holder.from_text(row.holder), time.monotonic()
        if seen is None:
            seen, watched_since = (row.token, row.beats), now
            if not holder.can_be_seen:
                say(f"{holder} searched study {name!r}: waiting up to {LEASE_SECONDS:g} s for a sign of it")
        gone = not holder.lives if holder.can_be_seen else now - watched_since >= LEASE_SECONDS
        if (row.token, row.beats) != seen or (holder.can_be_seen and not gone):
            raise StudyError(
                f"study {name!r} is being searched by {holder}: wait for it, stop it by carbs-scaling stop "
                f"study.name={name}, or take another study.name"
            )
        if gone:
            same = (LEASES.c.study_name == name) & (LEASES.c.token == row.token)
            with engine.begin() as connection:
                change = LEASES.update().where(same, LEASES.c.beats == row.beats).values(**mine)
                if connection.execute(change).rowcount == 1:
                    return
        else:
            time.sleep(min(BEAT_SECONDS, LEASE_SECONDS) / 4)


@contextmanager
def sole_coordinator(
    config: StudyConfig, kept: Callable[[Exception], bool] = lambda _: True
) -> Iterator[Lease]:
    """Holds the study's lease, so that no second search spends the same budget.

    Args:
        config: of the study, whose folder is made.
        kept: whether the work in the folder is worth keeping at an error; what is new is removed otherwise.

    Raises:
        StudyError: another process holds it, or the ledger cannot be used.
        OSError: the folder cannot be made or written.
    """
    missing = [path for path in (config.folder, *config.folder.parents) if not path.exists()]
    config.folder.mkdir(parents=True, exist_ok=True)
    before = set(config.folder.iterdir())
    try:
        lease = take_lease(config)
        # What the lease itself made is new as well: it is this process's alone from here on.
        with undone_if_refused(config.folder, kept, before):
            try:
                yield lease
            finally:
                lease.release()
    finally:
        with suppress(OSError):  # there is something in one of them
            for folder in missing:
                folder.rmdir()


def who_searches(config: StudyConfig) -> tuple[Holder, str | None] | None:
    """Who searches a study at the moment, and what was asked of that search; None for nobody.

    A holder on another machine is watched for up to `SEEN_SECONDS`.

    Raises:
        StudyError: the ledger cannot be read.
    """
    with storage_errors(shown_place(config)):
        engine = ledger_engine(config)
        try:
            if not sqlalchemy.inspect(engine).has_table(LEASES.name):
                return None
            query = LEASES.select().where(LEASES.c.study_name == config.name)
            first, begun = None, time.monotonic()
            while True:
                with engine.connect() as connection:
                    row = connection.execute(query).first()
                if row is None:
                    return None
                first = first or row
                holder = Holder.from_text(row.holder)
                moved = (row.token, row.beats) != (first.token, first.beats)
                if holder.lives if holder.can_be_seen else moved:
                    return holder, row.stop
                if holder.can_be_seen or time.monotonic() - begun >= SEEN_SECONDS:
                    return None
                time.sleep(BEAT_SECONDS / 4)
        finally:
            engine.dispose()


def ask_to_stop(config: StudyConfig, now: bool) -> None:
    """Leave the request that the search of a study reads.

    Raises:
        StudyError: the ledger cannot be written.
    """
    with storage_errors(shown_place(config)):
        engine = ledger_engine(config)
        try:
            with engine.begin() as connection:
                request = LEASES.update().where(LEASES.c.study_name == config.name)
                connection.execute(request.values(stop=NOW if now else AFTER_TRIALS))
        finally:
            engine.dispose()
