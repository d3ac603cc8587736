"""The run that is expected to push out the front of loss against FLOPs most, per FLOP."""

import itertools
from dataclasses import dataclass

import numpy as np
import torch

from carbs_scaling.acquisition.front_gain import (
    AlternativeInputs,
    FrontLevels,
    ValleyDoubt,
    alternative_score,
    expected_front_gain,
    expected_learning_gain,
)
from carbs_scaling.acquisition.repeats import Repeats, without_repeats
from carbs_scaling.frontier import pareto_front
from carbs_scaling.laws.loss import best_batch_feature, best_rate_feature, law_floor, valley_curvatures
from carbs_scaling.ledger.history import History
from carbs_scaling.samplers.candidates import affordable_pool, around, candidates, joined
from carbs_scaling.samplers.options import SamplerOptions
from carbs_scaling.space.projection import Candidates, LegalSpace, Point
from carbs_scaling.surrogate.feasibility import chance_to_end
from carbs_scaling.surrogate.model import EXCESS_SHARE, Surrogate

# Levels of cost at which what is learnt about the valley is put to use.
_LEVELS = 10


# Share of the runs that may be repeats while there is something new: where few points are all that is known,
# telling them apart seems worth more, for ever, than what lies beyond.
_MOST_REPEATS = 0.25


