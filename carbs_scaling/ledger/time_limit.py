"""The time that a study may take: what has passed, and what a trial of so many FLOPs is going to take.

Wall time is counted by the coordinator and stored in the study at the end of each trial, so that it goes on
where it stopped. Time between two runs of a study is not in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from carbs_scaling.ledger.record import TrialRecord

# Seconds grow with FLOPs to a power of at most about one; small models use a device worse, so below one.
SLOPES = (0.3, 1.1)
FEW_RUNS = 4  # with fewer the power is taken as one


@dataclass(frozen=True)
class Speed:
    """ln(seconds of a run) = intercept + slope ln(FLOPs), and what each trial takes beside its run.

    Args:
        intercept: ln of seconds at one FLOP.
        slope: power of the FLOPs.
        overhead_seconds: of a trial beside its training: proposal, start, evaluation.
    """

    intercept: float
    slope: float
    overhead_seconds: float = 0.0

    def seconds(self, flops: float) -> float:
        """Wall time that a trial is going to take."""
        return float(np.exp(self.intercept + self.slope * np.log(flops))) + self.overhead_seconds

    def flops(self, seconds: float) -> float:
        """FLOPs of the dearest run that so much time pays for; 0 where it pays for none."""
        left = seconds - self.overhead_seconds
        return float(np.exp((np.log(left) - self.intercept) / self.slope)) if left > 0 else 0.0


def speed_of(records: Sequence[TrialRecord]) -> Speed | None:
    """Fit the seconds of the runs that ended; None before the first.

    Trials that are still running say nothing: neither what they take nor what they take beside their run.
    """
    ended = [
        (record.price_flops, record.outcome.seconds, record.wall_seconds)
        for record in records
        if record.outcome is not None and record.outcome.seconds > 0 and record.price_flops > 0
    ]
    runs = [(flops, seconds) for flops, seconds, _ in ended]
    if not runs:
        return None
    logs = np.log(np.array(runs))
    x, y = logs[:, 0], logs[:, 1]
    slope = 1.0
    if len(runs) >= FEW_RUNS and np.ptp(x) > 0.5:
        slope = float(np.clip(np.cov(x, y)[0, 1] / np.var(x, ddof=1), *SLOPES))
    beside = [max(wall - seconds, 0.0) for _, seconds, wall in ended if wall is not None]
    # The median: a trial that was open while no search ran took as long as the break.
    overhead = float(np.median(beside)) if beside else 0.0
    return Speed(float(np.mean(y - slope * x)), slope, overhead)
