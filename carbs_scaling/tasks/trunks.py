"""The states before the decay that trials leave for longer runs of their recipe, and which of them are kept.

Each lies in a folder of its trial's number, in the format of `training.checkpoint`. Its JSON, written last,
says that it is whole; a run that begins with it checks its hash.
"""

import json
import logging
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from carbs_scaling.space.projection import NOT_RUN_YET
from carbs_scaling.task import Point
from carbs_scaling.tasks.pretraining_space import PretrainingSpace
from carbs_scaling.training.config import ScheduleConfig
from carbs_scaling.training.schedules import trunk_steps

logger = logging.getLogger(__name__)

FOLDER = "trunks"  # in that of a study


@dataclass(frozen=True)
class Trunk:
    """The state that a trial left.

    Args:
        step: optimizer steps done.
        bytes: on the disk.
    """

    step: int
    bytes: int


@dataclass
class Trunks:
    """What is there, as of the last look; the trials that may use it are told with each question.

    Args:
        space: of the runs.
        schedule: that they share.
        there: trunks by trial number.
    """

    space: PretrainingSpace
    schedule: ScheduleConfig
    there: dict[int, Trunk] = field(default_factory=dict)
    _asked: Any = (
        None  # the mapping that the index is of: a proposal asks some thousand times with the same one
    )
    _index: dict[tuple[str, ...], list[tuple[int, int]]] = field(default_factory=dict)

    def __reduce__(self) -> tuple[Any, ...]:
        """Without what is there: a worker is told its parent."""
        return Trunks, (self.space, self.schedule)

    def longest(self, point: Point, completed: Mapping[int, Point]) -> tuple[int, int] | None:
        """(trial, step) of the longest trunk that a run at the point can begin with, or None."""
        if not self.there and NOT_RUN_YET not in completed:
            return None
        if self._asked is not completed:
            self._asked, self._index = completed, {}
            for number, trunk in self.there.items():
                if number in completed:
                    key = self.space.recipe_key(completed[number])
                    self._index.setdefault(key, []).append((trunk.step, number))
            if NOT_RUN_YET in completed:
                run = completed[NOT_RUN_YET]
                step = trunk_steps(self.schedule, self.space.steps(run))
                self._index.setdefault(self.space.recipe_key(run), []).append((step, NOT_RUN_YET))
        most = trunk_steps(self.schedule, self.space.steps(point))
        fitting = [found for found in self._index.get(self.space.recipe_key(point), []) if found[0] <= most]
        # Of equals the first trial's, whichever order the folder was read in.
        step, number = max(fitting, key=lambda found: (found[0], -found[1]), default=(0, -1))
        return (number, step) if step else None

    def look(self, folder: Path, useful: Sequence[int], running: Collection[int], most_bytes: float) -> None:
        """Reads what is in `folder`, and drops what does not fit and what is of no use.

        Args:
            folder: of all trunks.
            useful: trials whose trunks are kept as far as they fit, the most useful first.
            running: trials whose trunks are kept in any case, and count.
            most_bytes: of all.
        """
        found = {int(path.name): path for path in folder.glob("[0-9]*") if path.name.isdecimal()}
        self.there, self._asked = {}, None
        total = sum(_size(found[number]) for number in found.keys() & set(running))
        for number in found.keys() - set(running) - set(useful):
            shutil.rmtree(found[number], ignore_errors=True)
        for number in useful:
            if number not in found:
                continue
            trunk = _read(found[number])
            if trunk is None or total + trunk.bytes > most_bytes:
                shutil.rmtree(found[number], ignore_errors=True)
                why = "it is not whole" if trunk is None else f"trials.disk_bytes={most_bytes:.3g}"
                logger.info("the trunk of trial %d is dropped: %s", number, why)
                continue
            total += trunk.bytes
            self.there[number] = trunk


def _read(folder: Path) -> Trunk | None:
    """The last whole state in a folder; its hash is left to who begins with it."""
    for file in sorted(folder.glob("[0-9]*.json"), reverse=True):
        try:
            meta = json.loads(file.read_bytes())
            size = file.with_suffix(".safetensors").stat().st_size
        except (OSError, ValueError):
            continue
        if isinstance(meta, dict) and meta.get("bytes") == size and isinstance(meta.get("step"), int):
            return Trunk(meta["step"], _size(folder))
    return None


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*") if file.is_file())