@dataclass(frozen=True)
class FrontSearch:
    """Scores runs by what they are expected to add to the front.

    Args:
        space: of the caller.
        options: of the search.
        budget_flops: of the whole search, or None.
        overhead_flops: what a trial costs beside its FLOPs.
    """

    space: LegalSpace
    options: SamplerOptions
    budget_flops: float | None
    overhead_flops: float

    def best(
        self, history: History, surrogate: Surrogate, rng: np.random.Generator, limit: float
    ) -> Point | None:
        """The best point that costs at most `limit`, new or worth another run; None where there is none.

        Args:
            history: of the other trials; running ones are taken to end as predicted.
            surrogate: of the completed ones.
            rng: of the candidates.
            limit: FLOPs.
        """
        known = without_repeats(history)
        # What runs cost by `flops`, not what they were charged: candidates are placed by the former.
        flops, loss = list(self.space.describe(known.points).flops), list(known.loss)
        if history.pending:
            pending = self.space.describe(history.pending)
            inputs = torch.from_numpy(pending.inputs)
            believed, _ = surrogate.marginal(inputs)
            surrogate = surrogate.believe(inputs)
            flops += list(pending.flops)
            loss += list(believed)
        dearest = min(self.space.highest_flops, self.budget_flops or np.inf)
        top = np.log10(dearest) + 0.1
        ceiling = self._ceiling(flops, loss, surrogate)
        front = FrontLevels.of(flops, loss, np.log10(self.space.lowest_flops), (top, ceiling))
        spent = max(history.spent_flops + history.committed_flops, self.space.lowest_flops)
        threshold = self.options.noise_sds * surrogate.noise_sd

        theta = np.asarray(surrogate.law.theta)
        ends = chance_to_end(self.space, history, theta)
        pool = candidates(self.space, history, surrogate, rng, limit, self.options.candidates)
        again, its_score = None, -np.inf
        repeated = len(history.points) - len(known.points)
        enough = repeated >= _MOST_REPEATS * len(history.points) and len(pool)
        if self.options.repeats and self.options.acquisition == "front_gain_per_flop" and not enough:
            repeats = Repeats(self.space, known, surrogate, (top, ceiling), ends)
            again, its_score = repeats.best(limit, lambda cost: self._price(cost, spent))
        if not len(pool):
            return again
        learns = self.options.law_mean and self.options.learning > 0
        doubt = self._valley_doubt(pool, surrogate, limit) if learns else None

        # What a run teaches counts less and less: where the law is wrong, doubt about it never ends.
        lesson = self.options.learning * np.exp(-len(history.points) / (8 * self.space.encoding.knobs))

        def score(batch: Candidates) -> np.ndarray:
            inputs = torch.from_numpy(batch.inputs)
            mean, sd = surrogate.predict(inputs)
            if self.options.acquisition != "front_gain_per_flop":
                return self._other_score(batch, mean, sd, front, threshold, history, surrogate.shares)
            gain = expected_front_gain(mean, sd, np.log10(batch.flops), front, threshold)
            gain = surrogate.shares @ gain
            if doubt is not None:
                floor = law_floor(theta, batch.features, self.space.has_role)
                excess = np.maximum(surrogate.shares @ mean - floor, 0.0)
                noise = surrogate.shares @ sd**2 + surrogate.noise_sd**2 + (EXCESS_SHARE * excess) ** 2
                gain += lesson * expected_learning_gain(mean, noise, doubt)
            if ends is not None:
                gain = gain * ends(batch)
            price = self._price(batch.flops, spent)
            return np.log(np.maximum(gain, 1e-300)) - np.log(price)

        scores = score(pool)
        for spread in (0.1, 0.04, 0.015):
            order = np.argsort(-scores, kind="stable")[:12]
            near = [self.space.encoding.position(pool.points[i]) for i in order]
            knobs = around(near, spread, self.options.candidates // 4, rng)
            more = affordable_pool(self.space, knobs, history, limit)
            pool = pool.take(order)
            scores = scores[order]
            if len(more):
                pool, scores = joined(pool, more), np.concatenate([scores, score(more)])
        best = int(np.argmax(scores))
        return again if again is not None and its_score > scores[best] else pool.points[best]

    def _price(self, flops: np.ndarray, spent: float) -> np.ndarray:
        """What gains are divided by.

        FLOPs, made dearer where they are many beside what is spent: if the search may end at any total,
        equally likely in each decade, then of two orders of the same two runs the better one is that by
        gain / ((s + c) ln(1 + c / s)), which is gain / c for c far below the spent s.
        """
        cost = flops + self.overhead_flops
        if not self.options.anytime:
            return cost
        return (spent + cost) * np.log1p(cost / spent)

    def _other_score(self, batch: Candidates, mean, sd, front: FrontLevels, threshold, history, shares):
        """Logs of the alternatives kept for comparison, shape (m,); larger is better."""
        on_front = [history.points[i] for i in pareto_front(history.flops, history.loss)]
        gaps = np.linalg.norm(batch.cube[:, None] - self.space.describe(on_front).cube[None], axis=-1)
        return alternative_score(
            self.options.acquisition,
            AlternativeInputs(
                mean=mean,
                sd=sd,
                shares=shares,
                flops=batch.flops,
                front=front,
                threshold=threshold,
                lowest_loss=min(history.loss),
                budget_flops=self.budget_flops or float(batch.flops.max()),
                front_distance=gaps.min(axis=1),
            ),
        )

    def _ceiling(self, flops: list[float], loss: list[float], surrogate: Surrogate) -> float:
        """Reference loss: a tenth of the front's range above what the cheapest run can reach."""
        front = np.asarray(loss)[pareto_front(flops, loss)]
        cheapest = self.space.features([self.space.cheapest])
        floor = float(law_floor(np.asarray(surrogate.law.theta), cheapest, surrogate.law.has_role)[0])
        highest = max(floor, float(front[0]))
        return highest + 0.1 * max(highest - float(front[-1]), surrogate.scale)

    def _valley_doubt(self, pool: Candidates, surrogate: Surrogate, limit: float) -> ValleyDoubt | None:
        """What is not known of the valley at the front's later runs: the best shape at each level of cost."""
        if not (self.space.has_role[2] or self.space.has_role[3]) or len(surrogate.mean.thetas) < 2:
            return None
        theta = np.asarray(surrogate.law.theta)
        floor = law_floor(theta, pool.features, self.space.has_role)
        log_cost = np.log10(pool.flops)
        top = min(log_cost.max(), np.log10(min(limit / 2, 1e300)))
        edges = np.linspace(log_cost.min(), top + 1e-9, _LEVELS + 1)
        best = [
            int(inside[np.argmin(floor[inside])])
            for low, high in itertools.pairwise(edges)
            if len(inside := np.flatnonzero((log_cost >= low) & (log_cost < high)))
        ]
        features = pool.features[best]
        if not len(features):
            return None
        features[:, 3] = best_batch_feature(theta, features) if self.space.has_role[3] else 0.0
        thetas = surrogate.mean.thetas
        curvatures = valley_curvatures(theta, features, self.space.has_role)
        return ValleyDoubt(
            rates=np.array([best_rate_feature(t, features) for t in thetas]),
            batches=np.array([best_batch_feature(t, features) for t in thetas]),
            rate_curvature=curvatures[0],
            batch_curvature=curvatures[1],
            width=np.full(len(features), edges[1] - edges[0]),
            shares=surrogate.shares,
        )
