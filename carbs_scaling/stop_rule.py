"""When a running trial ends early: above which training loss it would hardly reach the front any more."""

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class StopRule:
    """Training losses along a run that a trial must stay below; picklable.

    Args:
        shares: of the run, in (0, 1), increasing; a loss is that of the part up to its share.
        losses: above which the trial stops there; infinite where it never does.
        at_least: loss that a stopped trial would at least have ended at.

    Raises:
        ValueError: lengths that differ, or shares that do not increase.
    """

    shares: tuple[float, ...]
    losses: tuple[float, ...]
    at_least: float

    def __post_init__(self) -> None:
        if (
            len(self.shares) != len(self.losses)
            or not (np.diff(self.shares, prepend=0.0, append=1.0) > 0).all()
        ):
            raise ValueError("a stop rule needs increasing shares in (0, 1), and a loss for each")

    def passes(self, before: float, share: float) -> bool:
        """Whether one of the shares was passed between two others of the run."""
        return bisect_right(self.shares, share) > bisect_right(self.shares, before)

    def stops(self, before: float, share: float, loss: float) -> bool:
        """Whether a run ends at `share` whose mean training loss since the share `before` was `loss`."""
        passed = bisect_right(self.shares, share)
        # A loss over several parts is above that of the last.
        return passed == bisect_right(self.shares, before) + 1 and bool(loss > self.losses[passed - 1])
