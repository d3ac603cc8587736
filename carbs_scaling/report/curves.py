"""Loss curves of trials: JSON lines, appended to while a trial trains and read while it does."""

import json
from pathlib import Path

# Several lines of a curve, each some 120 bytes, so that a partial one at the end leaves a whole one before.
TAIL_BYTES = 4096


def _point(line: bytes) -> dict | None:
    """One line as a point; None for the fragment that a killed or a still busy writer leaves."""
    try:
        point = json.loads(line)
    except ValueError:
        return None
    return point if isinstance(point, dict) else None


def read_curve(path: str | Path) -> list[dict]:
    """All whole points of a curve file, in order; none if there is no such file yet."""
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        return []
    points = [_point(line) for line in content.splitlines()]
    return [point for point in points if point is not None]


def last_point(path: str | Path) -> dict | None:
    """The last whole point of a curve file, read from its tail alone; None if there is none yet."""
    try:
        with Path(path).open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            tail = file.read()
    except FileNotFoundError:
        return None
    for line in reversed(tail.splitlines()):
        point = _point(line)
        if point is not None:
            return point
    return None
