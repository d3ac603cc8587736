"""The run that is expected to push out the front of loss against FLOPs most, per FLOP."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from botorch.acquisition import AcquisitionFunction
from botorch.optim import optimize_acqf_discrete

from carbs_scaling.acquisition.front_gain import ExpectedFrontGain, FrontLevels
from carbs_scaling.acquisition.lesson import LessonGain, ValleySpread
from carbs_scaling.acquisition.price import KnownRows, LogGainPerCost, known_costs, per_flop
from carbs_scaling.frontier import pareto_front
from carbs_scaling.ledger.history import History
from carbs_scaling.samplers.candidates import Limit, affordable_pool, around, candidates, joined, tried
from carbs_scaling.samplers.look_ahead import with_later_runs
from carbs_scaling.samplers.options import SamplerOptions
from carbs_scaling.space.encoding import Point
from carbs_scaling.space.projection import Candidates, LegalSpace, point_key
from carbs_scaling.surrogate.feasibility import Feasibility, feasibility_of
from carbs_scaling.surrogate.model import LawEnsembleModel

# Deviations of the moves around the best candidates, in shares of the unit cube's side, round by round.
_SPREADS = (0.1, 0.04, 0.015)
# Candidates that each round moves around.
_KEPT = 12


@dataclass(frozen=True)
class FrontState:
    """What is known when the next run is chosen.

    Args:
        model: of the loss, given the finished runs; running ones are taken to end as predicted.
        front: best losses so far, by cost.
        reference: (log10 FLOPs, loss) of the corner that areas are measured to.
        feasibility: the probability that a run ends; None while none has failed.
        overhead_flops: what a trial costs beside its FLOPs.
        history: of the other trials.
        lesson: what the laws do not agree on, and the share in which a lesson about it counts.
        limit: what runs may cost, with what candidates would really cost; None: all of their whole runs.
    """

    model: LawEnsembleModel
    front: FrontLevels
    reference: tuple[float, float]
    feasibility: Feasibility | None
    overhead_flops: float
    history: History
    lesson: tuple[ValleySpread, float] | None = None
    limit: Limit | None = None


def front_gain_per_flop(state: FrontState, pool: Candidates) -> AcquisitionFunction:
    """Log of the expected gain of the front, with what a run teaches, per FLOP paid, of `pool`."""
    costs = known_costs(pool.rows, torch.from_numpy(pool.flops))
    gains: list[AcquisitionFunction] = [ExpectedFrontGain(state.model, state.front, costs)]
    if state.lesson is not None:
        gains.append(LessonGain(state.model, *state.lesson))
    if state.limit is None:
        return LogGainPerCost(gains, per_flop(costs, state.overhead_flops), state.feasibility)
    paid = known_costs(pool.rows, torch.from_numpy(state.limit.prices(pool)))
    own = LogGainPerCost(gains, per_flop(paid, state.overhead_flops), state.feasibility)
    return with_later_runs(
        own, pool, state.model, state.front, state.limit, state.overhead_flops, state.feasibility
    )


@dataclass(frozen=True)
class FrontSearch:
    """Chooses runs by what they are expected to add to the front.

    Args:
        budget_flops: of the whole search, or None.
        overhead_flops: what a trial costs beside its FLOPs.
        acquisition: scores candidates; other ones than ours are compared in the benchmarks.
    """

    space: LegalSpace
    options: SamplerOptions
    budget_flops: float | None
    overhead_flops: float
    acquisition: Callable[[FrontState, Candidates], AcquisitionFunction] = front_gain_per_flop

    def best(
        self, history: History, model: LawEnsembleModel, rng: np.random.Generator, limit: Limit
    ) -> Point | None:
        """The best new point that keeps to `limit`; the front's least often run one where all are known.

        None where there is neither.

        Args:
            history: of the other trials; running ones are taken to end as predicted.
            model: of the loss, fitted to the completed ones.
        """
        known = history.merged()
        runs = self.space.describe(known.points)
        state = self._state(history, known, runs, model)
        pool = candidates(self.space, history, state.model, rng, limit, self.options.candidates)
        if not len(pool):
            return self._again(history, known, limit)
        known_prices = None if self.space.price is None else limit
        state = replace(state, lesson=self._lesson(state, pool, limit.price), limit=known_prices)
        return self._refined(state, pool, rng, limit)

    def _again(self, history: History, known: History, limit: Limit) -> Point | None:
        """A point of the front that keeps to `limit`, of those the one with the fewest runs."""
        front = [known.points[i] for i in pareto_front(known.flops, known.loss)]
        payable = [
            p
            for p in front
            # An imported run may lie where nothing may be run.
            if self.space.cost(p) <= min(limit.price, limit.flops)
            and self.space.permits(p)
            and point_key(self.space.legal(p)) == point_key(p)
        ]
        runs = Counter(point_key(point) for point in history.points + history.pending)
        return min(payable, key=lambda point: runs[point_key(point)], default=None)

    def _state(
        self, history: History, known: History, runs: Candidates, model: LawEnsembleModel
    ) -> FrontState:
        # What runs cost by `flops`, not what they were charged: candidates are placed by the former.
        flops, loss = runs.flops, np.asarray(known.loss)
        if history.pending:
            pending = self.space.describe(history.pending)
            flops = np.append(flops, pending.flops)
            loss = np.append(loss, model.posterior(pending.rows).mean[:, 0].numpy())
            model = model.believe(pending.rows)
        dearest = min(self.space.highest_flops, self.budget_flops or np.inf)
        reference = float(np.log10(dearest) + 0.1), self._ceiling(flops, loss, model)
        front = FrontLevels.of(flops, loss, np.log10(self.space.lowest_flops), reference)
        if self.options.goal == "best":
            # One step that begins beyond all runs: each is worth what it is expected to be below the lowest.
            front = FrontLevels(torch.tensor([0.0, 1.0]).double() + reference[0], front.levels[-1:])
        return FrontState(
            model,
            front,
            reference,
            feasibility_of(self.space, history, model.best_law),
            self.overhead_flops,
            history,
        )

    def _ceiling(self, flops: np.ndarray, loss: np.ndarray, model: LawEnsembleModel) -> float:
        """Reference loss: a tenth of the front's range above what the cheapest run can reach."""
        front = loss[pareto_front(flops, loss)]
        floor = float(model.best_law.floor(self.space.features([self.space.cheapest]))[0])
        highest = max(floor, float(front[0]))
        return highest + 0.1 * max(highest - float(front[-1]), model.scale)

    def _lesson(self, state: FrontState, pool: Candidates, limit: float) -> tuple[ValleySpread, float] | None:
        if not (self.options.law_mean and self.options.learning > 0) or self.options.goal == "best":
            return None  # a lesson is about the valley along the front
        spread = ValleySpread.of(state.model, pool, limit)
        # What a run teaches counts less and less: where the law is wrong, its uncertainty never ends.
        runs = len(state.history.points)
        share = self.options.learning * float(np.exp(-runs / (8 * self.space.encoding.knobs)))
        return None if spread is None else (spread, share)

    def _refined(self, state: FrontState, pool: Candidates, rng: np.random.Generator, limit: Limit) -> Point:
        """The best candidate, after moves around the best of `pool`."""
        taken = tried(state.history)
        for spread in _SPREADS:
            with torch.no_grad():
                scores = self.acquisition(state, pool)(pool.rows[:, None])
            pool = pool.take(np.argsort(-scores.numpy(), kind="stable")[:_KEPT])
            near = [self.space.encoding.position(point) for point in pool.points]
            knobs = around(near, spread, self.options.candidates // 4, rng)
            pool = joined(pool, affordable_pool(self.space, knobs, taken, limit))
        rows = pool.rows
        best, _ = optimize_acqf_discrete(self.acquisition(state, pool), q=1, choices=rows)
        return pool.points[int(KnownRows(rows).find(best)[0])]
