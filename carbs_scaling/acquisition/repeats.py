"""Known points that it pays to run again, to tell the front from its near ties."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from carbs_scaling.acquisition.front_gain import FrontLevels, expected_repeat_gain
from carbs_scaling.ledger.history import History
from carbs_scaling.space.projection import Candidates, LegalSpace, Point, point_key
from carbs_scaling.surrogate.model import Surrogate

# Known points, the nearest to the front, that are weighed against one another.
_MOST_WEIGHED = 300
# A gain of the front below this share of the losses' spread, over a decade, is rounding.
_LEAST_GAIN = 1e-8


@dataclass(frozen=True)
class Repeats:
    """What another run of a known point is worth.

    Args:
        space: of the caller.
        known: the history, runs of one point merged.
        surrogate: of its runs, pending ones believed.
        reference: (log10 FLOPs, loss) of the corner that areas are measured to.
        ends: probability of candidates to end; None where nothing has failed.
    """

    space: LegalSpace
    known: History
    surrogate: Surrogate
    reference: tuple[float, float]
    ends: Callable[[Candidates], np.ndarray] | None

    def best(self, limit: float, price: Callable[[np.ndarray], np.ndarray]) -> tuple[Point | None, float]:
        """The point that it pays most to run again, with the log of its gain per price; None if for none.

        It costs at most `limit`, is legal and allowed as things are now, has not failed and is not running.
        """
        points = self.known.points + self.known.pending
        batch = self.space.describe(points)
        mean, _ = self.surrogate.marginal(torch.from_numpy(batch.inputs))
        log_cost = np.log10(batch.flops)
        front = FrontLevels.of(batch.flops, mean, np.log10(self.space.lowest_flops), self.reference)
        near = np.argsort(mean - front.at(log_cost), kind="stable")[:_MOST_WEIGHED]
        batch = batch.take(near)
        mean, covariance = self.surrogate.joint(torch.from_numpy(batch.inputs))
        gain = expected_repeat_gain(mean, covariance, self.surrogate.noise_sd, log_cost[near], self.reference)
        if self.ends is not None:
            gain = gain * self.ends(batch)
        # A point that runs already is not run once more beside itself.
        busy = {point_key(point) for point in self.known.failed + self.known.pending}
        pays = (gain > _LEAST_GAIN * self.surrogate.scale) & (batch.flops <= limit)
        scores = np.where(pays, np.log(np.maximum(gain, 1e-300)) - np.log(price(batch.flops)), -np.inf)
        for i in np.argsort(-scores, kind="stable"):
            if scores[i] == -np.inf:
                break
            key = point_key(batch.points[i])
            legal = self.space.legal(batch.points[i])
            if key not in busy and point_key(legal) == key and self.space.permits(legal):
                return legal, float(scores[i])
        return None, -np.inf


def without_repeats(history: History) -> History:
    """The same with runs of one point merged into their mean loss, so that the luckiest does not count."""
    runs: dict[tuple, list[int]] = {}
    for i, point in enumerate(history.points):
        runs.setdefault(point_key(point), []).append(i)
    if len(runs) == len(history.points):
        return history
    return replace(
        history,
        points=[history.points[same[0]] for same in runs.values()],
        loss=[float(np.mean([history.loss[i] for i in same])) for same in runs.values()],
        flops=[float(np.mean([history.flops[i] for i in same])) for same in runs.values()],
    )
