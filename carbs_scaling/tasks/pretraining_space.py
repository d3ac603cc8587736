"""The space of pretraining, and the projection of any point to a recipe that can really be run."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from optuna.distributions import BaseDistribution

from carbs_scaling.compute.flops import flops_by_convention, flops_per_token, training_flops
from carbs_scaling.errors import ConfigError
from carbs_scaling.laws.recommend.peak import find_law, peak_learning_rate
from carbs_scaling.laws.runs.table import LawError
from carbs_scaling.models.family import ModelShape
from carbs_scaling.optimizers.optimizer import load_optimizer
from carbs_scaling.space.dimensions import (
    COUNT,
    INSIDE_UNIT,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    Rule,
    multiple_of,
    parse_dimensions,
)
from carbs_scaling.task import Point
from carbs_scaling.tasks.pretraining_config import ModelConfig
from carbs_scaling.training.recipe import OPTIMIZER_VALUES, Recipe

# Fewer steps than this leave no room for warmup and decay; such a run tells nothing about longer ones.
MINIMUM_STEPS = 10
# Dimensions that are options of the model.
LORA = ("lora_rank", "lora_alpha")


def dimension_rules(model: ModelConfig) -> dict[str, Rule]:
    """The dimensions of pretraining and what their values must be."""
    step = model.width_step
    groups = "" if step == model.head_size else " x grouped heads"
    return {
        "width": multiple_of(step, f"model.head_size{groups}"),
        "depth": COUNT,
        "learning_rate": POSITIVE,
        "batch_size": COUNT,
        "tokens_per_parameter": POSITIVE,
        "epochs": POSITIVE,
        "weight_decay": NOT_NEGATIVE,
        "beta1": SHARE,
        "beta2": INSIDE_UNIT,
        "epsilon": POSITIVE,
        "adamw_rate_ratio": POSITIVE,
        "warmup_fraction": SHARE,
        "lora_rank": COUNT,
        "lora_alpha": POSITIVE,
    }


def _require_read(searched: Iterable[str], optimizer: str) -> None:
    reads = load_optimizer(optimizer).reads
    for name in OPTIMIZER_VALUES:
        if name in searched and name not in reads:
            raise ConfigError(f"space.{name} is searched, and optimizer={optimizer} does not read it: fix it")


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


def _length_dimension(specification: Mapping[str, Any], epoch_tokens: int | None) -> str:
    """The dimension that says how long a run is."""
    named = [name for name in ("tokens_per_parameter", "epochs") if name in specification]
    if len(named) > 1:
        raise ConfigError(
            "space.epochs and space.tokens_per_parameter both say how long a run is: set one to null"
        )
    if named == ["epochs"] and epoch_tokens is None:
        raise ConfigError("space.epochs: this text has no known length; use space.tokens_per_parameter")
    return named[0] if named else "tokens_per_parameter"


class PretrainingSpace:
    """The space of a search: its searched dimensions, and the way from a point to a legal recipe.

    A point is a dict of the searched dimensions' values. Dimensions fixed by the configuration are not in it.

    Args:
        specification: `conf/space/*.yaml` as plain Python.
        model: the family of models, and the convention that FLOPs are counted in.
        vocabulary_size: of the tokenizer.
        max_trial_flops: no legal recipe costs more; infinity for no limit.
        optimizer: its name; a law of learning rates must be for it.
        classes: that the models tell apart; None for models of the next token.
        epoch_tokens: of one pass over the training data, for runs that are as long as `epochs` says.

    Raises:
        LawError: the law of learning rates does not answer.
        ConfigError: an unknown, missing or impossible dimension, one that the optimizer does not read, or no
            recipe that costs little enough.
    """

    def __init__(
        self,
        specification: Mapping[str, Any],
        model: ModelConfig,
        vocabulary_size: int,
        max_trial_flops: float = math.inf,
        optimizer: str = "adamw",
        classes: int | None = None,
        epoch_tokens: int | None = None,
    ) -> None:
        self._classes, self._epoch_tokens = classes, epoch_tokens
        specification = {name: value for name, value in specification.items() if value is not None}
        self._length = _length_dimension(specification, epoch_tokens)
        self._law, self._optimizer = _law_of_rates(specification.get("learning_rate")), optimizer
        rules = dimension_rules(model)
        sizes = model.fixed_sizes
        absent: set[str] = {name for name in ("width", "depth") if name in sizes}
        absent |= {"learning_rate"} if self._law is not None else set()
        absent |= {"epochs", "tokens_per_parameter"} - {self._length}
        absent |= {name for name in LORA if name not in specification}
        if any(name in specification for name in LORA) and not hasattr(model.options, LORA[0]):
            raise ConfigError("space.lora_rank and space.lora_alpha are for model=pretrained")
        if LORA[1] in specification and LORA[0] not in specification and not model.options.lora_rank:
            raise ConfigError("space.lora_alpha needs adapters: set space.lora_rank or model.lora_rank")
        rules = {name: rule for name, rule in rules.items() if name not in absent}
        specification = {name: value for name, value in specification.items() if name not in absent}
        self.searched, self.fixed = parse_dimensions(specification, rules)
        _require_read(self.searched, optimizer)
        self.fixed |= {name: sizes[name] for name in ("width", "depth") if name in sizes}
        self._model = model
        self._vocabulary_size = sizes.get("vocabulary_size", vocabulary_size)
        if self._vocabulary_size < vocabulary_size:
            raise ConfigError(
                f"the tokenizer has {vocabulary_size:,} tokens, the model only {self._vocabulary_size:,}"
            )
        self._convention = model.flops_convention
        self._max_trial_flops = max_trial_flops
        self._shapes: dict[tuple[float, ...], ModelShape] = {}
        self._recipe(self._cheapest)  # a law that does not answer is said now
        if self.cheapest_flops > max_trial_flops:
            shape, recipe = self._shape(self._cheapest), self._recipe(self._cheapest)
            size = f"space.batch_size (a run has {MINIMUM_STEPS} steps at least)"
            raise ConfigError(
                f"the cheapest run of this space (width {shape.width}, depth {shape.depth}, "
                f"{recipe.tokens:,} tokens) costs {self.cheapest_flops:.3g} FLOPs, "
                f"over the {max_trial_flops:.3g} that budget.flops x budget.max_trial_fraction allows: raise "
                "budget.flops or lower space.width, space.depth or "
                f"{size if recipe.steps <= MINIMUM_STEPS else f'space.{self._length}'}"
            )

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """The searched dimensions as Optuna distributions."""
        return {name: dimension.distribution() for name, dimension in self.searched.items()}

    def details(self, point: Point) -> dict[str, Any]:
        """All that a point stands for: shape, recipe, and its FLOPs in every convention."""
        recipe = self.recipe(point, seed=0)
        fields = recipe.to_dict()
        shape, family = fields.pop("shape"), recipe.shape.family
        parametrization = fields.pop("parametrization")
        shape |= {"parametrization": parametrization.pop("name"), **parametrization}
        if shape["classes"] is None:
            del shape["classes"]
        del fields["seed"], shape["options"]  # the same in all trials: `identity` of the task has them
        by_convention = flops_by_convention(recipe.shape, recipe.tokens)
        counts: dict[str, float] = {
            "params": recipe.params,
            "total_params": family.total_params(recipe.shape),
            "tokens": recipe.tokens,
            "batch_tokens": recipe.batch_tokens,
        }
        adapters = {name: getattr(recipe.shape.options, name, 0) for name in LORA}
        if adapters["lora_rank"]:
            counts |= {**adapters, "trained_params": family.trained_params(recipe.shape)}
        elif family.block_params(recipe.shape) != recipe.params:
            counts["block_params"] = family.block_params(recipe.shape)
        flops = {f"flops_{convention}": flops for convention, flops in by_convention.items()}
        return {**counts, **shape, **fields, **flops}

    @property
    def base_shape(self) -> ModelShape:
        """The shape at which a parametrization is as standard, its width rounded to whole heads."""
        head = self._model.head_size
        width = head * max(1, round(self._model.base_width / head))
        return self._shape({"width": width, "depth": self._model.base_depth})

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
        roles: dict[str, float] = {
            "params": self._shape(values).params,
            "tokens": self._steps(values) * batch_tokens,
            "batch_tokens": batch_tokens,
        }
        # A rate that follows from the others teaches nothing about its own valley.
        return roles if self._law is not None else {**roles, "learning_rate": values["learning_rate"]}

    def recipe_key(self, point: Point) -> tuple[str, ...]:
        """What runs have in common that differ in their length alone, to nine digits."""
        values = self._with_heads(self._complete(point))
        others = {name: value for name, value in values.items() if name != self._length}
        # A law's rate may depend on the length.
        rate = self._learning_rate(values)
        return tuple(f"{name}={value:.9g}" for name, value in sorted({**others, "rate": rate}.items()))

    def steps(self, point: Point) -> int:
        """Optimizer steps of a point."""
        return self._steps(self._with_heads(self._complete(point)))

    @property
    def _cheapest(self) -> Point:
        """Smallest shape, fewest tokens, smallest batch; whole steps leave it within 5% of the cheapest."""
        return {name: dimension.low for name, dimension in self.searched.items()} | self.fixed

    def _with_heads(self, values: Point) -> Point:
        """A width of whole heads: a point need not be legal to have a price."""
        if "width" not in self.searched or values["width"] % self._model.width_step == 0:
            return values
        return {**values, "width": self.searched["width"].nearest(values["width"])}

    def _complete(self, point: Point) -> Point:
        return {**self.fixed, **point}

    def _shape(self, values: Point) -> ModelShape:
        """Kept once made: a proposal prices some thousand points of a few dozen shapes."""
        sizes = (int(values["width"]), int(values["depth"]))
        changes = {
            name: kind(values[name]) for name, kind in zip(LORA, (int, float), strict=True) if name in values
        }
        key = (*sizes, *changes.values())
        if key not in self._shapes:
            self._shapes[key] = self._model.shape(*sizes, self._vocabulary_size, self._classes, **changes)
        return self._shapes[key]

    def _unit_tokens(self, shape: ModelShape) -> int:
        """Tokens of a run whose length is 1: those of an epoch, or one a parameter."""
        if self._length == "epochs" and self._epoch_tokens is not None:
            return self._epoch_tokens
        return shape.params

    def _steps(self, values: Point) -> int:
        tokens = float(values[self._length]) * self._unit_tokens(self._shape(values))
        batch_tokens = int(values["batch_size"]) * self._model.sequence_length
        return max(MINIMUM_STEPS, round(tokens / batch_tokens))

    def _learning_rate(self, values: Point) -> float:
        """The point's own, or the law's peak for this N, D and batch."""
        if self._law is None:
            return float(values["learning_rate"])
        batch_tokens = int(values["batch_size"]) * self._model.sequence_length
        params, tokens = self._shape(values).params, self._steps(values) * batch_tokens
        peak = peak_learning_rate(self._law, params, tokens, batch_tokens, self._optimizer)
        return float(peak.learning_rate)

    def _recipe(self, values: Point, seed: int = 0) -> Recipe:
        return Recipe(
            shape=self._shape(values),
            learning_rate=self._learning_rate(values),
            batch_size=int(values["batch_size"]),
            steps=self._steps(values),
            warmup_fraction=float(values["warmup_fraction"]),
            seed=seed,
            parametrization=self._model.scaling,
            **{name: float(values[name]) for name in OPTIMIZER_VALUES},
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
        shape, length = self._shape(values), self._length
        unit = self._unit_tokens(shape)
        most_tokens = self._max_trial_flops / flops_per_token(shape, self._convention)
        tokens = self.searched.get(length)
        batch = self.searched.get("batch_size")
        values = dict(values)
        if tokens is not None and values[length] * unit > most_tokens:
            values[length] = tokens.at_most(most_tokens / unit)
        if batch is not None:
            per_step = values[length] * unit / MINIMUM_STEPS
            largest = per_step / self._model.sequence_length * (1 + 1e-9)  # 73 steps of 1/73 are 73
            if values["batch_size"] > largest:
                values["batch_size"] = batch.at_most(largest)
        if tokens is not None and not tokens.ladder:
            batch_tokens = int(values["batch_size"]) * self._model.sequence_length
            steps = self._steps(values)
            if steps * batch_tokens > most_tokens:
                steps = max(MINIMUM_STEPS, math.floor(most_tokens / batch_tokens))
            exact = steps * batch_tokens / unit
            values[length] = min(max(exact, tokens.low), tokens.high)
        return values
