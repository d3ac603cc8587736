"""Between Optuna distributions and the unit cube, where the Gaussian process lives."""

from dataclasses import dataclass
from math import exp, log

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)


@dataclass(frozen=True)
class Encoding:
    """Maps points to unit-cube rows and back.

    A numeric dimension takes one column, on the log scale where its distribution is logarithmic; a
    categorical one takes a 0/1 column for each choice. `knobs` counts dimensions as proposed: one number in
    [0, 1] each.

    Args:
        distributions: Optuna distributions by name.
    """

    distributions: dict[str, BaseDistribution]

    def __post_init__(self) -> None:
        for name, distribution in self.distributions.items():
            if not isinstance(distribution, FloatDistribution | IntDistribution | CategoricalDistribution):
                raise ValueError(f"{name}: unsupported distribution {type(distribution).__name__}")

    @property
    def knobs(self) -> int:
        """Number of dimensions as proposed."""
        return len(self.distributions)

    def point(self, knobs: np.ndarray) -> dict:
        """The point at `knobs`, shape (k,), in [0, 1]; always inside the distributions."""
        return {
            name: _value(distribution, float(u))
            for (name, distribution), u in zip(self.distributions.items(), knobs, strict=True)
        }

    def position(self, point: dict) -> np.ndarray:
        """The inverse of `point`, shape (k,); a categorical choice is at the middle of its interval."""
        return np.array([_unit(d, point[name]) for name, d in self.distributions.items()])

    def row(self, point: dict) -> np.ndarray:
        """Unit-cube columns of a point, shape (d,) with d >= k where there are categorical dimensions."""
        columns: list[float] = []
        for name, distribution in self.distributions.items():
            if isinstance(distribution, CategoricalDistribution):
                columns += [float(_same(choice, point[name])) for choice in distribution.choices]
            else:
                columns.append(_unit(distribution, point[name]))
        return np.array(columns)

    def clip(self, point: dict) -> dict:
        """The nearest point inside the distributions, with whole numbers as `int`.

        Raises:
            ValueError: a categorical value that is none of the choices, or a missing name.
        """
        missing = [name for name in self.distributions if name not in point]
        if missing:
            raise ValueError(f"a projected point lacks {', '.join(missing)}")
        return {name: _clipped(name, d, point[name]) for name, d in self.distributions.items()}

    def contains(self, point: dict) -> bool:
        """Whether every dimension is present and a finite value in the point's own type."""
        for name, distribution in self.distributions.items():
            if name not in point:
                return False
            if isinstance(distribution, CategoricalDistribution):
                if not any(_same(choice, point[name]) for choice in distribution.choices):
                    return False
            elif distribution.log and not point[name] > 0:
                return False
        return True


def _same(choice, value) -> bool:
    return choice is value or (type(choice) is type(value) and choice == value)


def _bounds(distribution) -> tuple[float, float]:
    low, high = float(distribution.low), float(distribution.high)
    return (log(low), log(high)) if distribution.log else (low, high)


def _unit(distribution: BaseDistribution, value) -> float:
    if isinstance(distribution, CategoricalDistribution):
        index = next(i for i, choice in enumerate(distribution.choices) if _same(choice, value))
        return (index + 0.5) / len(distribution.choices)
    low, high = _bounds(distribution)
    if high <= low:
        return 0.5
    return ((log(value) if distribution.log else float(value)) - low) / (high - low)


def _value(distribution: BaseDistribution, u: float):
    u = min(max(u, 0.0), 1.0)
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[min(int(u * len(distribution.choices)), len(distribution.choices) - 1)]
    low, high = _bounds(distribution)
    inner = low + u * (high - low)
    return _clipped("", distribution, exp(inner) if distribution.log else inner)


def _clipped(name: str, distribution: BaseDistribution, value):
    if isinstance(distribution, CategoricalDistribution):
        if not any(_same(choice, value) for choice in distribution.choices):
            raise ValueError(f"projected {name}={value!r} is none of {distribution.choices}")
        return value
    value = min(max(value, distribution.low), distribution.high)
    step = distribution.step
    if isinstance(distribution, IntDistribution):
        return int(distribution.low + round((value - distribution.low) / step) * step)
    if step is not None:
        value = distribution.low + round((value - distribution.low) / step) * step
        value = min(value, distribution.high)
    return float(value)
