"""A trial on another machine: how it travels there, shows that it lives, and comes back.

All machines see the study's folder. Each attempt at a trial has a folder of its own in it, of mode 700, where
engines put what they pickle. A job's thread counts up in the file `beat`, and reads there whether it shall
stop.
"""

import contextlib
import logging
import os
import pickle
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carbs_scaling import errors
from carbs_scaling.errors import CarbsScalingError
from carbs_scaling.executors.executor import Job, or_machine_failure
from carbs_scaling.trial import TrialOutcome

logger = logging.getLogger(__name__)

BEAT, STOP = "beat", "stop"  # files of an attempt
BEAT_SECONDS = 1.0
STOPPED = {"stopped": True}  # what comes back of a job that was interrupted


@dataclass(frozen=True)
class Parcel:
    """One attempt at a trial, as an engine sends it.

    Args:
        job: pickled, and unpickled where `search_path` holds.
        folder: of this attempt.
        working_directory: of the coordinator, which relative paths are meant from.
        search_path: where the coordinator finds modules.
        environment: variables that the job has beside those of its machine.
    """

    job: bytes
    folder: str
    working_directory: str
    search_path: tuple[str, ...]
    environment: Mapping[str, str]

    @staticmethod
    def of(job: bytes, folder: Path, environment: Mapping[str, str]) -> "Parcel":
        """What this process sends."""
        return Parcel(job, str(folder.resolve()), str(Path.cwd()), tuple(sys.path), environment)

    def run(self, machine: str = "") -> dict[str, Any]:
        """Runs the job. Gives its outcome, `STOPPED`, or what stops the search, as plain JSON values.

        Args:
            machine: the engine's word for this machine, one without spaces; the host's name where empty.
        """
        if not Path(self.folder).is_dir():
            return _described(
                CarbsScalingError(
                    f"{socket.gethostname()} does not see {self.folder}: put study.directory on a file "
                    "system that all machines of the executor share"
                )
            )
        os.environ.update(self.environment)
        sys.path.extend(path for path in self.search_path if path not in sys.path)
        try:
            os.chdir(self.working_directory)
            with _interruptible(), beating(Path(self.folder), machine or socket.gethostname()):
                job: Job = pickle.loads(self.job)
                return {"outcome": or_machine_failure(job).to_dict()}
        except KeyboardInterrupt:
            return STOPPED
        except Exception as error:  # carried to the coordinator, which raises it
            logger.exception("a trial stops the search")
            return _described(error)


def received(result: Mapping[str, Any]) -> TrialOutcome | Exception:
    """What a job has sent back: its outcome, or what stops the search."""
    if "outcome" in result:
        return TrialOutcome.from_dict(result["outcome"])
    said = result["error"]
    if said["errno"] is not None:
        return OSError(said["errno"], said["message"], said["filename"])
    kind = getattr(errors, said["type"], None)
    if isinstance(kind, type) and issubclass(kind, CarbsScalingError):
        return kind(said["message"])
    return CarbsScalingError(f"a trial ended with {said['type']}: {said['message']}")


def _described(error: Exception) -> dict[str, Any]:
    number = error.errno if isinstance(error, OSError) else None
    message = str(error) if number is None else os.strerror(number)
    filename = str(error.filename) if isinstance(error, OSError) and error.filename else None
    return {
        "error": {
            "type": type(error).__name__,
            "message": " ".join(message.split())[:500],
            "errno": number,
            "filename": filename,
        }
    }


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM interrupt the job, which may keep what it has done."""
    taken = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, signal.default_int_handler) for number in taken}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextlib.contextmanager
def beating(folder: Path, machine: str) -> Iterator[None]:
    """Count in `folder` while the body runs, and interrupt this process once where it finds `STOP` there.

    Where the folder has gone, the coordinator has given this attempt up: the process ends.
    """
    ended = threading.Event()

    def sign(count: int) -> None:
        try:
            (folder / BEAT).write_text(f"{machine} {os.getpid()} {count}")
        except FileNotFoundError:
            os._exit(1)
        except OSError as error:  # a full disk: the next beat may be written
            logger.warning("no sign of life could be written: %s", error)

    def beat() -> None:
        asked, count = False, 0
        while not ended.is_set():
            count += 1
            sign(count)
            if not asked and (folder / STOP).exists():
                asked = True
                os.kill(os.getpid(), signal.SIGTERM)
            ended.wait(BEAT_SECONDS)

    sign(0)  # before the job, which may hang at once
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
