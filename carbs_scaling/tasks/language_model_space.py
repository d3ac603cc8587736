"""What may be proposed, and the projection of any point to a recipe that can really be run."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from carbs_scaling.compute.flops import ModelShape, flops_per_token, training_flops
from carbs_scaling.config import ModelConfig
from carbs_scaling.errors import ConfigError
from carbs_scaling.laws.recommend.peak import find_law, peak_learning_rate
from carbs_scaling.laws.runs.table import LawError
from carbs_scaling.trial import Recipe

INTEGER_DIMENSIONS = ("width", "depth", "batch_size")
DIMENSIONS = (
    "width",
    "depth",
    "learning_rate",
    "batch_size",
    "tokens_per_parameter",
    "weight_decay",
    "beta2",
    "warmup_fraction",
)
# Fewer steps than this leave no room for warmup and decay; such a run tells nothing about longer ones.
MINIMUM_STEPS = 10
LARGEST_INTEGER = 1_000_000  # of a width, depth or batch; a range's whole numbers are listed

Point = dict[str, float]


@dataclass(frozen=True)
class Dimension:
    """One searched quantity: a range, or a ladder of allowed values inside it.

    Args:
        name: one of `DIMENSIONS`.
        low, high: the range, both included.
        log: whether distances on it are ratios.
        ladder: the only values allowed, ascending; empty for all of the range.
    """

    name: str
    low: float
    high: float
    log: bool
    ladder: tuple[float, ...] = ()

    @property
    def integer(self) -> bool:
        """Whether only whole numbers make sense."""
        return self.name in INTEGER_DIMENSIONS

    def distribution(self) -> BaseDistribution:
        """The range as Optuna knows it; the ladder is the projection's affair."""
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
            distance = (lambda v: abs(math.log(v / value))) if self.log else (lambda v: abs(v - value))
            value = min(self.ladder, key=distance)
        return round(value) if self.integer else float(value)


def _number(name: str, value: Any) -> float:
    if isinstance(value, str):
        try:
            value = float(value)  # YAML reads 1e-3 (without a dot) as text
        except ValueError:
            raise ConfigError(f"space.{name}={value!r} is not a number") from None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConfigError(f"space.{name}={value!r} is not a number")
    if name in INTEGER_DIMENSIONS and value != int(value):
        raise ConfigError(f"space.{name}={value} must be a whole number")
    return value


def _parse(name: str, spec: Any, legal: Callable[[float], bool], rule: str) -> Dimension | float:
    """A dimension of `conf/space/*.yaml`: a mapping (range), a list (ladder) or a number (fixed)."""
    if isinstance(spec, Mapping):
        unknown = set(spec) - {"low", "high", "log"}
        if unknown or not {"low", "high"} <= set(spec):
            raise ConfigError(
                f"space.{name} must be {{low: ..., high: ..., log: true|false}}, not {dict(spec)}"
            )
        low, high = (_number(f"{name}", spec[key]) for key in ("low", "high"))
        log = spec.get("log", False)
        if not isinstance(log, bool):
            raise ConfigError(f"space.{name}: log must be true or false, not {log!r}")
        if low > high:
            raise ConfigError(f"space.{name}: low {low} is above high {high}")
        if log and low <= 0:
            raise ConfigError(f"space.{name}: a range on a log scale must start above 0, not at {low}")
        values = None
        if name in INTEGER_DIMENSIONS and high > LARGEST_INTEGER:
            raise ConfigError(f"space.{name}: high {high:g} is above {LARGEST_INTEGER:,}")
        if name in INTEGER_DIMENSIONS:
            values = [v for v in range(int(low), int(high) + 1) if legal(v)]
            if not values:
                raise ConfigError(f"space.{name}: no whole number from {low} to {high} {rule}")
            low, high = values[0], values[-1]
        elif not (legal(low) and legal(high)):
            raise ConfigError(f"space.{name}: {low} to {high} {rule}")
        if low == high:
            return low
        stepped = values is not None and len(values) < high - low + 1
        return Dimension(name, low, high, log, tuple(values) if stepped else ())
    if isinstance(spec, (list, tuple)):
        ladder = tuple(sorted({_number(name, value) for value in spec}))
        if not ladder:
            raise ConfigError(f"space.{name}=[] has no value to choose from")
        for value in ladder:
            if not legal(value):
                raise ConfigError(f"space.{name}: {value} {rule}")
        if len(ladder) == 1:
            return ladder[0]
        return Dimension(name, ladder[0], ladder[-1], ladder[0] > 0, ladder)
    value = _number(name, spec)
    if not legal(value):
        raise ConfigError(f"space.{name}={value:g} {rule}")
    return value


def _law_of_rates(spec: Any) -> Any:
    """The law, a file or a published one, that a learning rate given as text names; None for any other."""
    if not isinstance(spec, str):
        return None
    try:
        float(spec)
    except ValueError:
        pass
    else:
        return None
    try:
        return find_law(spec)
    except LawError as error:
        raise ConfigError(f"space.learning_rate={spec!r} is not a number, nor a law: {error}") from None


