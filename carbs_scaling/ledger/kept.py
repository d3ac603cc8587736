"""Outcomes of trials on their way into the ledger: on disk from the moment a trial ends until it is recorded.

A database may be away when a trial ends, and a coordinator may die before it is back. The next one records
what it finds here.
"""

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from carbs_scaling.errors import CarbsScalingError
from carbs_scaling.files import write_atomically
from carbs_scaling.ledger.record import TrialRecord
from carbs_scaling.trial import ParentLost, TrialOutcome

FOLDER = "ended"
# Given back to the file system when the disk is full, so that what a trial cost hours for can be written.
RESERVE, RESERVE_BYTES = ".reserve", 1 << 18


class KeptOutcomes:
    """The outcomes of one study that are not recorded yet, in the order in which they came.

    Args:
        study_folder: of the study; there is one.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, study_folder: Path) -> None:
        self.waiting: list[tuple[TrialRecord, TrialOutcome]] = []
        self._folder = study_folder / FOLDER
        self._folder.mkdir(exist_ok=True)
        self._reserve = self._folder / RESERVE
        self._hold_reserve()

    def _hold_reserve(self) -> None:
        with suppress(OSError):  # a full disk: the search says so when it matters
            if not self._reserve.exists():
                self._reserve.write_bytes(b"\1" * RESERVE_BYTES)

    def find(self, left_open: list[TrialRecord]) -> None:
        """Let those wait that an earlier search left on disk; what is of no open trial is removed."""
        known = {record.number: record for record in left_open}
        for file in sorted(self._folder.glob("*.json")):
            number, outcome = _read(file, known)
            if outcome is None:
                file.unlink(missing_ok=True)
            else:
                self.waiting.append((known[number], outcome))

    def add(self, record: TrialRecord, outcome: TrialOutcome) -> str:
        """Let an outcome wait, on disk as well; why it is not on disk, or nothing."""
        self.waiting.append((record, outcome))
        if isinstance(outcome, ParentLost):
            return ""  # nothing to keep: the trial begins anew
        content = {
            "number": record.number,
            "seed": record.seed,
            "point": record.point,
            "outcome": outcome.to_dict(),
        }
        text = json.dumps(content).encode()
        for is_last in (False, True):
            try:
                write_atomically(self._file(record), text)
                break
            except CarbsScalingError as error:
                if is_last:
                    return str(error)
                self._reserve.unlink(missing_ok=True)
        return ""

    def done(self) -> None:
        """Forget the first that waits: it is recorded."""
        record, _ = self.waiting.pop(0)
        self._file(record).unlink(missing_ok=True)
        self._hold_reserve()

    def close(self) -> None:
        """Remove the folder, where nothing waits in it."""
        if not self.waiting:
            self._reserve.unlink(missing_ok=True)
            with suppress(OSError):
                self._folder.rmdir()

    def _file(self, record: TrialRecord) -> Path:
        return self._folder / f"{record.number:05d}.json"


def _read(file: Path, known: dict[int, TrialRecord]) -> tuple[int, TrialOutcome | None]:
    """Number and outcome in a file; no outcome where it is damaged, or of no open trial."""
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        record = known[content["number"]]
        same = content["seed"] == record.seed and _same_point(content["point"], record.point)
        return record.number, TrialOutcome.from_dict(content["outcome"]) if same else None
    except (ArithmeticError, AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError):
        return -1, None


def _same_point(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether two points are one: a database may round the last digit of a float."""

    def same(a: Any, b: Any) -> bool:
        numbers = isinstance(a, int | float) and isinstance(b, int | float)
        return math.isclose(a, b, rel_tol=1e-9) if numbers else bool(a == b)

    return first.keys() == second.keys() and all(same(first[name], second[name]) for name in first)
