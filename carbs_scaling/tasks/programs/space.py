"""The space of somebody's own program: any named dimensions, and formulas of them for roles and FLOPs."""

import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from omegaconf import MISSING
from optuna.distributions import BaseDistribution, CategoricalDistribution

from carbs_scaling.compute.flops import flops_per_token
from carbs_scaling.errors import ConfigError
from carbs_scaling.formula import FUNCTIONS, Formula, Value
from carbs_scaling.laws.form.law import ROLES
from carbs_scaling.models.family import ModelShape
from carbs_scaling.space.dimensions import Dimension, Rule, multiple_of, parse_dimensions
from carbs_scaling.task import TRIALS, Point

# What a program's words and formulas may name beside dimensions and roles.
OF_A_TRIAL = ("trial", "folder", "seed", "device", "parent_folder")
RESERVED = frozenset({*OF_A_TRIAL, "flops", *FUNCTIONS})
SHAPE_SIZES = ("width", "depth", "head_size", "vocabulary_size", "sequence_length")
KEYS = {"low", "high", "log", "integer", "multiple_of", "choices", "when"}
ANY = Rule(lambda value: True, "")
WHOLE = Rule(lambda value: True, "", integer=True)


@dataclass(frozen=True)
class RolesConfig:
    """A formula or a number for each role; null where a dimension of that name says it, or nothing does."""

    params: Any = MISSING
    tokens: Any = MISSING
    learning_rate: Any = MISSING
    batch_tokens: Any = MISSING


@dataclass(frozen=True)
class ShapeConfig:
    """A model of one of our families, whose N and FLOPs are counted for the program; sizes are formulas.

    `architecture`: a family; null for none.
    """

    architecture: str | None = MISSING
    width: Any = MISSING
    depth: Any = MISSING
    head_size: Any = MISSING
    vocabulary_size: Any = MISSING
    sequence_length: Any = MISSING
    flops_convention: str = MISSING


@dataclass(frozen=True)
class Condition:
    """A dimension matters only where another has one of some values.

    Args:
        name: of the other dimension.
        values: of it.
    """

    name: str
    values: tuple[Any, ...]


