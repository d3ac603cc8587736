"""Between Optuna distributions and the unit cube, where the Gaussian process lives."""

from dataclasses import dataclass, field
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
    _scales: dict = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name, distribution in self.distributions.items():
            if not isinstance(distribution, FloatDistribution | IntDistribution | CategoricalDistribution):
                raise ValueError(f"{name}: unsupported distribution {type(distribution).__name__}")
            self._scales[name] = _Scale.of(distribution)

    @property
    def knobs(self) -> int:
        """Number of dimensions as proposed."""
        return len(self.distributions)

    def point(self, knobs: np.ndarray) -> dict:
        """The point at `knobs`, shape (k,), in [0, 1]; always inside the distributions."""
        return {
            name: scale.value(u)
            for (name, scale), u in zip(self._scales.items(), knobs.tolist(), strict=True)
        }

    def position(self, point: dict) -> np.ndarray:
        """The inverse of `point`, shape (k,); a categorical choice is at the middle of its interval."""
        return np.array([scale.unit(point[name]) for name, scale in self._scales.items()])

    def row(self, point: dict) -> np.ndarray:
        """Unit-cube columns of a point, shape (d,) with d >= k where there are categorical dimensions."""
        columns: list[float] = []
        for name, scale in self._scales.items():
            if scale.choices is not None:
                columns += [float(_same(choice, point[name])) for choice in scale.choices]
            else:
                columns.append(scale.unit(point[name]))
        return np.array(columns)

    def spread_to_columns(self, of_knobs: np.ndarray) -> np.ndarray:
        """What is said of each dimension (k,) said of its columns (d,)."""
        widths = [1 if scale.choices is None else len(scale.choices) for scale in self._scales.values()]
        return np.repeat(of_knobs, widths)

    def clip(self, point: dict) -> dict:
        """The nearest point inside the distributions, with whole numbers as `int`.

        Raises:
            ValueError: a categorical value that is none of the choices, or a missing name.
        """
        missing = [name for name in self.distributions if name not in point]
        if missing:
            raise ValueError(f"a projected point lacks {', '.join(missing)}")
        return {name: scale.clip(point[name]) for name, scale in self._scales.items()}

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
    choices: tuple | None

    @staticmethod
    def of(distribution: BaseDistribution) -> "_Scale":
        if isinstance(distribution, CategoricalDistribution):
            return _Scale(0.0, 1.0, 0.0, 1.0, False, None, False, tuple(distribution.choices))
        low, high = distribution.low, distribution.high
        start, end = (log(low), log(high)) if distribution.log else (float(low), float(high))
        whole = isinstance(distribution, IntDistribution)
        step = None if whole and distribution.step == 1 else distribution.step
        return _Scale(low, high, start, end - start, distribution.log, step, whole, None)

    def unit(self, value) -> float:
        if self.choices is not None:
            index = next(i for i, choice in enumerate(self.choices) if _same(choice, value))
            return (index + 0.5) / len(self.choices)
        if self.width <= 0:
            return 0.5
        return ((log(value) if self.log else value) - self.start) / self.width

    def value(self, u: float):
        u = min(max(u, 0.0), 1.0)
        if self.choices is not None:
            return self.choices[min(int(u * len(self.choices)), len(self.choices) - 1)]
        inner = self.start + u * self.width
        return self.clip(exp(inner) if self.log else inner)

    def clip(self, value):
        if self.choices is not None:
            if not any(_same(choice, value) for choice in self.choices):
                raise ValueError(f"a projected value {value!r} is none of {self.choices}")
            return value
        value = min(max(value, self.low), self.high)
        if self.step is not None:
            value = min(self.low + round((value - self.low) / self.step) * self.step, self.high)
        return round(value) if self.whole else float(value)
