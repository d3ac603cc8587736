"""Files that are either the old ones or the new ones, never half of one."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path

from carbs_scaling.errors import CarbsScalingError


def write_atomically(path: str | Path, content: bytes) -> Path:
    """Write `content` to `path` by way of a temporary file beside it; missing folders are made.

    Raises:
        CarbsScalingError: the folder is read-only, the disk is full, or any other refusal of the system.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            try:
                file.write(content)
                file.close()
                temporary.chmod(0o666 & ~_umask())  # temporary files are private; a result is not
                temporary.replace(path)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise CarbsScalingError(f"cannot write {path}: {error.strerror or error}") from error
    return path


@contextmanager
def undone_if_refused(folder: Path, kept: Callable[[Exception], bool], before: Set[Path]) -> Iterator[None]:
    """Take away what the body made in `folder` where it ends in an error.

    Args:
        folder: there is one; what is new directly in it is removed.
        kept: whether the work is worth keeping at an error all the same.
        before: what is in the folder and stays there.
    """
    try:
        yield
    except (CarbsScalingError, OSError) as error:
        if not kept(error):
            for path in set(folder.iterdir()) - before:
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        raise


def _umask() -> int:
    """The process's file-creation mask, which the system only tells in exchange for a new one."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