class ProgramSpace:
    """Points of named dimensions, with what formulas say of them.

    A dimension that does not matter at a point, by its `when`, is held at one value there, so that points
    which differ in nothing else are one point.

    Args:
        specification: the section `space`.
        roles: of the configuration.
        shape: of the configuration.
        flops: a formula or a number; None for what the shape gives, else 6 params tokens, else 1.
        allowed: a formula that is true where a point may be run; None for everywhere.

    Attributes:
        searched: numeric dimensions by name.
        choices: categorical dimensions by name.
        fixed: values of those that have one.
        flops_convention: how FLOPs are counted.

    Raises:
        ConfigError: a dimension or formula that cannot be.
    """

    def __init__(
        self,
        specification: Mapping[str, Any],
        roles: RolesConfig,
        shape: ShapeConfig,
        flops: Any = None,
        allowed: str | None = None,
    ) -> None:
        self.searched: dict[str, Dimension] = {}
        self.choices: dict[str, tuple[Any, ...]] = {}
        self.fixed: dict[str, Value] = {}
        self.conditions: dict[str, Condition] = {}
        self._order = list(specification)
        for name, given in specification.items():
            self._add(str(name), given)
        names = frozenset(self._order)
        self._shape = self._shape_formulas(shape, names)
        self._roles: dict[str, Formula] = {}
        for role in ROLES:
            given = getattr(roles, role)
            if given is None and role in names:
                given = role
            if given is not None:
                known = names | (self._roles.keys() - {role}) | ({"params"} if self._shape else set())
                self._roles[role] = Formula(str(given), f"task.roles.{role}").require_names(known)
        self.role_names = frozenset(self._roles) | ({"params"} if self._shape else set())
        self.known = names | self.role_names
        self._flops = None if flops is None else Formula(str(flops), "task.flops").require_names(self.known)
        self._allowed = (
            None if allowed is None else Formula(allowed, "task.allowed").require_names(self.known)
        )
        if self._flops is not None:
            self.flops_convention = f"task.flops={self._flops.text}"
        elif self._shape and "tokens" in self.role_names:
            self.flops_convention = shape.flops_convention
        else:
            self.flops_convention = "6N" if {"params", "tokens"} <= self.role_names else TRIALS
        self._check_somewhere()

    def _add(self, name: str, given: Any) -> None:
        """One dimension of the section."""
        if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) or keyword.iskeyword(name) or name in RESERVED:
            raise ConfigError(f"space.{name}: a dimension needs another name, of letters, digits and _")
        given = dict(given) if isinstance(given, Mapping) else given
        if isinstance(given, dict):
            unknown = sorted(set(given) - KEYS)
            if unknown:
                raise ConfigError(f"space.{name}.{unknown[0]} is not one of {', '.join(sorted(KEYS))}")
            if given.get("when") is not None:
                self.conditions[name] = self._condition(name, given["when"])
            given.pop("when", None)
            if "choices" in given:
                if set(given) != {"choices"}:
                    raise ConfigError(f"space.{name}: choices stand alone, or with when")
                self._add_choices(name, given["choices"])
                return
            rule = WHOLE if given.pop("integer", False) else ANY
            if (factor := given.pop("multiple_of", None)) is not None:
                if not isinstance(factor, int) or factor < 1:
                    raise ConfigError(f"space.{name}.multiple_of={factor} must be a whole number from 1 up")
                rule = multiple_of(factor, f"space.{name}.multiple_of")
            self._add_numbers(name, given, rule)
        elif isinstance(given, list) and any(_number(value) is None for value in given):
            self._add_choices(name, given)
        elif isinstance(given, list):
            given = [_number(value) for value in given]
            self._add_numbers(name, given, WHOLE if all(isinstance(v, int) for v in given) else ANY)
        else:
            value = _number(given)
            self.fixed[name] = given if value is None else value
            if not isinstance(self.fixed[name], bool | int | float | str):
                raise ConfigError(f"space.{name}={given} must be a range, a list, a number or a text")

    def _add_numbers(self, name: str, given: Any, rule: Rule) -> None:
        searched, fixed = parse_dimensions({name: given}, {name: rule})
        self.searched |= searched
        self.fixed |= fixed

    def _add_choices(self, name: str, given: Any) -> None:
        plain = isinstance(given, list) and all(isinstance(v, bool | int | float | str) for v in given)
        if not plain or len(given) < 1 or len({(type(v), v) for v in given}) < len(given):
            raise ConfigError(f"space.{name}={given} must be a list of different texts or numbers")
        if len(given) == 1:
            self.fixed[name] = given[0]
        else:
            self.choices[name] = tuple(given)

    def _condition(self, name: str, given: Any) -> Condition:
        if not isinstance(given, Mapping) or len(given) != 1:
            raise ConfigError(f"space.{name}.when must name one dimension, such as {{optimizer: sgd}}")
        ((parent, values),) = given.items()
        if parent not in self.choices and parent not in self.fixed:
            raise ConfigError(
                f"space.{name}.when={parent}: name a categorical dimension that stands above it"
            )
        values = tuple(values) if isinstance(values, list) else (values,)
        known = self.choices.get(parent)
        if known is not None and not set(values) <= set(known):
            raise ConfigError(f"space.{name}.when: {parent} is one of {', '.join(map(str, known))}")
        return Condition(str(parent), values)

    def _shape_formulas(self, shape: ShapeConfig, names: frozenset[str]) -> dict[str, Formula]:
        self._architecture, self._convention = shape.architecture, shape.flops_convention
        if shape.architecture is None:
            return {}
        formulas = {}
        for size in SHAPE_SIZES:
            given = getattr(shape, size)
            given = size if given is None and size in names else given
            if given is None:
                raise ConfigError(f"task.shape.{size} is missing: give it a number or a formula")
            formulas[size] = Formula(str(given), f"task.shape.{size}").require_names(names)
        return formulas

    def _check_somewhere(self) -> None:
        """Raises ConfigError where a formula has no value at the lowest or the highest values."""
        for end in ("low", "high"):
            point: Point = {name: getattr(d, end) for name, d in self.searched.items()}
            point |= {name: values[0 if end == "low" else -1] for name, values in self.choices.items()}
            legal = self.project({name: point[name] for name in self.distributions})
            if self.may_run(legal):
                self.flops(legal)

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """The searched dimensions, in the order of the configuration."""
        return {
            name: self.searched[name].distribution()
            if name in self.searched
            else CategoricalDistribution(self.choices[name])
            for name in self._order
            if name not in self.fixed
        }

    def project(self, point: Point) -> Point:
        """The nearest allowed values; those of dimensions that do not matter are the middle ones."""
        legal = {
            name: dimension.nearest(point[name]) if (dimension := self.searched.get(name)) else point[name]
            for name in self.distributions
        }
        off = self.not_applying(legal)
        for name in legal:
            if name in off:
                legal[name] = self._middle(name)
        return legal

    def _middle(self, name: str) -> Any:
        if name in self.choices:
            return self.choices[name][0]
        dimension = self.searched[name]
        low, high = dimension.low, dimension.high
        return dimension.nearest((low * high) ** 0.5 if dimension.log else (low + high) / 2)

    def not_applying(self, point: Point) -> frozenset[str]:
        """Dimensions that do not matter at a point, and roles that are read off one of them."""
        values, off = {**self.fixed, **point}, set()
        for name, condition in self.conditions.items():
            if condition.name in off or values[condition.name] not in condition.values:
                off.add(name)
        for role, formula in self._roles.items():
            if formula.names & off:
                off.add(role)
        return frozenset(off)

    def values(self, point: Point) -> dict[str, Value]:
        """Dimensions, fixed values, and roles that apply.

        Raises:
            ConfigError: a formula without a value there.
        """
        values: dict[str, Value] = {**self.fixed, **point}
        if self._shape:
            values["params"] = self.shape(values).params
        off = self.not_applying(point)
        for role, formula in self._roles.items():
            if role not in off and formula.text != role:
                values[role] = formula(values)
        return values

    def shape(self, values: Mapping[str, Value]) -> ModelShape:
        """The model of `task.shape`, its width of whole heads: a point that may not be run has a price too.

        Raises:
            ConfigError: no model of the family.
        """
        assert self._architecture is not None
        sizes = self._sizes(values)
        heads = max(1, round(sizes["width"] / sizes["head_size"]))
        return ModelShape(self._architecture, **{**sizes, "width": heads * sizes["head_size"]})

    def _sizes(self, values: Mapping[str, Value]) -> dict[str, int]:
        return {name: max(1, round(formula.number(values))) for name, formula in self._shape.items()}

    def roles(self, point: Point) -> dict[str, float]:
        """Roles that apply at a point and are positive there."""
        values, off = self.values(point), self.not_applying(point)
        roles = {role: values[role] for role in ROLES if role in self.role_names and role not in off}
        numbers = {r: float(v) for r, v in roles.items() if isinstance(v, int | float)}
        return {role: number for role, number in numbers.items() if 0 < number < float("inf")}

    def flops(self, point: Point) -> float:
        """What a run costs.

        Raises:
            ConfigError: the formula has no positive value there.
        """
        values = self.values(point)
        if self._flops is not None:
            flops = self._flops.number(values)
        elif self.flops_convention == TRIALS:
            flops = 1.0
        else:
            roles = self.roles(point)
            if not {"params", "tokens"} <= roles.keys():
                raise ConfigError(f"params and tokens must be positive at {point}, or task.flops be given")
            per_token = 6.0 * roles["params"]
            if self._shape:
                per_token = flops_per_token(self.shape(values), self._convention)
            flops = per_token * roles["tokens"]
        if not 0 < flops < float("inf"):
            raise ConfigError(f"task.flops gives {flops:g} at {point}: it must be positive")
        return flops

    def may_run(self, point: Point) -> bool:
        """Whether `task.allowed` holds, and the width of a shape is one of whole heads."""
        if self._shape:
            sizes = self._sizes({**self.fixed, **point})
            if sizes["width"] % sizes["head_size"]:
                return False
        return self._allowed is None or bool(self._allowed(self.values(point)))

    def details(self, point: Point) -> dict[str, Any]:
        """Fixed values, and the sizes of the shape."""
        details: dict[str, Any] = dict(self.fixed)
        if self._shape:
            values = {**self.fixed, **point}
            details |= self._sizes(values)
        return {name: value for name, value in details.items() if name not in point}


def _number(value: Any) -> int | float | None:
    """A number as YAML and people write it, 1e-3 too; None for any other value."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
        return int(value) if value.is_integer() else value
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
