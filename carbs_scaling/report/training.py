"""The display of one training run: lines with the loss, tokens a second, utilisation and the time left."""

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console

from carbs_scaling.compute.throughput import device_named
from carbs_scaling.numbers import clock_text, compact, rough_duration, scientific
from carbs_scaling.trial import Completed

if TYPE_CHECKING:
    from carbs_scaling.training.recipe_file import Prediction

# Seconds between two lines: few enough to read, often enough to see that it runs.
LINE_SECONDS = 10.0


class TrainingDisplay:
    """Shows a training run. A context manager, used from one thread.

    Args:
        name: of the run.
        steps: of the whole run.
        batch_tokens: tokens a step.
        flops: of the whole run.
        predicted: by a law, the final loss and the curve; None without one.
        console: where to.
        device: PyTorch's name of the device, whose peak may be known.
        devices: how many of them train together.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        name: str,
        steps: int,
        batch_tokens: int,
        flops: float,
        predicted: "Prediction | None",
        console: Console,
        device: str = "cpu",
        devices: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name, self._steps, self._batch_tokens, self._flops = name, steps, batch_tokens, flops
        self._predicted, self._console, self._clock = predicted, console, clock
        known = device_named(device)
        self._peak = None if known is None else devices * known.peak_flops
        self._shown_at = -LINE_SECONDS
        # Steps and seconds when this process read its first loss: a run that goes on is timed from there.
        self._first: tuple[int, float] | None = None

    def __enter__(self) -> "TrainingDisplay":
        tokens = self._steps * self._batch_tokens
        self._print(
            f"{self._name}: {self._steps:,} steps of {self._batch_tokens:,} tokens, {compact(tokens)} in all,"
            f" {scientific(self._flops, 3)} FLOPs"
        )
        if self._predicted is not None:
            loss, (low, high) = self._predicted.loss, self._predicted.interval
            self._print(f"the law predicts a final loss of {loss:.3f} ({low:.3f} to {high:.3f})")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    def step_done(self, step: int, seconds: float, loss: float) -> None:
        """Show how far the run is, at most once in `LINE_SECONDS`.

        Args:
            step: steps done.
            seconds: since the run began.
            loss: recent training loss, in nats a token.
        """
        if self._first is None:
            self._first = step, seconds
        if self._clock() - self._shown_at < LINE_SECONDS:
            return
        self._shown_at = self._clock()
        steps, spent = step - self._first[0], seconds - self._first[1]
        line = f"{step / self._steps:6.1%}  step {step:,}  {clock_text(seconds)}  training loss {loss:.3f}"
        curve = None if self._predicted is None else self._predicted.curve
        if curve is not None and (expected := curve.at(step / self._steps)) is not None:
            line += " (predicted {:.3f}, {:.3f} to {:.3f})".format(*expected)
        if steps > 0 and spent > 0:
            line += (
                f"  {self._speed(steps / spent)}  {rough_duration(spent / steps * (self._steps - step))} left"
            )
        self._print(line)

    def finished(self, outcome: Completed, folder: Path) -> None:
        """Show the loss that was reached, beside the prediction, and where the model is."""
        speed = f", {self._speed(self._steps / outcome.seconds)}" if outcome.seconds > 0 else ""
        self._print(f"held-out loss {outcome.law_loss:.4f} after {clock_text(outcome.seconds)}{speed}")
        if self._predicted is not None:
            loss, (low, high) = self._predicted.loss, self._predicted.interval
            where = "inside" if low <= outcome.law_loss <= high else "outside"
            self._print(
                f"predicted {loss:.4f}: off by {outcome.law_loss - loss:+.4f}, {where} its interval "
                f"{low:.4f} to {high:.4f}"
            )
        self._print(f"wrote {folder}")

    def _speed(self, steps_per_second: float) -> str:
        tokens = compact(steps_per_second * self._batch_tokens)
        flops = steps_per_second / self._steps * self._flops
        share = "" if self._peak is None else f" ({flops / self._peak:.0%} of the bf16 peak)"
        return f"{tokens} tokens/s, {scientific(flops, 2)} FLOP/s{share}"

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)
