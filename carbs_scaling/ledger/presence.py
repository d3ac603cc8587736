"""Which search is at work on a study, and the request to end it, by files in the study's folder."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from carbs_scaling.config import StudyConfig
from carbs_scaling.errors import StudyError

LOCK, STOP = "lock", "stop"
AFTER_TRIALS, NOW = "after the running trials", "now"


def is_searched(folder: Path) -> bool:
    """Whether a process of this or another machine holds the study's lock."""
    if not (folder / LOCK).exists():
        return False
    lock = filelock.FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        return True
    lock.release()
    return False


def ask_to_stop(folder: Path, now: bool) -> None:
    """Leave the request that the search of this folder reads."""
    (folder / STOP).write_text(NOW if now else AFTER_TRIALS)


def stop_request(folder: Path) -> str | None:
    """What was asked for: `AFTER_TRIALS`, `NOW`, or None for nothing."""
    try:
        return NOW if (folder / STOP).read_text() == NOW else AFTER_TRIALS
    except FileNotFoundError:
        return None


def forget_stop(folder: Path) -> None:
    """Take the request away, when a search begins or has followed it."""
    (folder / STOP).unlink(missing_ok=True)


@contextmanager
def sole_coordinator(config: StudyConfig) -> Iterator[None]:
    """Holds the study's folder, so that no second search spends the same budget.

    Raises:
        StudyError: another process holds it.
        OSError: the folder cannot be made or written.
    """
    missing = [path for path in (config.folder, *config.folder.parents) if not path.exists()]
    config.folder.mkdir(parents=True, exist_ok=True)
    before = set(config.folder.iterdir())
    lock = filelock.FileLock(config.folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise StudyError(
            f"study {config.name!r} is being run by another process: wait for it, or take another study.name"
        ) from None
    try:
        yield
    finally:
        if set(config.folder.iterdir()) - before == {config.folder / LOCK}:  # nothing was begun
            (config.folder / LOCK).unlink()
            lock.release()
            with suppress(OSError):  # another study has come into the folder above
                for folder in missing:
                    folder.rmdir()
        else:
            lock.release()
