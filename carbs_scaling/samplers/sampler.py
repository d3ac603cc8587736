"""The door of a sampler: proposals by Optuna's protocol, and a budget that it keeps to."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any

import numpy as np
import optuna
from omegaconf import OmegaConf
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

from carbs_scaling.config_loading import load_section
from carbs_scaling.errors import BudgetSpent, ConfigError
from carbs_scaling.laws.recommend.predicted_curve import SeenCurve
from carbs_scaling.ledger.history import History, SeenPoints, read_history
from carbs_scaling.samplers import SAMPLERS
from carbs_scaling.space.encoding import Encoding, Point
from carbs_scaling.space.projection import LegalSpace
from carbs_scaling.stop_rule import StopRule
from carbs_scaling.trial import Status

DIRECTIONS = [StudyDirection.MINIMIZE, StudyDirection.MINIMIZE]


class Sampler(BaseSampler):
    """An Optuna sampler of legal points in a study of (loss, training FLOPs), within a budget.

    A proposal is a function of (seed, trial number, the other trials): a search that was killed goes on as
    the unbroken one would have. Running trials are known to it. No global random state is used or changed.
    Where what remains cannot pay for a run, `study.ask` raises `BudgetSpent` and `study.optimize` ends.

    Args:
        space: what may be run.
        budget_flops: what all trials together may cost, or None for no limit.
        seed: of the proposals.
    """

    def __init__(self, space: LegalSpace, budget_flops: float | None, seed: int) -> None:
        self.space, self.budget_flops, self.seed = space, budget_flops, seed
        # By trial number, where a running trial may not hold all of its parameters yet.
        self._proposed: dict[int, Point] = {}
        # What the next trial may cost beside the budget, such as what the remaining hours pay for.
        self.next_trial_flops = float("inf")
        self._past_the_end: set[int] = set()
        self._seen = SeenPoints()
        self.doing = ""  # what the last proposal was for, in a few words; empty where that is not known

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_seen": SeenPoints()}

    def remaining_flops(self, study: Study) -> float:
        """Budget less what is spent and what running trials are committed to; infinite without a budget."""
        return self.read(study).remaining_flops(self.budget_flops)

    def affordable(self, study: Study) -> bool:
        """Whether some legal point fits into what remains."""
        return self.may_cost(self.read(study)) >= self.space.lowest_flops

    def may_cost(self, history: History) -> float:
        """FLOPs of the dearest run that may be proposed now: what remains, or less by `next_trial_flops`."""
        return min(history.remaining_flops(self.budget_flops), self.next_trial_flops)

    def read(self, study: Study, but: int | None = None) -> History:
        """The other trials, without number `but`.

        Raises:
            ValueError: the study has other objectives.
        """
        if study.directions != DIRECTIONS:
            raise ValueError(
                f"{type(self).__name__} needs a study of two objectives, loss and training FLOPs, both "
                "minimised: optuna.create_study(directions=['minimize', 'minimize'], sampler=...)"
            )
        return read_history(study, self.space, but, self._proposed, self._seen)

    def stop_rule(
        self, study: Study, number: int, point: Point, curves: Sequence[SeenCurve], probability: float
    ) -> StopRule | None:
        """When trial `number`, which is about to run at `point`, ends early; None: never.

        Args:
            study: with the other trials.
            curves: of its completed runs.
            probability: to end below the front at its FLOPs, under which it ends.
        """
        return None

    def require_affordable(self, remaining_flops: float) -> None:
        """Raises `BudgetSpent` where the remaining budget cannot pay for the cheapest legal run."""
        if remaining_flops < self.space.lowest_flops:
            budget = "" if self.budget_flops is None else f" of {self.budget_flops:.3g}"
            raise BudgetSpent(
                f"{remaining_flops:.3g} FLOPs remain{budget}, "
                f"and the cheapest legal run costs {self.space.lowest_flops:.3g}"
            )

    def end(self, study: Study, trial: FrozenTrial, spent: BudgetSpent) -> dict[str, Any]:
        """Ends `study.optimize` without an error; the trial is pruned as its objective asks for a value.

        With several threads one may begin a trial after another has taken the last of the budget.

        Raises:
            BudgetSpent: outside of `optimize`.
        """
        try:
            study.stop()
        except RuntimeError:
            raise spent from None
        self._past_the_end.add(trial.number)
        study._storage.set_trial_user_attr(
            trial._trial_id, "outcome", str(Status.MACHINE)
        )  # nothing to learn
        return {}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All dimensions: whole points are proposed."""
        return dict(self.space.encoding.distributions)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value of a parameter that is not of the space.

        Raises:
            TrialPruned: no budget was left when this trial of `optimize` was begun.
        """
        if trial.number in self._past_the_end:
            raise optuna.TrialPruned("the budget is spent")
        name_seed = sum((i + 1) * ord(c) for i, c in enumerate(param_name))
        rng = np.random.default_rng([self.seed, trial.number, name_seed])
        return Encoding({param_name: param_distribution}).point(rng.random(1))[param_name]


@dataclass(frozen=True)
class NoOptions:
    """A sampler without options."""


@dataclass(frozen=True)
class SamplerEntry:
    """What a sampler's module holds as `SAMPLER`.

    Args:
        build: makes it from the space, the budget in FLOPs, the seed and its options.
        options: a frozen dataclass of its options with their defaults; a value that cannot be is a
            `ValueError` that names it.
    """

    build: Callable[[LegalSpace, float, int, Any], Sampler]
    options: type = NoOptions


def build_sampler(
    name: str,
    space: LegalSpace,
    budget_flops: float,
    seed: int,
    given: Mapping[str, Any] | None = None,
    trial_overhead_flops: float | None = None,
    trials: int | None = None,
) -> Sampler:
    """The sampler called `name`.

    Args:
        name: one of `SAMPLERS.names`.
        space: what may be run.
        budget_flops: what all trials together may cost.
        seed: of the proposals.
        given: options by name; those that are None keep their defaults.
        trial_overhead_flops: the default of the option `overhead_flops`, where the sampler has it.
        trials: that of `n_trials`.

    Raises:
        ConfigError: an unknown name or option, or a value that an option cannot have.
    """
    entry: SamplerEntry = SAMPLERS.load(name)
    values = {option: value for option, value in (given or {}).items() if value is not None}
    has = [field.name for field in fields(entry.options)]
    unknown = [option for option in values if option not in has]
    if unknown:
        raise ConfigError(
            f"sampler.{unknown[0]} is not an option of {name}, which has {', '.join(has) or 'none'}"
        )
    if "overhead_flops" in has:
        values.setdefault("overhead_flops", trial_overhead_flops)
    if "n_trials" in has:
        values.setdefault("n_trials", trials)
    try:
        options: Any = load_section("sampler", entry.options, OmegaConf.create(values))
    except ValueError as error:
        raise ConfigError(f"sampler.{error}") from error
    try:
        return entry.build(space, budget_flops, seed, options)
    except ValueError as error:
        raise ConfigError(f"sampler: {error}") from error


def new_study(sampler: BaseSampler, **arguments: Any) -> Study:
    """An Optuna study with directions (loss, training FLOPs), both minimised."""
    study = optuna.create_study(sampler=sampler, directions=DIRECTIONS, **arguments)
    with warnings.catch_warnings():  # experimental in Optuna
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(["loss", "FLOPs"])
    return study


def as_number(name: str, value: Any) -> float:
    """A finite number from what YAML gives, which reads 1e8 (without a dot) as text.

    Raises:
        ValueError: it is none.
    """
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not isfinite(number):
        raise ValueError(f"{name}={value!r} is not a number")
    return number


def require_count(name: str, value: int | None, least: int) -> None:
    """Raises `ValueError` unless the value is a whole number of at least `least`, or None."""
    if value is not None and (isinstance(value, bool) or value != int(value) or value < least):
        raise ValueError(f"{name}={value} must be a whole number, at least {least}")


def seed_of(seed: int, number: int) -> int:
    """A seed for trial `number` of a sampler that begins anew at each."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
