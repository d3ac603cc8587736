"""Points of a person's own, which a search runs before it proposes any."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from carbs_scaling.errors import ConfigError
from carbs_scaling.numbers import scientific
from carbs_scaling.space.encoding import Point
from carbs_scaling.space.projection import LegalSpace

FIRST = "first"  # in the provenance of a trial: the point as the person gave it


def first_points(
    space: LegalSpace, given: Sequence[Mapping[str, Any]], may_cost: float
) -> list[tuple[str, Point]]:
    """Each point as it was given, in JSON, and the legal point nearest to it.

    A dimension that is not given has the middle of its range, of logarithms where it is logarithmic.

    Args:
        space: what may be run.
        given: values by dimension.
        may_cost: FLOPs of all of them together.

    Raises:
        ConfigError: a dimension that there is not, a value outside of it, or a point that may not be run.
    """
    known = space.encoding.distributions
    middle = space.encoding.point(np.full(space.encoding.knobs, 0.5))
    found, cost = [], 0.0
    for number, point in enumerate(given):
        place = f"first[{number}]"
        for name, value in point.items():
            if name not in known:
                raise ConfigError(f"{place}: {name} is no dimension; there are {', '.join(known)}")
            if not _inside(known[name], value):
                raise ConfigError(f"{place}: {name}={value} is not in space.{name} ({_range(known[name])})")
        legal = space.legal({**middle, **point})
        if not space.permits(legal):
            raise ConfigError(
                f"{place} costs {scientific(space.cost(legal))} FLOPs, or needs memory, beyond what one run "
                "may: see budget.max_trial_fraction, budget.min_trial_fraction and executor.memory_bytes"
            )
        cost += space.cost(legal)
        found.append((json.dumps(dict(point), sort_keys=True), legal))
    if cost > may_cost:
        raise ConfigError(
            f"first: these points cost {scientific(cost)} FLOPs, budget.flops={scientific(may_cost)} has less"
        )
    return found


def not_yet_run(
    points: Iterable[tuple[str, Point]], run: Iterable[Mapping[str, Any]]
) -> list[tuple[str, Point]]:
    """The points that no trial is of yet.

    Args:
        points: of `first_points`.
        run: provenances of trials.
    """
    done = Counter(provenance[FIRST] for provenance in run if FIRST in provenance)
    left = []
    for said, point in points:
        if done[said]:
            done[said] -= 1
        else:
            left.append((said, point))
    return left


def _inside(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and distribution.low <= value <= distribution.high


def _range(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(map(str, distribution.choices))
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return f"{distribution.low:g} to {distribution.high:g}"
