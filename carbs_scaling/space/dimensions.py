"""Dimensions as a configuration gives them: a range, a ladder of values, or a number. It knows no names.

A task says by a `Rule` for each of its dimensions what their values must be.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from carbs_scaling.errors import ConfigError

LARGEST_INTEGER = 1_000_000  # of a whole-number range, whose values are listed


@dataclass(frozen=True)
class Rule:
    """What the values of a dimension must satisfy.

    Args:
        legal: whether a value may be.
        requirement: what is wrong with one that may not, such as `must be positive`.
        integer: whether only whole numbers make sense.
        default: value where the configuration has none; None where it must have one.
    """

    legal: Callable[[float], bool]
    requirement: str
    integer: bool = False
    default: float | None = None


POSITIVE = Rule(lambda value: value > 0, "must be positive")
NOT_NEGATIVE = Rule(lambda value: value >= 0, "must not be negative")
COUNT = Rule(lambda value: value >= 1, "must be at least 1", integer=True)
INSIDE_UNIT = Rule(lambda value: 0 < value < 1, "must lie between 0 and 1")
SHARE = Rule(lambda value: 0 <= value < 1, "must lie in [0, 1)")


def multiple_of(factor: int, name: str) -> Rule:
    """Positive multiples of a whole number, which `name` says for people."""
    return Rule(
        lambda value: value >= 1 and value % factor == 0,
        f"must be a positive multiple of {name}={factor}",
        integer=True,
    )


@dataclass(frozen=True)
class Dimension:
    """One searched quantity: a range, or a ladder of allowed values inside it.

    Args:
        name: of the dimension.
        low, high: the range, both included.
        log: whether distances on it are ratios.
        integer: whether only whole numbers make sense.
        ladder: the only values allowed, ascending; empty for all of the range.
    """

    name: str
    low: float
    high: float
    log: bool
    integer: bool = False
    ladder: tuple[float, ...] = ()

    def distribution(self) -> BaseDistribution:
        """The range as Optuna knows it; the ladder is for `nearest`."""
        if self.integer:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def values(self) -> tuple[float, ...]:
        """All allowed values of a ladder or of whole numbers, ascending."""
        return self.ladder or tuple(range(int(self.low), int(self.high) + 1))

    def at_most(self, value: float) -> float:
        """The largest allowed value up to `value`, or the lowest of all."""
        if self.ladder:
            return max((v for v in self.ladder if v <= value), default=self.low)
        return max(math.floor(value) if self.integer else value, self.low)

    def nearest(self, value: float) -> float:
        """The nearest allowed value, in logs where `log`."""
        value = min(max(value, self.low), self.high)
        if self.ladder:
            value = min(self.ladder, key=lambda v: abs(math.log(v / value) if self.log else v - value))
        return round(value) if self.integer else float(value)


def parse_dimensions(
    specification: Mapping[str, Any], rules: Mapping[str, Rule]
) -> tuple[dict[str, Dimension], dict[str, float]]:
    """The searched dimensions and the fixed values of a `space` section, both in the order of `rules`.

    Raises:
        ConfigError: a dimension that is unknown, missing or impossible.
    """
    unknown = sorted(set(specification) - set(rules))
    if unknown:
        raise ConfigError(f"space.{unknown[0]} is not a dimension; there are {', '.join(rules)}")
    searched: dict[str, Dimension] = {}
    fixed: dict[str, float] = {}
    for name, rule in rules.items():
        given = specification.get(name, rule.default)
        if given is None:
            raise ConfigError(f"space.{name} is missing: give it a value or a range")
        parsed = _parse(name, given, rule)
        if isinstance(parsed, Dimension):
            searched[name] = parsed
        else:
            fixed[name] = parsed
    return searched, fixed


def _parse(name: str, given: Any, rule: Rule) -> Dimension | float:
    if isinstance(given, Mapping):
        return _range(name, given, rule)
    if isinstance(given, list | tuple):
        return _ladder(name, given, rule)
    value = _number(name, given, rule)
    if not rule.legal(value):
        raise ConfigError(f"space.{name}={value:g} {rule.requirement}")
    return value


def _range(name: str, given: Mapping[str, Any], rule: Rule) -> Dimension | float:
    if set(given) - {"low", "high", "log"} or not {"low", "high"} <= set(given):
        raise ConfigError(f"space.{name} must be {{low: ..., high: ..., log: true|false}}, not {dict(given)}")
    low, high = (_number(name, given[key], rule) for key in ("low", "high"))
    log = given.get("log", False)
    if not isinstance(log, bool):
        raise ConfigError(f"space.{name}: log must be true or false, not {log!r}")
    if low > high:
        raise ConfigError(f"space.{name}: low {low} is above high {high}")
    if log and low <= 0:
        raise ConfigError(f"space.{name}: a range on a log scale must start above 0, not at {low}")
    if not rule.integer:
        if not (rule.legal(low) and rule.legal(high)):
            raise ConfigError(f"space.{name}: {low} to {high} {rule.requirement}")
        return low if low == high else Dimension(name, low, high, log)
    if high > LARGEST_INTEGER:
        raise ConfigError(f"space.{name}: high {high:g} is above {LARGEST_INTEGER:,}")
    values = [v for v in range(int(low), int(high) + 1) if rule.legal(v)]
    if not values:
        raise ConfigError(f"space.{name}: no whole number from {low} to {high} {rule.requirement}")
    if len(values) == 1:
        return values[0]
    stepped = len(values) < values[-1] - values[0] + 1
    return Dimension(name, values[0], values[-1], log, True, tuple(values) if stepped else ())


def _ladder(name: str, given: list[Any] | tuple[Any, ...], rule: Rule) -> Dimension | float:
    ladder = tuple(sorted({_number(name, value, rule) for value in given}))
    if not ladder:
        raise ConfigError(f"space.{name}=[] has no value to choose from")
    for value in ladder:
        if not rule.legal(value):
            raise ConfigError(f"space.{name}: {value} {rule.requirement}")
    if len(ladder) == 1:
        return ladder[0]
    return Dimension(name, ladder[0], ladder[-1], ladder[0] > 0, rule.integer, ladder)


def _number(name: str, value: Any, rule: Rule) -> float:
    if isinstance(value, str):
        try:
            value = float(value)  # YAML reads 1e-3 (without a dot) as text
        except ValueError:
            raise ConfigError(f"space.{name}={value!r} is not a number") from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"space.{name}={value!r} is not a number")
    if rule.integer and value != int(value):
        raise ConfigError(f"space.{name}={value} must be a whole number")
    return value
