"""Known points that it pays to run again, to tell the front from its near ties."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from carbs_scaling.acquisition.front_gain import FrontLevels
from carbs_scaling.acquisition.price import KnownCosts, LogGainPerCost, per_flop
from carbs_scaling.acquisition.repeat_gain import ExpectedRepeatGain
from carbs_scaling.ledger.history import History
from carbs_scaling.space.encoding import Point
from carbs_scaling.space.projection import Key, LegalSpace, point_key

if TYPE_CHECKING:
    from carbs_scaling.samplers.front_search import FrontState

# Known points, the nearest to the front, that are weighed against one another.
_MOST_WEIGHED = 300
# A gain of the front below this share of the losses' spread, over a decade, is rounding.
_LEAST_GAIN = 1e-8
# Share of the runs that may be repeats while there is something new: where few points are all that is known,
# telling them apart seems worth more, for ever, than what lies beyond.
_MOST_REPEATS = 0.25


def best_repeat(
    space: LegalSpace, state: FrontState, known: History, something_new: bool, limit: float
) -> tuple[Point | None, float]:
    """The point that it pays most to run again, with its score; None and -inf where there is none.

    It costs at most `limit`, is legal and allowed as things are now, has not failed and is not running.

    Args:
        space: of the caller.
        state: what is known.
        known: the history, runs of one point merged.
        something_new: whether there are candidates that have not been run.
        limit: FLOPs.
    """
    runs = len(state.history.points)
    if something_new and runs - len(known.points) >= _MOST_REPEATS * runs:
        return None, -np.inf
    batch = space.describe(known.points + known.pending)
    with torch.no_grad():
        mean = state.model.posterior(batch.rows).mean[:, 0]
    log_cost = torch.from_numpy(np.log10(batch.flops))
    front = FrontLevels.of(batch.flops, mean.numpy(), np.log10(space.lowest_flops), state.reference)
    near = np.argsort((mean - front.at(log_cost)).numpy(), kind="stable")[:_MOST_WEIGHED]
    batch = batch.take(near)
    costs = KnownCosts(batch.rows, torch.from_numpy(batch.flops))
    gain = ExpectedRepeatGain(state.model, batch.rows, state.model.noise_sd, costs, state.reference)
    # The same acquisition as of new runs, so that scores can be compared.
    acquisition = LogGainPerCost([gain], per_flop(costs, state.overhead_flops), state.feasibility)
    with torch.no_grad():
        scores = acquisition(batch.rows[:, None]).numpy()
    least = np.log(_LEAST_GAIN * state.model.scale) - np.log(batch.flops + state.overhead_flops)
    pays = (scores > least) & (batch.flops <= limit)
    # A point that runs already is not run once more beside itself.
    busy = {point_key(point) for point in known.failed + known.pending}
    for i in np.argsort(-scores, kind="stable"):
        legal = space.legal(batch.points[i])
        key = point_key(batch.points[i])
        if pays[i] and key not in busy and point_key(legal) == key and space.permits(legal):
            return legal, float(scores[i])
    return None, -np.inf


def without_repeats(history: History) -> History:
    """The same with runs of one point merged into their mean loss, so that the luckiest does not count."""
    runs: dict[Key, list[int]] = {}
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
