"""Where the wall time of a search went."""

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Timings:
    """Where the wall time of a search went, in seconds, for `benchmarks/search_overhead.py`."""

    wall: float
    proposing: float
    recording: float
    display: float


class Stopwatch:
    """Adds up the seconds spent inside its `with` blocks."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._begun = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._begun
