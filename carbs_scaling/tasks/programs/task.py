"""Tasks whose trials are runs of somebody's own program: what a command and a function have in common."""

import math
import os
import shlex
import shutil
import signal
import tempfile
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution

from carbs_scaling.config import FRESH, TrialsConfig
from carbs_scaling.errors import ConfigError
from carbs_scaling.formula import Formula, Value
from carbs_scaling.space.projection import NOT_RUN_YET
from carbs_scaling.task import Point, Task, TrialContext
from carbs_scaling.tasks.programs.config import ProgramConfig
from carbs_scaling.tasks.programs.process import Ending, KeptOutput, run_program
from carbs_scaling.tasks.programs.readings import build_source
from carbs_scaling.tasks.programs.space import ProgramSpace
from carbs_scaling.tasks.programs.watch import Curve, Failures, Watch, plain
from carbs_scaling.trial import Completed, Diverged, OutOfMemory, ParentLost, TrialOutcome

FOLDERS = "trials"  # the folder of trials in that of a study
OUTPUT, COMMAND = "output.log", "command.txt"
# Signals by which somebody else ends a program: the machine's doing, where a crash is the point's.
FROM_OUTSIDE = {128 + number for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
# Of the section, what may change while a study lives: it says how a run is watched and kept.
MAY_CHANGE = ("name", "time_limit_seconds", "silence_limit_seconds", "output_bytes", "keep", "continues")


class ProgramTask(Task):
    """Runs a program of the user's for each trial, in a folder of the trial's own.

    Args:
        space: the section `space`.
        section: the section `task`.
        trials: whether they may go on from others.

    Raises:
        ConfigError: a section that cannot be.
    """

    def __init__(self, space: dict[str, Any], section: ProgramConfig, trials: TrialsConfig = FRESH) -> None:
        self.section = section
        self.continues = trials.continued
        self._left: set[int] = set()  # trials whose folders are there
        self._specification = space
        self.points = ProgramSpace(space, section.roles, section.shape, section.flops, section.allowed)
        self.space = self.points.distributions
        self.flops_convention = self.points.flops_convention
        self._sign = -1.0 if section.metric.goal == "maximize" else 1.0
        self.metric = section.metric.unit if self._sign > 0 else f"-{section.metric.unit}"
        self._steps = self._steps_formula()
        # Refused now, not by a worker.
        build_source("task.metric", section.metric)
        if section.curve.file is not None or section.curve.pattern is not None:
            build_source("task.curve", section.curve)
        Failures(section.failure)
        if self.continues:
            self._require_continuable()

    def _require_continuable(self) -> None:
        dimension, keep = self.section.continued.dimension, self.section.keep
        if (
            dimension is None
            or dimension not in self.space
            or isinstance(self.space[dimension], CategoricalDistribution)
        ):
            raise ConfigError(
                f"trials=continued needs task.continued.dimension={dimension} to be a searched dimension of "
                "numbers, such as tokens, in which a run may differ from the one that it goes on from"
            )
        if keep == "none":
            raise ConfigError(
                "trials=continued goes on from the folders of trials: task.keep must not be none"
            )

    def parent(self, point: Point, completed: Mapping[int, Point]) -> int | None:
        """The longest run of the same other values with less of `task.continued.dimension`."""
        name = self.section.continued.dimension
        if not self.continues or name is None:
            return None
        others = {key: value for key, value in point.items() if key != name}
        fitting = [
            (other[name], -number)
            for number, other in completed.items()
            if (number in self._left or number == NOT_RUN_YET)
            and other[name] < point[name]
            and _same(other, others)
        ]
        return -max(fitting)[1] if fitting else None

    def price(self, point: Point, completed: Mapping[int, Point]) -> float:
        """FLOPs of the run, less `task.continued.share` of those of the run that it goes on from."""
        parent, flops = self.parent(point, completed), self.flops(point)
        if parent is None:
            return flops
        return max(0.0, flops - self.section.continued.share * self.flops(completed[parent]))

    def keep_trunks(self, useful: Sequence[int], running: Collection[int], study_folder: str) -> None:
        """Looks which folders are there; `task.keep` says which are kept."""
        folder = Path(study_folder) / FOLDERS
        self._left = {number for number in useful if (folder / f"{number:05d}").is_dir()}

    def _steps_formula(self) -> Formula | None:
        """Of the steps of a run: given, or tokens / batch_tokens."""
        if self.section.steps is not None:
            return Formula(str(self.section.steps), "task.steps").require_names(self.points.known)
        known = {"tokens", "batch_tokens"} <= self.points.role_names
        return Formula("tokens / batch_tokens", "task.steps") if known else None

    @abstractmethod
    def words(self, values: dict[str, Value], absent: Collection[str]) -> list[str]:
        """The program and its arguments for a trial.

        Args:
            values: dimensions, roles, and those of the trial itself.
            absent: names that do not apply at its point.
        """

    def project(self, point: Point) -> Point:
        """The nearest allowed values."""
        return self.points.project(point)

    def flops(self, point: Point) -> float:
        """By `task.flops`, the shape, 6 params tokens, or 1."""
        return self.points.flops(point)

    def roles(self, point: Point) -> dict[str, float]:
        """Those that dimensions or formulas give."""
        return self.points.roles(point)

    def details(self, point: Point) -> dict[str, Any]:
        """Fixed values and the sizes of the shape."""
        return self.points.details(point)

    def allowed(self, point: Point) -> bool:
        """Whether `task.allowed` holds."""
        return self.points.may_run(point)

    def loss_of(self, value: float) -> float:
        """The value, or its negative where it is maximised."""
        return self._sign * value

    def identity(self) -> dict[str, Any]:
        """The space and all of the section that says what is run and read."""
        section = {k: v for k, v in asdict(self.section).items() if k not in MAY_CHANGE}
        if not self.continues:
            del section["continued"]
        section["reads"] = section.pop("metric")
        return {"space": self._specification, "program": section}

    def retire(self, numbers: Collection[int], study_folder: str) -> None:
        """Drops the folders of these trials where only those of the front are kept."""
        if self.section.keep != "front":
            return
        for folder in (Path(study_folder) / FOLDERS).glob("[0-9]*"):
            if folder.name.isdecimal() and int(folder.name) in numbers:
                _remove(folder)

    def run(self, point: Point, context: TrialContext) -> TrialOutcome:
        """Runs the program once."""
        if context.study_folder is None:
            with tempfile.TemporaryDirectory() as temporary:
                return self._run(point, context, Path(temporary), None)
        folders = Path(context.study_folder).resolve() / FOLDERS
        folder = folders / f"{context.number:05d}"
        parent = None if context.parent is None else folders / f"{context.parent:05d}"
        if parent is not None and not parent.is_dir():
            return ParentLost(message=f"there is no folder {parent}")
        if not self.section.continues:
            _remove(folder)
        folder.mkdir(parents=True, exist_ok=True)
        outcome = self._run(point, context, folder, parent)
        if self.section.keep == "none":
            _remove(folder)
        return outcome

    def _run(self, point: Point, context: TrialContext, folder: Path, parent: Path | None) -> TrialOutcome:
        values = self.points.values(point)
        device = chosen_device(context.device)
        own: dict[str, Value] = {"trial": context.number, "folder": str(folder)}
        own |= {"seed": context.seed, "device": device}
        absent = set(self.points.not_applying(point))
        if parent is None:
            absent.add("parent_folder")
        else:
            own["parent_folder"] = str(parent)
        words = self.words({**values, **own}, absent)
        (folder / COMMAND).write_text(f"{shlex.join(words)}\n", encoding="utf-8")
        steps = None
        if self._steps is not None and self._steps.names <= values.keys():
            steps = self._steps.number(values)
        tokens = values.get("tokens")
        curve = Curve(context.curve_path, steps, float(tokens) if isinstance(tokens, int | float) else None)
        watch = Watch(self.section, folder, curve)
        environment = os.environ | self.section.environment
        environment |= {f"CARBS_SCALING_{name.upper()}": str(value) for name, value in own.items()}
        try:
            with KeptOutput(folder / OUTPUT, self.section.output_bytes) as output:
                ending = run_program(
                    words,
                    folder=self.section.working_directory,
                    environment=environment,
                    output=output,
                    on_line=watch.line,
                    on_turn=watch.turn,
                    time_limit_seconds=self.section.time_limit_seconds,
                    silence_limit_seconds=self.section.silence_limit_seconds,
                )
            broken = watch.end()
        finally:
            curve.close()
        return self._outcome(ending, broken, watch, curve.progress, steps, device)

    def _outcome(
        self,
        ending: Ending,
        broken: str,
        watch: Watch,
        progress: float | None,
        steps: float | None,
        device: str,
    ) -> TrialOutcome:
        """How the trial ended.

        Raises:
            RuntimeError: the machine failed.
        """
        # The share that was done. A run that would have told its steps had done none; else nobody knows.
        begun = 0.0 if steps is not None and watch.shows_progress else 1.0
        done = begun if progress is None else progress
        common: dict[str, Any] = {"seconds": ending.seconds, "device": device}
        failed = {"progress": done, **common}
        failure, code = self.section.failure, ending.code
        said = f": {plain(watch.last_line)}" if watch.last_line.strip() else ""
        if ending.reason.startswith("it printed nothing"):
            raise RuntimeError(ending.reason)
        if ending.reason or broken:
            return Diverged(message=ending.reason or broken, **failed)
        if code is None:
            raise RuntimeError("the process that watches the program was killed")
        if code in failure.out_of_memory_codes or (code and watch.lacked_memory):
            return OutOfMemory(message=f"exit code {code}{said}", **failed)
        if code in failure.diverged_codes:
            return Diverged(message=f"exit code {code}{said}", **failed)
        if code in FROM_OUTSIDE:
            raise RuntimeError(f"the program was killed by signal {code - 128}")
        if code:
            return Diverged(message=f"exit code {code}{said}", **failed)
        reading = watch.reading
        if reading is None:
            where = self.section.metric.file or "task.metric.pattern in its output"
            unread = f": {watch.unread!r} is no number" if watch.unread else ""
            return Diverged(message=f"it ended without a metric by {where}{unread}", **failed)
        if not math.isfinite(reading.value):
            return Diverged(message=f"its metric is {reading.value}", **failed)
        beside = {name: value for name, value in reading.beside.items() if math.isfinite(value)}
        metrics = {**reading.others, **beside}
        if self._sign < 0:
            metrics[self.section.metric.unit] = reading.value
        return Completed(loss=self.loss_of(reading.value), metrics=metrics, **common)

    def provenance(self) -> dict[str, Any]:
        """How FLOPs are counted."""
        return {"flops_convention": self.flops_convention}


def _same(point: Point, others: Point) -> bool:
    """Whether a point has these values, to nine digits."""
    return all(
        math.isclose(point[name], value, rel_tol=1e-9) if isinstance(value, float) else point[name] == value
        for name, value in others.items()
    )


def chosen_device(device: str) -> str:
    """`cpu` or `cuda`, for a program that is told its device; workers hide the GPUs that are not theirs."""
    if device != "auto":
        return device
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return "cuda" if visible else "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _remove(folder: Path) -> None:
    """Removes a trial's folder, or the link that stands in its place."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)
