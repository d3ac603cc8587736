"""Baseline: the grid of a careful person: a ladder of sizes, a few rates and batches at each."""

from collections import Counter
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial
from scipy.stats import qmc

from carbs_scaling.laws.prior.prior import published_level
from carbs_scaling.samplers.projected import ProjectedSampler
from carbs_scaling.samplers.sampler import SamplerEntry
from carbs_scaling.space.encoding import Point
from carbs_scaling.space.projection import LegalSpace

# Hoffmann et al. 2022: about 20 tokens a parameter, whatever the budget.
_TOKENS_PER_PARAM = 20.0
# Around the mean of two published laws, half and twice the learning rate, and twice the batch.
_RATE_FACTORS = (1.0, 0.5, 2.0)
_BATCH_FACTORS = (1.0, 2.0)
_RUNG_FACTOR = 2.0


def grid_points(space: LegalSpace, budget_flops: float) -> list[Point]:
    """Rates and batches at compute-optimal shapes, from cheap to dear, as far as the budget goes.

    Each rung of the ladder costs twice the one before; all rungs together cost the budget. Past the last
    rung the ladder is swept again with rates and batches in between.

    Args:
        space: what may be run.
        budget_flops: what the whole sweep may cost.
    """
    sweep = len(_RATE_FACTORS) * len(_BATCH_FACTORS)
    dearest = min(space.highest_flops, budget_flops / (sweep * _RUNG_FACTOR))
    rungs = max(1, int(np.log(dearest / space.lowest_flops) / np.log(_RUNG_FACTOR)) + 1)
    costs = dearest / _RUNG_FACTOR ** np.arange(rungs)[::-1]
    shapes = qmc.Sobol(space.encoding.knobs, rng=0).random(2048)
    known = space.candidates(shapes)
    ratios = known.features[:, 1] + space.centre[1] - known.features[:, 0] - space.centre[0]
    points = []
    for shift in (1.0, 2**0.5):
        for cost in costs:
            badness = np.log(known.flops / cost) ** 2 + 0.25 * (ratios - np.log(_TOKENS_PER_PARAM)) ** 2
            knobs = space.encoding.position(known.points[int(np.argmin(badness))])
            sizes = np.exp(space.features([space.legal(space.encoding.point(knobs))])[0] + space.centre)
            rate, batch = published_level(float(sizes[0]), float(sizes[1]))
            rate += space.rates.level[0]
            for batch_factor in _BATCH_FACTORS:
                for rate_factor in _RATE_FACTORS:
                    row = knobs[None].copy()
                    space.set_role(row, "batch_tokens", np.array([batch + np.log(batch_factor * shift)]))
                    space.set_role(row, "learning_rate", np.array([rate + np.log(rate_factor * shift)]))
                    points.append(space.legal(space.encoding.point(row[0])))
    return points


class CarefulGrid(BaseSampler):
    """Trial n runs point n of a grid; asked again for the same trial, it goes on to the next point.

    Args:
        space: what may be run.
        points: of `grid_points`.
    """

    def __init__(self, space: LegalSpace, points: list[Point]) -> None:
        self.space, self.points = space, points
        self.asked: Counter[int] = Counter()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self.space.encoding.distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        index = trial.number + self.asked[trial.number]
        self.asked[trial.number] += 1
        return dict(self.points[index % len(self.points)])

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.points[trial.number % len(self.points)][param_name]


def _build(space: LegalSpace, budget_flops: float, seed: int, options: Any) -> ProjectedSampler:
    points = grid_points(space, budget_flops)
    return ProjectedSampler(lambda _: CarefulGrid(space, points), space, budget_flops, seed)


SAMPLER = SamplerEntry(_build)
