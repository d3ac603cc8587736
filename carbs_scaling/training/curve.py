"""The loss curve of a trial: a file of JSON lines that grows while it trains."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

# Points of a curve: enough to see its shape, few enough to keep thousands of trials.
CURVE_POINTS = 200


def point_interval(steps: int) -> int:
    """Steps between two points of a curve: 1 up to 200 steps; a longer run's curve has 100 to 200 points."""
    return -(-steps // CURVE_POINTS)


class LossCurve:
    """Appends points to the file `path`, or nowhere where it is None.

    Each line is written out before training goes on.

    Args:
        path: of the file.
        kept_step: points up to this step are kept of a file that exists, others dropped: 0 for a new curve.
        inherited: points that a new curve begins with.
    """

    def __init__(
        self, path: str | None, kept_step: int = 0, inherited: Sequence[dict[str, float]] = ()
    ) -> None:
        self._handle = None
        if path is not None:
            kept = [json.dumps(point) + "\n" for point in inherited] or _lines_to(Path(path), kept_step)
            # Kept open for the whole run, and closed by `__exit__`.
            self._handle = Path(path).open("w", encoding="utf-8")  # noqa: SIM115
            self._handle.writelines(kept)
            self._handle.flush()

    def __enter__(self) -> "LossCurve":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._handle is not None:
            self._handle.close()

    def add(self, **point: float) -> None:
        """Write one line.

        Raises:
            OSError: the disk is full.
        """
        if self._handle is not None:
            self._handle.write(json.dumps(point) + "\n")
            self._handle.flush()


def points_to(path: str | None, step: int) -> list[dict[str, float]]:
    """The points of a curve up to a step; none without a file."""
    return [] if path is None else [json.loads(line) for line in _lines_to(Path(path), step)]


def _lines_to(path: Path, step: int) -> list[str]:
    """The whole lines of a curve up to a step."""
    if step == 0 or not path.exists():
        return []
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            point = json.loads(line)
        except ValueError:  # the fragment that a killed writer leaves
            break
        if point["step"] > step:
            break
        kept.append(line)
    return kept
