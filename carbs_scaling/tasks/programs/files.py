"""Opens files that a program left in its trial's folder, and no others."""

import os
import stat
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from carbs_scaling.errors import ConfigError

MOST_ENTRIES = 10_000  # of a folder tree that is looked through


def require_inside(key: str, name: str) -> None:
    """Refuses a path that could lead out of a trial's folder.

    Raises:
        ConfigError: it is absolute, climbs, or is empty.
    """
    path = PurePosixPath(name)
    if not name or "\0" in name or path.is_absolute() or ".." in path.parts:
        raise ConfigError(f"{key}={name!r} must be a path inside the trial's folder, without ..")


def open_inside(folder: Path, name: str) -> BinaryIO | None:
    """Opens the regular file `name` below `folder`; None where there is none.

    A symbolic link anywhere below `folder`, a pipe or a device counts as none: what a program leaves in its
    folder must not make this process read something else, nor wait.
    """
    parts = PurePosixPath(name).parts
    if not parts:
        return None
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        place = os.open(folder, flags | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        for part in parts[:-1]:
            below = os.open(part, flags | os.O_DIRECTORY, dir_fd=place)
            os.close(place)
            place = below
        found = os.open(parts[-1], flags | os.O_NONBLOCK, dir_fd=place)
    except OSError:
        return None
    finally:
        os.close(place)
    if not stat.S_ISREG(os.fstat(found).st_mode):
        os.close(found)
        return None
    return os.fdopen(found, "rb")


def files_below(folder: Path, name: str, mark: str) -> list[str]:
    """Names, relative to `folder`, of files below its folder `name` with `mark` in their name, sorted.

    Links are not followed, and no more than `MOST_ENTRIES` entries are looked at.
    """
    found, seen = [], 0
    top = folder / name
    if any(part.is_symlink() for part in (top, *top.parents[: len(PurePosixPath(name).parts)])):
        return []
    for place, folders, files in os.walk(top, followlinks=False):
        seen += len(folders) + len(files)
        if seen > MOST_ENTRIES:
            break
        found += [str((Path(place) / file).relative_to(folder)) for file in files if mark in file]
    return sorted(found)
