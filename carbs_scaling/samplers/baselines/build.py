"""The samplers that a search is compared with, by the names that `conf/sampler/` gives them."""

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler

from carbs_scaling.errors import ConfigError
from carbs_scaling.samplers.baselines.grid import CarefulGrid, grid_points
from carbs_scaling.samplers.baselines.imbue_carbs import ImbueCarbs
from carbs_scaling.samplers.baselines.projected import ProjectedSampler
from carbs_scaling.samplers.baselines.sobol import SobolSampler
from carbs_scaling.space.projection import LegalSpace, Point

# Each with the options that it has.
BASELINES: dict[str, tuple[str, ...]] = {
    "random": (),
    "sobol": (),
    "grid": (),
    "imbue_carbs": ("start",),
    "tpe": (),
    "nsga2": ("population_size",),
    "optuna_gp": (),
    "qlognehvi": ("startup_trials",),
}
# Proposals looked at for a trial; those that fit a model for each are slow.
_ATTEMPTS, _ATTEMPTS_WITH_MODEL = 50, 8
_SLOW = ("optuna_gp", "qlognehvi")


def build_baseline(
    name: str,
    space: LegalSpace,
    budget_flops: float,
    seed: int,
    until_spent: bool = True,
    **options: Any,
) -> ProjectedSampler:
    """The sampler called `name` of `BASELINES`, held to legal points and to the budget.

    Args:
        name: one of `BASELINES`.
        space: what may be run.
        budget_flops: what all trials together may cost.
        seed: proposals are a function of it, the trial's number and the other trials.
        until_spent: whether random points that can be paid stand in where its own cannot; else it ends there.
        options: `start` of `imbue_carbs`, values of the point that it starts around (what is not named is in
            the middle of its range); `population_size` of `nsga2`; `startup_trials` of `qlognehvi`.

    Raises:
        ConfigError: an unknown name or option, or a value that an option cannot have.
    """
    if name not in BASELINES:
        raise ConfigError(f"sampler.name={name} is not one of {', '.join(BASELINES)}")
    unknown = [option for option in options if option not in BASELINES[name]]
    if unknown:
        has = ", ".join(BASELINES[name]) or "none"
        raise ConfigError(f"sampler.{unknown[0]} is not an option of {name}, which has {has}")
    base_for = _base_for(name, space, budget_flops, seed, options)
    attempts = _ATTEMPTS_WITH_MODEL if name in _SLOW else _ATTEMPTS
    return ProjectedSampler(base_for, space, budget_flops, attempts, seed if until_spent else None)


def _base_for(
    name: str, space: LegalSpace, budget_flops: float, seed: int, options: Mapping[str, Any]
) -> Callable[[int], BaseSampler]:
    """Trial number -> a sampler that was never asked before, so that its answer depends on nothing else."""
    if name == "sobol":
        return lambda _: SobolSampler(space, seed)
    if name == "grid":
        points = grid_points(space, budget_flops)
        return lambda _: CarefulGrid(space, points)
    if name == "imbue_carbs":
        start = start_point(space, options.get("start", {}))
        return lambda _: ImbueCarbs(space, seed, start, budget_flops)
    if name == "qlognehvi":
        from carbs_scaling.samplers.baselines.qlognehvi import QLogNEHVI  # BoTorch takes seconds to import

        startup_trials = _count("startup_trials", options.get("startup_trials"), least=1)
        return lambda _: QLogNEHVI(space, seed, startup_trials)
    samplers = optuna.samplers
    if name == "random":
        return lambda number: samplers.RandomSampler(seed=_seed_of(seed, number))
    if name == "tpe":
        return lambda number: samplers.TPESampler(seed=_seed_of(seed, number), multivariate=True)
    if name == "optuna_gp":
        return lambda number: samplers.GPSampler(seed=_seed_of(seed, number))
    population = _count("population_size", options.get("population_size", 20), least=2)
    return lambda number: samplers.NSGAIISampler(seed=_seed_of(seed, number), population_size=population)


def start_point(space: LegalSpace, given: Any) -> Point:
    """The values of `given`, and for all that it does not name the middle of the range.

    Raises:
        ConfigError: it is no mapping, names what is not searched, or a value outside its range.
    """
    distributions = space.encoding.distributions
    if not isinstance(given, Mapping):
        raise ConfigError(f"sampler.start={given!r} must be values by name, such as {{learning_rate: 0.01}}")
    point = space.encoding.point(np.full(space.encoding.knobs, 0.5))
    for name, value in given.items():
        if name not in distributions:
            raise ConfigError(f"sampler.start.{name} is not searched; there are {', '.join(distributions)}")
        distribution = distributions[name]
        if isinstance(distribution, CategoricalDistribution):
            fine = value in distribution.choices
        else:
            value = as_number(f"sampler.start.{name}", value)
            fine = distribution.low <= value <= distribution.high
        if not fine:
            raise ConfigError(f"sampler.start.{name}={value} is outside of what is searched")
        point[name] = value
    return space.encoding.clip(point)


def as_number(key: str, value: Any) -> float:
    """A finite number from what YAML gives, which reads 1e8 (without a dot) as text.

    Raises:
        ConfigError: it is none.
    """
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not isfinite(number):
        raise ConfigError(f"{key}={value!r} is not a number")
    return number


def _count(key: str, value: Any, least: int) -> int | None:
    if value is None:
        return None
    number = as_number(f"sampler.{key}", value)
    if number != int(number) or number < least:
        raise ConfigError(f"sampler.{key}={value} must be a whole number, at least {least}")
    return int(number)


def _seed_of(seed: int, number: int) -> int:
    """One of Optuna's samplers begins anew at each trial, with a seed of its own."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
