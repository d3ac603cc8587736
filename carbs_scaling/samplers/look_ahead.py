"""Adds to a run's score what one continuation of it would gain."""

from __future__ import annotations

from math import log

import numpy as np
import torch
from botorch.acquisition import AcquisitionFunction
from botorch.utils.transforms import t_batch_mode_transform
from torch import Tensor

from carbs_scaling.acquisition.front_gain import ExpectedFrontGain, FrontLevels, expected_front_gain
from carbs_scaling.acquisition.price import KnownRows, known_costs
from carbs_scaling.samplers.candidates import Limit
from carbs_scaling.space.encoding import Point
from carbs_scaling.space.projection import NOT_RUN_YET, Candidates, LegalSpace
from carbs_scaling.surrogate.feasibility import Feasibility
from carbs_scaling.surrogate.model import LawEnsembleModel

# The share in which the best gain per FLOP of a run's continuations adds to its own.
SHARE = 0.5
# Candidates, the best by their own gains, whose continuations are looked at.
_LOOKED_AT = 64
# Continuations of each, by steps of the dimension that lengthens a run: 1.2, 1.5 and 2.2 times as long in a
# range of two decades. Where a dimension has few values, the short steps lead to none.
_CONTINUATIONS = 3
_STEPS = (1 / 24, 1 / 12, 1 / 6, 1 / 3, 1 / 2, 1)


class KnownScores(AcquisitionFunction):
    """Scores of a table's rows, known before.

    Args:
        model: of the loss.
        rows: shape `m x d'`.
        scores: shape `m`.
    """

    def __init__(self, model: LawEnsembleModel, rows: Tensor, scores: Tensor) -> None:
        super().__init__(model=model)
        self._known, self._scores = KnownRows(rows), scores

    @t_batch_mode_transform(expected_q=1)  # type: ignore[arg-type]
    def forward(self, X: Tensor) -> Tensor:
        """Scores, shape `b`, of X, `b x 1 x d'`."""
        return self._scores[self._known.find(X[:, 0])]


def with_later_runs(
    own: AcquisitionFunction,
    pool: Candidates,
    model: LawEnsembleModel,
    front: FrontLevels,
    limit: Limit,
    overhead_flops: float,
    feasibility: Feasibility | None,
) -> AcquisitionFunction:
    """Log of a run's gain per FLOP and, in a share, the best gain per FLOP of one continuation of it.

    Args:
        own: log of the gain per FLOP of a run by itself.
        pool: the candidates.
        model: of the loss.
        front: best losses so far, by cost.
        limit: what the run and its continuation may cost together.
        overhead_flops: what a trial costs beside its FLOPs.
        feasibility: the probability that a run ends; None where all do.
    """
    with torch.no_grad():
        scores = own(pool.rows[:, None])
        best = torch.argsort(scores, descending=True, stable=True)[:_LOOKED_AT].numpy()
        later, parents, prices = continued_once(pool.take(best), limit)
        if not len(later):
            return KnownScores(model, pool.rows, scores)
        X = later.rows[:, None]
        gain = ExpectedFrontGain(model, front, known_costs(later.rows, torch.from_numpy(later.flops)))(X)
        # Less what the first run has gained there already, at its expected loss.
        first = model.posterior(pool.rows[best][parents][:, None]).mean.reshape(1, -1)
        log_cost = torch.from_numpy(later.flops).log10()
        gain = gain - expected_front_gain(
            torch.ones(1).double(), first, torch.zeros_like(first), log_cost, front
        )
        if feasibility is not None:
            gain = gain * feasibility.probability(X)[..., 0]
        each = gain.clamp_min(0.0) / (torch.from_numpy(prices) + overhead_flops)
        most = torch.zeros(len(best)).double().scatter_reduce(0, torch.from_numpy(parents), each, "amax")
        scores[best] = torch.logaddexp(scores[best], most.clamp_min(1e-300).log() + log(SHARE))
    return KnownScores(model, pool.rows, scores)


def continued_once(pool: Candidates, limit: Limit) -> tuple[Candidates, np.ndarray, np.ndarray]:
    """Runs that would go on from a candidate once it has run, where both can be paid and that is cheaper.

    Returns:
        Those runs; the number of the candidate of each, shape (c,); its price then, shape (c,).
    """
    space, firsts = limit.space, limit.prices(pool)
    found, parents, prices = [], [], []
    for number, point in enumerate(pool.points):
        there = {**limit.completed, NOT_RUN_YET: point}
        for run in _longer_runs(space, point):
            price, whole = float(space.prices([run], there)[0]), space.cost(run)
            payable = price + firsts[number] <= limit.price and whole <= limit.flops
            if price < whole * (1 - 1e-9) and payable and space.permits(run):
                found.append(run)
                parents.append(number)
                prices.append(price)
    return space.describe(found), np.array(parents, dtype=int), np.array(prices, dtype=float)


def _longer_runs(space: LegalSpace, point: Point) -> list[Point]:
    """Legal points that differ from a point by a longer run alone.

    For each dimension that lengthens a run, up to `_CONTINUATIONS` larger values, the nearest first.
    """
    position, found = space.encoding.position(point), []
    for name in space.length_names:
        knob = list(space.encoding.distributions).index(name)
        least, of_name = space.cost(point), 0
        for step in _STEPS:
            longer = position.copy()
            longer[knob] = min(1.0, position[knob] + step)
            run = space.legal({**point, name: space.encoding.point(longer)[name]})
            if space.cost(run) > least and of_name < _CONTINUATIONS:
                found.append(run)
                least, of_name = space.cost(run), of_name + 1
    return found
