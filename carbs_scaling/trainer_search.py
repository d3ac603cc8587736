"""A search over runs of the transformers `Trainer`: its `hyperparameter_search` under a FLOP budget.

found = search_trainer(trainer, space, budget_flops=1e15, sequence_length=1024)
print(found.law())
"""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import optuna
import torch
from optuna.distributions import BaseDistribution
from optuna.trial import FixedTrial, FrozenTrial

from carbs_scaling.errors import ConfigError
from carbs_scaling.laws.recipe import Recommendation
from carbs_scaling.laws.scaling_law import ScalingLaw
from carbs_scaling.samplers.carbs import CarbsSampler
from carbs_scaling.space.encoding import Point
from carbs_scaling.training.trainer_schedule import non_embedding_params

if TYPE_CHECKING:
    from transformers import Trainer

LOSS = "eval_loss"


@dataclass(frozen=True)
class TrainerSearch:
    """What a search over runs of a `Trainer` leaves.

    Args:
        study: of Optuna, with the objectives loss and FLOPs.
        sampler: that proposed its trials.
    """

    study: optuna.Study
    sampler: CarbsSampler

    @property
    def front(self) -> list[FrozenTrial]:
        """The trials that no other beats in both loss and FLOPs, the cheapest first."""
        return sorted(self.study.best_trials, key=lambda trial: trial.values[1])

    def law(self) -> ScalingLaw:
        """The scaling law of the runs.

        Raises:
            LawError: the runs give none.
        """
        return self.sampler.law(self.study)

    def recipe(self, params: float, tokens: float) -> Recommendation:
        """What the law recommends for N and D.

        Raises:
            LawError: the runs give no law.
        """
        return self.sampler.best_recipe(self.study, params, tokens)


class _TrialAt(FixedTrial):
    """A trial at a point, whose `params` are there before anything is suggested."""

    @property
    def params(self) -> dict[str, Any]:
        """All of them."""
        return dict(self._params)


class TrainerPoint:
    """What a point of the space means to a trainer: the values that its arguments have there, N, D and FLOPs.

    Args:
        trainer: with `model_init`, which may read a trial's `params`.
        sequence_length: tokens of one example.
    """

    def __init__(self, trainer: "Trainer", sequence_length: int) -> None:
        self._trainer, self._sequence_length = trainer, sequence_length
        self._before = dict(vars(trainer.args))
        self._params: dict[tuple[tuple[str, Any], ...], int] = {}

    def arguments(self, point: Point) -> dict[str, Any]:
        """Those values that are fields of `TrainingArguments`."""
        return {name: value for name, value in point.items() if hasattr(self._trainer.args, name)}

    def batch_tokens(self, point: Point) -> float:
        """Tokens a step, over devices and accumulation."""
        given = {**self._before, **point}
        sequences = given["per_device_train_batch_size"] * given["gradient_accumulation_steps"]
        devices = max(1, self._trainer.args.n_gpu) * self._trainer.args.world_size
        return float(sequences * devices * self._sequence_length)

    def tokens(self, point: Point) -> float:
        """D: `max_steps` batches, or the epochs of the data.

        Raises:
            ConfigError: data without a length, and no `max_steps`.
        """
        given = {**self._before, **point}
        if given["max_steps"] > 0:
            return float(given["max_steps"]) * self.batch_tokens(point)
        try:
            examples = len(self._trainer.train_dataset)  # type: ignore[arg-type]
        except TypeError:
            raise ConfigError("the training data has no length: set max_steps in the arguments") from None
        steps = math.ceil(
            given["num_train_epochs"] * examples * self._sequence_length / self.batch_tokens(point)
        )
        return float(steps) * self.batch_tokens(point)

    def params(self, point: Point) -> float:
        """N of the model that `model_init` builds there, without its memory; kept once counted."""
        own = {name: value for name, value in point.items() if name not in self.arguments(point)}
        key = tuple(sorted(own.items()))
        if key not in self._params:
            with torch.device("meta"):
                model = self._trainer.call_model_init(_TrialAt(dict(point)))  # type: ignore[arg-type]
            self._params[key] = non_embedding_params(model)
        return float(self._params[key])

    def roles(self, point: Point) -> dict[str, float]:
        """All four."""
        rate = {**self._before, **point}["learning_rate"]
        return {
            "params": self.params(point),
            "tokens": self.tokens(point),
            "learning_rate": float(rate),
            "batch_tokens": self.batch_tokens(point),
        }

    def flops(self, point: Point) -> float:
        """6 N D."""
        return 6.0 * self.params(point) * self.tokens(point)


def search_trainer(
    trainer: "Trainer",
    space: Mapping[str, BaseDistribution],
    budget_flops: float,
    sequence_length: int,
    *,
    flops: Callable[[Point], float] | None = None,
    roles: Callable[[Point], Mapping[str, float | None]] | None = None,
    compute_loss: Callable[[dict[str, float]], float] | None = None,
    study_name: str | None = None,
    storage: str | None = None,
    **options: Any,
) -> TrainerSearch:
    """Trains at points of the space until the budget is spent, each scored by `trainer.evaluate()`.

    Args:
        trainer: made with `model_init`, and with data to evaluate on. Its arguments are put back at the end.
        space: names that are fields of `TrainingArguments`, such as `learning_rate` and `max_steps`, or
            that `model_init(trial)` reads off `trial.params` (the trial is None when the trainer is made).
        budget_flops: of all runs together.
        sequence_length: tokens of one example.
        flops: training FLOPs of a point; None for 6 N D.
        roles: what the law reads; None for N of the model, D, rate and batch of the arguments.
        compute_loss: from what `evaluate` gives; None for its `eval_loss`.
        study_name: as for `optuna.create_study`; an existing study goes on.
        storage: as for `optuna.create_study`.
        options: further arguments of `CarbsSampler`, such as `seed` and `n_trials`.

    Raises:
        ConfigError: a trainer without `model_init`, or data without a length.
    """
    from transformers.trainer_utils import HPSearchBackend

    if trainer.model_init is None:
        raise ConfigError("each trial needs a new model: make the Trainer with model_init=...")
    read = TrainerPoint(trainer, sequence_length)
    cost = read.flops if flops is None else flops
    sampler = CarbsSampler(
        space, cost, read.roles if roles is None else roles, budget_flops=budget_flops, **options
    )
    study = optuna.create_study(
        sampler=sampler,
        directions=["minimize", "minimize"],
        study_name=study_name,
        storage=storage,
        load_if_exists=True,
    )
    with warnings.catch_warnings():  # experimental in Optuna
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(["loss", "FLOPs"])

    def suggest(trial: optuna.Trial) -> dict[str, Any]:
        return read.arguments({name: trial._suggest(name, d) for name, d in space.items()})

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        suggest(trial)  # before the model is made, which may read the trial's parameters
        trainer.train(trial=trial)
        metrics = trainer.evaluate()
        loss = metrics[LOSS] if compute_loss is None else compute_loss(metrics)
        done = trainer.state.global_step / max(trainer.state.max_steps, 1)
        return float(loss), cost(dict(trial.params)) * done

    before = dict(vars(trainer.args))
    trainer.hp_search_backend, trainer.hp_space = HPSearchBackend.OPTUNA, suggest  # type: ignore[assignment]
    try:
        study.optimize(objective)
    finally:
        trainer.hp_search_backend = None
        for name in space:
            if name in before:
                setattr(trainer.args, name, before[name])
    return TrainerSearch(study, sampler)
