"""When a run has diverged: its loss is not a number, or has settled above where it started."""

import math
from collections import deque
from typing import Any

# A short spike above the untrained loss often passes. A run has settled there after this share of its steps,
# and after no fewer than this many.
SETTLED_FRACTION = 0.1
SETTLED_STEPS = 20
# Nats a token that the mean loss over those steps must lie above the untrained loss.
SETTLED_NATS = 1.0


class DivergenceCheck:
    """Reads the training loss of each step in turn.

    Args:
        steps: of the whole run.
    """

    def __init__(self, steps: int) -> None:
        self._window = max(SETTLED_STEPS, round(SETTLED_FRACTION * steps))
        self._recent: deque[float] = deque(maxlen=self._window)
        # The loss of the first step, infinite before it.
        self._untrained = math.inf

    def reason(self, losses: list[float]) -> str:
        """Why the run has diverged after these further losses, in nats a token; empty if it has not."""
        for loss in losses:
            if not math.isfinite(loss):
                return f"training loss became {loss}"
            if self._untrained == math.inf:
                self._untrained = loss
            self._recent.append(loss)
        recent = self._recent
        if len(recent) < self._window or min(recent) <= self._untrained:
            return ""
        mean = sum(recent) / len(recent)
        if mean <= self._untrained + SETTLED_NATS:
            return ""
        return f"training loss settled at {mean:.2f}, above {self._untrained:.2f} untrained"

    @property
    def most_loss(self) -> float:
        """A held-out loss above it is that of a run that has diverged; infinite before the first step."""
        return self._untrained + SETTLED_NATS

    def state(self) -> dict[str, Any]:
        """What it has read, as plain JSON."""
        return {
            "untrained": None if self._untrained == math.inf else self._untrained,
            "recent": list(self._recent),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._untrained = math.inf if state["untrained"] is None else state["untrained"]
        self._recent.extend(state["recent"])
