"""Dimensions that matter only where a choice has some value, such as the momentum of SGD.

Define-by-run programs suggest them there alone. When they do is learnt from the trials: a dimension is off at
the values of a choice where completed trials lacked it and none had it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution

from carbs_scaling.space.encoding import Encoding, Point

Typed = tuple[type, Any]  # 1 and True are two choices


@dataclass(frozen=True)
class Conditions:
    """When dimensions do not matter.

    Args:
        off: for a dimension, the values of each choice at which it does not.
        middle: the value that it is held at there.
    """

    off: Mapping[str, Mapping[str, frozenset[Typed]]] = field(default_factory=dict)
    middle: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def learnt(trials: Iterable[Mapping[str, Any]], encoding: Encoding) -> "Conditions":
        """What parameters of completed trials tell.

        Args:
            trials: the parameters of each.
            encoding: of the space.
        """
        choices = [n for n, d in encoding.distributions.items() if isinstance(d, CategoricalDistribution)]
        names = encoding.distributions.keys()
        seen = [params for params in trials if not names.isdisjoint(params)]
        off: dict[str, dict[str, frozenset[Typed]]] = {}
        for name in encoding.distributions:
            if all(name in params for params in seen):
                continue
            for choice in choices:
                there, lacking = (
                    {_typed(p[choice]) for p in seen if choice in p and (name in p) is present}
                    for present in (True, False)
                )
                if choice != name and lacking - there:
                    off.setdefault(name, {})[choice] = frozenset(lacking - there)
        if not off:
            return Conditions()
        middle = encoding.point(np.full(encoding.knobs, 0.5))
        return Conditions(off, {name: middle[name] for name in off})

    def off_at(self, name: str, point: Mapping[str, Any]) -> bool:
        """Whether a dimension does not matter at a point."""
        choices = self.off.get(name, {})
        return any(choice in point and _typed(point[choice]) in values for choice, values in choices.items())

    def canonical(self, point: Point) -> Point:
        """The point with every dimension that does not matter held at its middle."""
        held = {name: self.middle[name] for name in self.off if self.off_at(name, point)}
        return {**point, **held} if held else point

    def completed(self, params: Mapping[str, Any], encoding: Encoding) -> Point | None:
        """Parameters of a trial as a point; None where one that matters is lacking or cannot be."""
        point = dict(params)
        for name in encoding.distributions:
            if name not in point and self.off_at(name, params):
                point[name] = self.middle[name]
        if not encoding.contains(point):
            return None
        return {name: point[name] for name in encoding.distributions}


def _typed(value: Any) -> Typed:
    return type(value), value
