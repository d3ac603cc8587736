"""Baseline: the grid of a careful person.

Three or four sizes of one aspect ratio, each with about 20 tokens a parameter, and at each four learning
rates (a quarter of a published law's to twice it; lower where that would leave the range) and two batches
(that law's and twice it). Each size costs ten times the one before, so N grows by about 3; the runs of all
sizes together cost the budget and no more, and are made from cheap to dear.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial
from scipy.stats import qmc

from carbs_scaling.laws.prior.prior import expected_level
from carbs_scaling.samplers.projected import ProjectedSampler
from carbs_scaling.samplers.sampler import SamplerEntry
from carbs_scaling.space.encoding import Point
from carbs_scaling.space.projection import Candidates, LegalSpace

# Hoffmann et al. 2022: about 20 tokens a parameter, whatever the budget.
_TOKENS_PER_PARAM = 20.0
# Factors of the mean of two published laws. Small models of bytes want lower rates.
_RATE_FACTORS = (0.25, 0.5, 1.0, 2.0)
_BATCH_FACTORS = (1.0, 2.0)
_MOST_SIZES = 4
_COST_FACTOR = 10.0  # of a size over the one before
_SHIFT = 2**0.5  # past the last size the grid is swept again with rates and batches in between
_SHAPES = 2048
_MOVES_N = 0.3  # in ln N
# Weights of squared logs in the choice of a shape: its cost counts most, then tokens a parameter and aspect.
_RATIO_WEIGHT, _ASPECT_WEIGHT = 0.25, 8.0
# Where the shapes nearest to the costs are too dear together, costs that are smaller by this are tried.
_ATTEMPTS, _LESS = 30, 0.98


def grid_points(space: LegalSpace, budget_flops: float) -> list[Point]:
    """The grid's points, from cheap to dear.

    Args:
        space: what may be run.
        budget_flops: what the whole sweep may cost.
    """
    runs = len(_RATE_FACTORS) * len(_BATCH_FACTORS)
    dearest = min(space.highest_flops, budget_flops / (runs * _COST_FACTOR / (_COST_FACTOR - 1)))
    decades = np.log(max(dearest / space.lowest_flops, 1)) / np.log(_COST_FACTOR)
    sizes = int(decades + 0.1) + 1  # the cheapest legal run costs a little more than a limit says
    known = space.candidates(qmc.Sobol(space.encoding.knobs, rng=0).random(_SHAPES))
    ratios = known.features[:, 1] + space.centre[1] - known.features[:, 0] - space.centre[0]
    off = _RATIO_WEIGHT * (ratios - np.log(_TOKENS_PER_PARAM)) ** 2 + _ASPECT_WEIGHT * _aspects(space, known)
    for _ in range(_ATTEMPTS):
        costs = dearest / _COST_FACTOR ** np.arange(min(sizes, _MOST_SIZES))[::-1]
        chosen = [int(np.argmin(np.log(known.flops / cost) ** 2 + off)) for cost in costs]
        shapes = [space.encoding.position(known.points[index]) for index in chosen]
        points = _sweep(space, shapes, 1.0)
        if sum(space.cost(point) for point in points) <= budget_flops:
            break
        dearest *= _LESS  # no shape costs just what was asked for
    return points + _sweep(space, shapes, _SHIFT)


def _sweep(space: LegalSpace, shapes: Sequence[NDArray[np.float64]], shift: float) -> list[Point]:
    """Each shape at all rates and batches, both times `shift`."""
    points = []
    for knobs in shapes:
        sizes_of = np.exp(space.features([space.legal(space.encoding.point(knobs))])[0] + space.centre)
        rate, batch = expected_level(float(sizes_of[0]), float(sizes_of[1]), space.rates)
        rate = _inside(space, rate + np.log(shift))
        for batch_factor in _BATCH_FACTORS:
            for rate_factor in _RATE_FACTORS:
                row = knobs[None].copy()
                space.set_role(row, "batch_tokens", np.array([batch + np.log(batch_factor * shift)]))
                space.set_role(row, "learning_rate", np.array([rate + np.log(rate_factor)]))
                points.append(space.legal(space.encoding.point(row[0])))
    return points


def _inside(space: LegalSpace, rate: float) -> float:
    """The ln rate that factors are applied to, moved so that all of them stay in the range searched."""
    lowest, highest = space.role_range("learning_rate") or (-np.inf, np.inf)
    low, high = lowest - np.log(_RATE_FACTORS[0]), highest - np.log(_RATE_FACTORS[-1])
    return float(min(max(rate, low), high))


def _aspects(space: LegalSpace, known: Candidates) -> NDArray[np.float64]:
    """How far the dimensions that make N are from growing together, as a variance of shares; shape (m,)."""
    positions = np.array([space.encoding.position(point) for point in known.points])
    # Those that N moves with when they alone are moved from the middle.
    middle = np.full(space.encoding.knobs, 0.5)
    moved = []
    for knob in range(space.encoding.knobs):
        ends = []
        for value in (0.1, 0.9):
            row = middle.copy()
            row[knob] = value
            ends.append(space.features([space.legal(space.encoding.point(row))])[0, 0])
        if abs(ends[1] - ends[0]) > _MOVES_N:
            moved.append(knob)
    if len(moved) < 2:
        return np.zeros(len(positions))
    spread: NDArray[np.float64] = positions[:, moved].var(axis=1)
    return spread


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
