"""Whether a search is at work on a study, and the request to end it, by files in the study's folder."""

from pathlib import Path

import filelock

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
