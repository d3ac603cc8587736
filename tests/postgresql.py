"""A real PostgreSQL server for tests and benchmarks, in a folder of its own."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path

PLACES = ("/usr/lib/postgresql", "/usr/local/pgsql", "/opt/homebrew/opt/postgresql")
OPTIONS = "-c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=300"


def binaries() -> Path | None:
    """The folder of `initdb` and `pg_ctl`; None where there is none."""
    found = shutil.which("initdb")
    places = [Path(found).parent] if found else []
    for place in PLACES:
        places += sorted(Path(place).glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "initdb").exists()), None)


def why_not() -> str:
    """Why no server can be started here; empty where one can."""
    if find_spec("psycopg") is None:
        return "psycopg is not installed"
    if binaries() is None:
        return "PostgreSQL is not installed"
    if os.getuid() == 0 and not (shutil.which("runuser") and _as_postgres(["true"]).returncode == 0):
        return "PostgreSQL refuses root, and there is no user postgres"
    return ""


def _as_postgres(command: list[str]) -> subprocess.CompletedProcess:
    before = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    # Not through pipes: the server inherits them, and would hold them open.
    return subprocess.run(
        [*before, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", check=False
    )


class Server:
    """A server that is started and stopped at will.

    Args:
        folder, port: of an earlier one, which is gone on with.
    """

    def __init__(self, folder: str | None = None, port: int = 0) -> None:
        if folder is not None and Path(folder, "data").exists():
            self.folder, self.port = Path(folder), port
            with contextlib.suppress(RuntimeError):
                self.stop()
            self.start()
            return
        self.folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        self.folder.chmod(0o700)
        if os.getuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        options = ["-U", "tester", "--auth=trust", "-E", "UTF8", "--locale=C", "-N"]
        self._run("initdb", "-D", f"{self.folder}/data", *options)
        self.start()

    def _run(self, name: str, *arguments: str) -> None:
        found = binaries()
        assert found is not None
        if _as_postgres([str(found / name), *arguments]).returncode:
            raise RuntimeError(f"{name} {' '.join(arguments)} failed")

    def url(self, database: str = "postgres") -> str:
        return f"postgresql+psycopg://tester@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        """A new database; gives its URL."""
        import psycopg

        # Not by `createdb`, which is not everywhere where `initdb` is.
        where = f"host=127.0.0.1 port={self.port} user=tester dbname=postgres"
        with psycopg.connect(where, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {database}")
        return self.url(database)

    def start(self) -> None:
        where = f"-p {self.port} -k {self.folder} {OPTIONS}"
        self._run(
            "pg_ctl", "-D", f"{self.folder}/data", "-w", "-o", where, "-l", f"{self.folder}/log", "start"
        )

    def stop(self) -> None:
        """As a power cut would."""
        self._run("pg_ctl", "-D", f"{self.folder}/data", "-w", "-m", "immediate", "stop")

    def remove(self) -> None:
        with contextlib.suppress(RuntimeError):
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
