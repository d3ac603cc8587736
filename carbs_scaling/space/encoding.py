"""Between Optuna distributions and the unit cube, where the Gaussian process lives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

Point = dict[str, Any]


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
    _scales: dict[str, _Scale] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name, distribution in self.distributions.items():
            if not isinstance(distribution, FloatDistribution | IntDistribution | CategoricalDistribution):
                raise ValueError(f"{name}: unsupported distribution {type(distribution).__name__}")
            self._scales[name] = _Scale.of(distribution)

    @property
    def knobs(self) -> int:
        """Number of dimensions as proposed."""
        return len(self.distributions)

    def point(self, knobs: np.ndarray) -> Point:
        """The point at `knobs`, shape (k,), in [0, 1]; always inside the distributions."""
        return self.points(knobs[None])[0]

    def points(self, knobs: np.ndarray) -> list[Point]:
        """The points at rows of `knobs`, shape (m, k)."""
        columns = [scale.values(column) for scale, column in zip(self._scales.values(), knobs.T, strict=True)]
        return [dict(zip(self._scales, values, strict=True)) for values in zip(*columns, strict=True)]

    def position(self, point: Point) -> np.ndarray:
        """The inverse of `point`, shape (k,); a categorical choice is at the middle of its interval."""
        return np.concatenate([scale.units([point[name]]) for name, scale in self._scales.items()])

    def rows(self, points: list[Point]) -> np.ndarray:
        """Unit-cube columns of m points, shape (m, d) with d >= k where there are categorical dimensions."""
        columns: list[np.ndarray] = []
        for name, scale in self._scales.items():
            values = [point[name] for point in points]
            if scale.choices is None:
                columns.append(scale.units(values))
            else:
                columns += [np.array([float(_same(c, v)) for v in values]) for c in scale.choices]
        return np.stack(columns, axis=-1)

    def spread_to_columns(self, of_knobs: np.ndarray) -> np.ndarray:
        """Repeats a value of each dimension, shape (k,), for each of its columns, shape (d,)."""
        widths = [1 if scale.choices is None else len(scale.choices) for scale in self._scales.values()]
        return np.repeat(of_knobs, widths)

    def clip(self, point: Point) -> Point:
        """The nearest point inside the distributions, with whole numbers as `int`.

        Raises:
            ValueError: a categorical value that is none of the choices, or a missing name.
        """
        missing = [name for name in self.distributions if name not in point]
        if missing:
            raise ValueError(f"a projected point lacks {', '.join(missing)}")
        return {name: scale.clip(point[name]) for name, scale in self._scales.items()}

    def contains(self, point: Point) -> bool:
        """Whether every dimension is present and a finite value in the point's own type."""
        for name, distribution in self.distributions.items():
            if name not in point:
                return False
            if isinstance(distribution, CategoricalDistribution):
                if not any(_same(choice, point[name]) for choice in distribution.choices):
                    return False
            elif self._scales[name].log and not point[name] > 0:
                return False
        return True


def _same(choice: Any, value: Any) -> bool:
    return choice is value or (type(choice) is type(value) and choice == value)


@dataclass(frozen=True)
class _Scale:
    """One dimension with its bounds worked out once: thousands of points pass here for a proposal."""

    low: float
    high: float
    start: float
    width: float
    log: bool
    step: float | None
    whole: bool
    choices: tuple[Any, ...] | None

    @staticmethod
    def of(distribution: BaseDistribution) -> _Scale:
        if isinstance(distribution, CategoricalDistribution):
            return _Scale(0.0, 1.0, 0.0, 1.0, False, None, False, tuple(distribution.choices))
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        low, high = distribution.low, distribution.high
        start, end = np.log([low, high]).tolist() if distribution.log else (float(low), float(high))
        whole = isinstance(distribution, IntDistribution)
        step = None if whole and distribution.step == 1 else distribution.step
        return _Scale(low, high, start, end - start, distribution.log, step, whole, None)

    def units(self, values: Sequence[Any]) -> np.ndarray:
        """Places of m values in [0, 1], shape (m,)."""
        if self.choices is not None:
            numbers = [next(i for i, c in enumerate(self.choices) if _same(c, value)) for value in values]
            return (np.array(numbers) + 0.5) / len(self.choices)
        if self.width <= 0:
            return np.full(len(values), 0.5)
        numeric = np.array(values, dtype=float)
        return ((np.log(numeric) if self.log else numeric) - self.start) / self.width

    def values(self, units: np.ndarray) -> list[Any]:
        """The inverse of `units`, with whole numbers as `int`; what lies outside of [0, 1] is moved in."""
        units = np.clip(units, 0.0, 1.0)
        if self.choices is not None:
            last = len(self.choices) - 1
            return [self.choices[min(int(u * len(self.choices)), last)] for u in units.tolist()]
        inner = self.start + units * self.width
        return [self.clip(value) for value in (np.exp(inner) if self.log else inner).tolist()]

    def clip(self, value: Any) -> Any:
        if self.choices is not None:
            if not any(_same(choice, value) for choice in self.choices):
                raise ValueError(f"a projected value {value!r} is none of {self.choices}")
            return value
        value = min(max(value, self.low), self.high)
        if self.step is not None:
            value = min(self.low + round((value - self.low) / self.step) * self.step, self.high)
        return round(value) if self.whole else float(value)
