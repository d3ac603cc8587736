"""When a run is lost: its loss is not a number, or has settled above where it started."""

import math
from collections import deque

# A short spike above the untrained loss often heals; this share of the run, or this many steps, does not.
SETTLED_FRACTION = 0.1
SETTLED_STEPS = 20
# Nats a token above the untrained loss, on average over that time.
SETTLED_NATS = 1.0


class DivergenceCheck:
    """Sees the training loss of each step in turn.

    Args:
        steps: of the whole run.
    """

    def __init__(self, steps: int) -> None:
        self._recent: deque[float] = deque(maxlen=max(SETTLED_STEPS, round(SETTLED_FRACTION * steps)))
        self._untrained: float | None = None

    def reason(self, losses: list[float]) -> str:
        """Why the run is lost after these further losses, in nats a token; empty if it is not."""
        for loss in losses:
            if not math.isfinite(loss):
                return f"training loss became {loss}"
            if self._untrained is None:
                self._untrained = loss
            self._recent.append(loss)
        recent = self._recent
        if len(recent) < recent.maxlen or min(recent) <= self._untrained:
            return ""
        mean = sum(recent) / len(recent)
        if mean <= self._untrained + SETTLED_NATS:
            return ""
        return f"training loss settled at {mean:.2f}, above {self._untrained:.2f} untrained"