def _rules(model: ModelConfig) -> dict[str, tuple[Callable[[float], bool], str]]:
    """What each dimension's values must satisfy, and how to say that one does not."""
    positive = (lambda v: v > 0, "must be positive")
    count = (lambda v: v >= 1, "must be at least 1")
    return {
        "width": (
            lambda v: v >= 1 and v % model.head_size == 0,
            f"must be a multiple of model.head_size={model.head_size}",
        ),
        "depth": count,
        "learning_rate": positive,
        "batch_size": count,
        "tokens_per_parameter": positive,
        "weight_decay": (lambda v: v >= 0, "must not be negative"),
        "beta2": (lambda v: 0 < v < 1, "must lie between 0 and 1"),
        "warmup_fraction": (lambda v: 0 <= v < 1, "must lie in [0, 1)"),
    }


class Space:
    """The space of a search: its searched dimensions, and the way from a point to a legal recipe.

    A point is a dict of the searched dimensions' values. Dimensions fixed by the configuration are not in it.

    Args:
        specification: `conf/space/*.yaml` as plain Python.
        model: the family of models.
        vocabulary_size: of the tokenizer.
        convention: FLOPs convention that runs are charged in.
        max_trial_flops: no legal recipe costs more; infinity for no limit.
        optimizer: `adamw` or `sgd`, which a law of learning rates must be for.

    Raises:
        LawError: the law of learning rates does not answer.
        ConfigError: an unknown, missing or impossible dimension, or no recipe that costs little enough.
    """

    def __init__(
        self,
        specification: Mapping[str, Any],
        model: ModelConfig,
        vocabulary_size: int,
        convention: str,
        max_trial_flops: float = math.inf,
        optimizer: str = "adamw",
    ) -> None:
        unknown = sorted(set(specification) - set(DIMENSIONS))
        if unknown:
            raise ConfigError(f"space.{unknown[0]} is not a dimension; there are {', '.join(DIMENSIONS)}")
        missing = sorted(set(DIMENSIONS) - set(specification))
        if missing:
            raise ConfigError(f"space.{missing[0]} is missing: give it a value or a range")
        rules = _rules(model)
        self._law, self._optimizer = _law_of_rates(specification["learning_rate"]), optimizer
        given = [name for name in DIMENSIONS if name != "learning_rate" or self._law is None]
        parsed = {name: _parse(name, specification[name], *rules[name]) for name in given}
        self._model = model
        self._vocabulary_size = vocabulary_size
        self._convention = convention
        self._max_trial_flops = max_trial_flops
        self._shapes: dict[tuple[int, int], ModelShape] = {}
        self.searched: dict[str, Dimension] = {n: d for n, d in parsed.items() if isinstance(d, Dimension)}
        self.fixed: Point = {n: d for n, d in parsed.items() if not isinstance(d, Dimension)}
        if not self.searched:
            raise ConfigError("space: every dimension is fixed; give at least one a range")
        self._recipe(self._cheapest)  # a law that does not answer is said now
        if self.cheapest_flops > max_trial_flops:
            shape = self._shape(self._cheapest)
            raise ConfigError(
                f"the cheapest run of this space (width {shape.width}, depth {shape.depth}, "
                f"{self._recipe(self._cheapest).tokens:,} tokens) costs {self.cheapest_flops:.3g} FLOPs, "
                f"over the {max_trial_flops:.3g} that budget.flops x budget.max_trial_fraction allows: raise "
                "budget.flops or lower space.width, space.depth or space.tokens_per_parameter"
            )

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """The searched dimensions as Optuna distributions."""
        return {name: dimension.distribution() for name, dimension in self.searched.items()}

    @property
    def cheapest_flops(self) -> float:
        """Training FLOPs of the cheapest legal recipe."""
        return self._flops(self._cheapest)

    def project(self, point: Point) -> Point:
        """The nearest legal point: allowed values, whole steps, at most `max_trial_flops`.

        A run that costs too much gets fewer tokens; where the fewest are too many, it is made shallower and
        then narrower. Projecting twice changes nothing.
        """
        values = self._complete(point)
        for name, dimension in self.searched.items():
            values[name] = dimension.nearest(values[name])
        for shape in self._shapes_down_from(values):
            legal = self._whole_steps({**values, **shape})
            if self._flops(legal) <= self._max_trial_flops:
                break
        else:
            legal = self._cheapest
        return {name: legal[name] for name in self.searched}

    def recipe(self, point: Point, seed: int) -> Recipe:
        """The training run that a legal point stands for."""
        return self._recipe(self._complete(point), seed)

    def flops(self, point: Point) -> float:
        """Training FLOPs of a point, known before it is run; its width may be any."""
        return self._flops(self._with_heads(self._complete(point)))

    def roles(self, point: Point) -> dict[str, float]:
        """What the scaling law reads from a point: N, D, batch in tokens, and a learning rate of its own."""
        values = self._with_heads(self._complete(point))
        batch_tokens = int(values["batch_size"]) * self._model.sequence_length
        roles = {
            "params": self._shape(values).params,
            "tokens": self._steps(values) * batch_tokens,
            "batch_tokens": batch_tokens,
        }
        # A rate that follows from the others teaches nothing about its own valley.
        return roles if self._law is not None else {**roles, "learning_rate": values["learning_rate"]}

    @property
    def _cheapest(self) -> Point:
        """Smallest shape, fewest tokens, smallest batch; whole steps leave it within 5% of the cheapest."""
        return {name: dimension.low for name, dimension in self.searched.items()} | self.fixed

    def _with_heads(self, values: Point) -> Point:
        """A width of whole heads: a point need not be legal to have a price."""
        if values["width"] % self._model.head_size == 0:
            return values
        return {**values, "width": self.searched["width"].nearest(values["width"])}

    def _complete(self, point: Point) -> Point:
        return {**self.fixed, **point}

    def _shape(self, values: Point) -> ModelShape:
        """Kept once made: a proposal prices some thousand points of a few dozen shapes."""
        key = (int(values["width"]), int(values["depth"]))
        if key not in self._shapes:
            self._shapes[key] = ModelShape(
                architecture=self._model.architecture,
                width=key[0],
                depth=key[1],
                head_size=self._model.head_size,
                vocabulary_size=self._vocabulary_size,
                sequence_length=self._model.sequence_length,
            )
        return self._shapes[key]

    def _steps(self, values: Point) -> int:
        params = self._shape(values).params
        batch_tokens = int(values["batch_size"]) * self._model.sequence_length
        return max(MINIMUM_STEPS, round(values["tokens_per_parameter"] * params / batch_tokens))

    def _learning_rate(self, values: Point) -> float:
        """The point's own, or the law's peak for this N, D and batch."""
        if self._law is None:
            return float(values["learning_rate"])
        batch_tokens = int(values["batch_size"]) * self._model.sequence_length
        params, tokens = self._shape(values).params, self._steps(values) * batch_tokens
        return peak_learning_rate(self._law, params, tokens, batch_tokens, self._optimizer).learning_rate

    def _recipe(self, values: Point, seed: int = 0) -> Recipe:
        return Recipe(
            shape=self._shape(values),
            learning_rate=self._learning_rate(values),
            batch_size=int(values["batch_size"]),
            steps=self._steps(values),
            weight_decay=float(values["weight_decay"]),
            beta2=float(values["beta2"]),
            warmup_fraction=float(values["warmup_fraction"]),
            seed=seed,
        )

    def _flops(self, values: Point) -> float:
        tokens = self._steps(values) * int(values["batch_size"]) * self._model.sequence_length
        return training_flops(self._shape(values), tokens, self._convention)

    def _shapes_down_from(self, values: Point) -> Iterator[Point]:
        """This shape, then shallower ones, then narrower ones at the least depth."""
        yield {}
        depths, widths = (
            [v for v in self.searched[name].values() if v < values[name]] if name in self.searched else []
            for name in ("depth", "width")
        )
        for depth in reversed(depths):
            yield {"depth": depth}
        shallowest = {"depth": depths[0]} if depths else {}
        for width in reversed(widths):
            yield {"width": width, **shallowest}

    def _whole_steps(self, values: Point) -> Point:
        """The same shape with a whole number of steps, at least `MINIMUM_STEPS`, within the limit on cost.

        First the tokens are cut to what the limit pays, then a batch too large for the steps is made smaller,
        then the tokens are those of the steps that will be run.
        """
        shape = self._shape(values)
        most_tokens = self._max_trial_flops / flops_per_token(shape, self._convention)
        tokens = self.searched.get("tokens_per_parameter")
        batch = self.searched.get("batch_size")
        values = dict(values)
        if tokens is not None and values["tokens_per_parameter"] * shape.params > most_tokens:
            values["tokens_per_parameter"] = tokens.at_most(most_tokens / shape.params)
        if batch is not None:
            per_step = values["tokens_per_parameter"] * shape.params / MINIMUM_STEPS
            largest = per_step / self._model.sequence_length * (1 + 1e-9)  # 73 steps of 1/73 are 73
            if values["batch_size"] > largest:
                values["batch_size"] = batch.at_most(largest)
        if tokens is not None and not tokens.ladder:
            batch_tokens = int(values["batch_size"]) * self._model.sequence_length
            steps = self._steps(values)
            if steps * batch_tokens > most_tokens:
                steps = max(MINIMUM_STEPS, math.floor(most_tokens / batch_tokens))
            exact = steps * batch_tokens / shape.params
            values["tokens_per_parameter"] = min(max(exact, tokens.low), tokens.high)
        return values
