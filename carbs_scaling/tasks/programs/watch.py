"""What is seen of one run: its metric, its loss curve, and what its output says of a failure."""

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

from carbs_scaling.tasks.programs.config import FailureConfig, ProgramConfig
from carbs_scaling.tasks.programs.readings import Reading, build_source, compiled, matched

# A curve of unknown length: every point at first, every second after so many, then every fourth.
POINTS_BEFORE_THINNING = 400
CURVE_SHARE = 1 / 200  # of a run of known length, between two points of its curve
MESSAGE_CHARACTERS = 200


class Failures:
    """The patterns of `task.failure`.

    Raises:
        ConfigError: one that is no regular expression.
    """

    def __init__(self, config: FailureConfig) -> None:
        self.diverged = [compiled("task.failure.diverged", pattern) for pattern in config.diverged]
        self.out_of_memory = [compiled("task.failure.out_of_memory", p) for p in config.out_of_memory]


class Curve:
    """Writes the curve of a run as ours are, one JSON object a line.

    Args:
        path: of the file; None for none.
        steps: of the whole run; None where that is not known.
        tokens: of the whole run, for a program that reports tokens and no steps; None where not known.
    """

    def __init__(self, path: str | None, steps: float | None, tokens: float | None = None) -> None:
        self._file = None if path is None else Path(path).open("w", encoding="utf-8")  # noqa: SIM115
        self._steps, self._tokens, self._begun = steps, tokens, time.monotonic()
        self._count = self._written = 0
        self._next_at = 0.0
        self.progress: float | None = None

    def add(self, reading: Reading, held_out: bool) -> None:
        """One reading; `held_out` says that its value is the metric's, not a training loss."""
        step = self._step(reading)
        if step is not None and self._steps:
            self.progress = min(max(step / self._steps, self.progress or 0.0, 0.0), 1.0)
        numbers = {name: value for name, value in reading.beside.items() if math.isfinite(value)}
        if held_out:
            numbers.setdefault("validation_loss", reading.value)
        if not held_out or "train_loss" not in numbers:
            numbers.setdefault("train_loss", reading.value)
        self._count += 1
        if self._file is None or not self._wanted() or not math.isfinite(reading.value):
            return
        point: dict[str, float] = {"seconds": round(time.monotonic() - self._begun, 3)}
        if self.progress is not None:
            point["progress"] = self.progress
        if step is not None and math.isfinite(step):
            point["step"] = int(step)
        self._file.write(json.dumps({**point, **numbers}) + "\n")
        self._file.flush()
        self._written += 1

    def _step(self, reading: Reading) -> float | None:
        """The step as it was reported, else by the share of the run's tokens."""
        done = reading.beside.get("tokens")
        if reading.step is not None or done is None or not self._tokens or not self._steps:
            return reading.step
        return float(round(self._steps * done / self._tokens)) if math.isfinite(done) else None

    def _wanted(self) -> bool:
        if self.progress is None:
            return self._count % (1 << (self._written // POINTS_BEFORE_THINNING)) == 0
        if self.progress < self._next_at and self.progress < 1:
            return False
        self._next_at = self.progress + CURVE_SHARE
        return self._written < 2 * POINTS_BEFORE_THINNING

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()


class Watch:
    """Reads one run while it goes on.

    Args:
        config: says where.
        folder: of the trial.
        curve: gets the points.
    """

    def __init__(self, config: ProgramConfig, folder: Path, curve: Curve) -> None:
        self._metric = build_source("task.metric", config.metric)
        has_curve = config.curve.file is not None or config.curve.pattern is not None
        self._curve_source = build_source("task.curve", config.curve) if has_curve else None
        self._failures = Failures(config.failure)
        self._best = max if config.metric.goal == "maximize" else min
        self._take_best = config.metric.take == "best"
        self._folder, self._curve = folder, curve
        self.reading: Reading | None = None
        self.lacked_memory = False
        self.last_line = ""

    @property
    def shows_progress(self) -> bool:
        """Whether what is read can say how far a run is."""
        return any(source is not None and source.has_steps for source in (self._metric, self._curve_source))

    @property
    def unread(self) -> str:
        """What stood in the place of the metric and is no number."""
        return plain(self._metric.unread)

    def line(self, text: str) -> str:
        """Takes a printed line; says why the run must end now, or nothing."""
        for pattern in self._failures.diverged:
            if matched("task.failure.diverged", pattern, text):
                return f"its output says so: {plain(text)}"
        for pattern in self._failures.out_of_memory:
            if matched("task.failure.out_of_memory", pattern, text):
                self.lacked_memory = True
        if text.strip():
            self.last_line = text
        curve = [] if self._curve_source is None else self._curve_source.line(text)
        return self._take(self._metric.line(text), curve)

    def turn(self) -> str:
        """Looks at the files; says the same."""
        curve = [] if self._curve_source is None else self._curve_source.poll(self._folder)
        return self._take(self._metric.poll(self._folder), curve)

    def end(self) -> str:
        """Looks for the last time."""
        curve = [] if self._curve_source is None else self._curve_source.last(self._folder)
        return self._take(self._metric.last(self._folder), curve)

    def _take(self, metric: Sequence[Reading], curve: Sequence[Reading]) -> str:
        for reading in curve:
            self._curve.add(reading, held_out=False)
        for reading in metric:
            if self.reading is None or not self._take_best:
                self.reading = reading
            else:
                self.reading = self._best(self.reading, reading, key=lambda read: read.value)
            if self._curve_source is None or reading.step is not None or "tokens" in reading.beside:
                self._curve.add(reading, held_out=True)
        broken = next((r for r in (*curve, *metric) if math.isnan(r.value)), None)
        return "" if broken is None else "its loss became NaN"


def plain(text: str) -> str:
    """A text on one line of printable characters, for messages and terminals."""
    shown = "".join(c if c.isprintable() else " " for c in text)
    shown = " ".join(shown.split())
    return shown if len(shown) <= MESSAGE_CHARACTERS else f"{shown[: MESSAGE_CHARACTERS - 3]}..."
