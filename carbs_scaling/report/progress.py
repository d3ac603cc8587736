"""What the live display knows of a search: spent, running, best so far, and the time that is left."""

import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from carbs_scaling.ledger.record import TrialRecord, ended
from carbs_scaling.trial import Status

SAMPLE_SECONDS = 1.0  # between two measurements of what has been done
MIN_SECONDS = 5.0  # below this a rate says more about start-up than about training
MAX_SAMPLES = 3600  # an hour of them: a longer search is judged by its last half hour
CURVE_POINTS = 14  # kept of a running trial's loss curve, one for each equal part of its steps


@dataclass
class RunningTrial:
    """A trial that is being trained, and how far it is.

    `curve` has the last train loss that was seen in each of `CURVE_POINTS` equal parts of the run.
    """

    record: TrialRecord
    worker: str
    fraction: float = 0.0
    train_loss: float | None = None
    curve: dict[int, float] = field(default_factory=dict)


class SearchProgress:
    """The state behind a display, free of any drawing.

    Args:
        budget_flops: what the study may spend.
        clock: seconds that only grow; `time.monotonic` outside tests.
    """

    def __init__(self, budget_flops: float, clock: Callable[[], float]) -> None:
        self.budget_flops = budget_flops
        self.clock = clock
        self.started = clock()
        self.spent_flops = 0.0
        self.counts: Counter[Status] = Counter()
        self.imported = 0  # finished runs from elsewhere
        self.running: dict[int, RunningTrial] = {}
        self.completed: list[TrialRecord] = []
        self._samples: deque[tuple[float, float]] = deque(maxlen=MAX_SAMPLES)

    def resume(self, records: Sequence[TrialRecord]) -> None:
        """Count what the ledger holds already; its running trials were cut short and count for nothing."""
        for record in records:
            if not record.running:
                self._count(record)
        self._samples.clear()  # what was done before says nothing about the speed of now

    def begin(self, record: TrialRecord, worker: str) -> None:
        """A trial has been handed to a worker."""
        self.running[record.number] = RunningTrial(record, worker)

    def advance(self, number: int, fraction: float, train_loss: float | None) -> None:
        """A running trial has done this share of its steps."""
        trial = self.running.get(number)
        if trial is not None:  # its last progress may be read after its end
            trial.fraction = min(max(fraction, 0.0), 1.0)
            if train_loss is not None:
                trial.train_loss = train_loss
                if math.isfinite(train_loss):
                    trial.curve[min(int(trial.fraction * CURVE_POINTS), CURVE_POINTS - 1)] = train_loss

    def end(self, record: TrialRecord) -> bool:
        """A trial has ended; whether it is on the front as known now."""
        self.running.pop(record.number, None)
        on_front = record.completed and self.is_on_front(record)
        self._count(record)
        return on_front

    def _count(self, record: TrialRecord) -> None:
        if record.imported:
            self.imported += 1
        else:
            self.spent_flops += record.price_flops
            self.counts[ended(record).status] += 1
        if record.completed:
            self.completed.append(record)

    def is_on_front(self, record: TrialRecord) -> bool:
        """Whether no completed run is as cheap and as good."""
        return not any(
            other.flops <= record.flops and other.loss <= record.loss
            for other in self.completed
            if other.number != record.number
        )

    @property
    def committed_flops(self) -> float:
        """What the running trials are expected to cost in all."""
        return sum(trial.record.price_flops for trial in self.running.values())

    @property
    def done_flops(self) -> float:
        """What has been computed: ended trials, and running ones as far as they are."""
        return self.spent_flops + sum(
            max(0.0, t.record.flops * t.fraction - t.record.inherited_flops) for t in self.running.values()
        )

    @property
    def elapsed_seconds(self) -> float:
        """Since this display began; earlier sittings of a resumed study are not counted."""
        return self.clock() - self.started

    def measure(self) -> None:
        """Take note of what has been done by now; to be called often."""
        now = self.clock()
        if not self._samples or now - self._samples[-1][0] >= SAMPLE_SECONDS:
            self._samples.append((now, self.done_flops))

    @property
    def flops_per_second(self) -> float | None:
        """Measured over the later half of this sitting: larger models come later and run faster."""
        if not self._samples or self.clock() - self._samples[0][0] < MIN_SECONDS:
            return None
        now = self.clock()
        middle = (self._samples[0][0] + now) / 2
        then, done = next(sample for sample in reversed(self._samples) if sample[0] <= middle)
        gained = self.done_flops - done
        return gained / (now - then) if gained > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """Until the budget is spent, at the measured speed; None before there is one."""
        speed = self.flops_per_second
        return max(0.0, self.budget_flops - self.done_flops) / speed if speed else None

    def best_by_compute(self, bins_per_decade: int) -> list[tuple[float, float, TrialRecord]]:
        """The best run of each fraction of a decade of FLOPs that has one: (lower, upper, run)."""
        best: dict[int, TrialRecord] = {}
        for record in self.completed:
            index = math.floor(math.log10(record.flops) * bins_per_decade)
            if index not in best or record.loss < best[index].loss:
                best[index] = record
        return [
            (10 ** (index / bins_per_decade), 10 ** ((index + 1) / bins_per_decade), best[index])
            for index in sorted(best)
        ]
