"""Which schedule law predicts curves that it has not seen, and how it ranks candidate schedules."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from carbs_scaling.laws.schedules.fit import LossCurve, fit_schedule_law
from carbs_scaling.laws.schedules.law import SCHEDULE_LAWS, FunctionalLaw, Schedule, ScheduleLaw, TissueLaw
from carbs_scaling.laws.schedules.sde import FunctionalExponents

Models = Mapping[str, Mapping[str, LossCurve]]  # curves by model and run
LawType = type[ScheduleLaw]
MOST_FOLDS = 4  # curves of a model that are left out in turn
# Of the fits that leave a curve out: about 2 s with eight curves where a full one takes 30.
STARTS, POINTS, EVALUATIONS = 0, 40, (30, 60)
FULL_STARTS, FULL_POINTS = 1, 60  # of the fit that ranks


@dataclass(frozen=True)
class Check:
    """How a law predicts curves that were left out of its fit, over all models.

    Args:
        curves: how many were left out, one at a time.
        models: of how many models.
        r_squared: of all points of those curves.
        final_r_squared: of their final losses, each about the mean of its model.
        final_error: root mean square error of the final losses, in nats.
    """

    curves: int
    models: int
    r_squared: float
    final_r_squared: float
    final_error: float


@dataclass(frozen=True)
class Ranking:
    """Candidate schedules by a law, best first.

    Args:
        law: name of the law.
        excess: by candidate, predicted final loss above the best one's, mean over models.
        losses: by candidate, predicted final loss of each model.
    """

    law: str
    excess: dict[str, float]
    losses: dict[str, dict[str, float]]


def check_laws(models: Models, kinds: Sequence[LawType] = SCHEDULE_LAWS) -> dict[str, Check]:
    """Leave out one curve at a time of each model that has three or more; nothing where none has."""
    folds = [
        (curves[name], [other for key, other in curves.items() if key != name], model)
        for model, curves in models.items()
        if len(curves) >= 3
        for name in _some(list(curves))
    ]
    if not folds:
        return {}
    return {kind.name: _check(kind, folds) for kind in kinds}


def _some(names: list[str]) -> list[str]:
    return [names[i] for i in np.unique(np.linspace(0, len(names) - 1, MOST_FOLDS).round().astype(int))]


def _check(kind: LawType, folds: list[tuple[LossCurve, list[LossCurve], str]]) -> Check:
    off: list[np.ndarray] = []
    spread: list[np.ndarray] = []
    final_off: list[float] = []
    finals: dict[str, list[float]] = {}
    for held, others, model in folds:
        law = _quick(kind, others)
        error = law.loss(held.schedule, held.steps) - held.loss
        off.append(error)
        spread.append(held.loss)
        final_off.append(float(error[-1]))
        finals.setdefault(model, []).append(held.loss[-1])
    losses = np.concatenate(spread)
    about = float(sum(len(values) * np.var(values) for values in finals.values()))
    square = float(np.sum(np.square(final_off)))
    return Check(
        curves=len(folds),
        models=len(finals),
        r_squared=float(1 - np.sum(np.concatenate(off) ** 2) / np.sum((losses - losses.mean()) ** 2)),
        final_r_squared=1 - square / about if about > 0 else float("nan"),
        final_error=float(np.sqrt(square / len(folds))),
    )


def _quick(kind: LawType, curves: list[LossCurve]) -> ScheduleLaw:
    return fit_schedule_law(kind, curves, STARTS, POINTS, evaluations=EVALUATIONS)


def best_law(checks: Mapping[str, Check]) -> LawType:
    """The law of least error of left-out final losses; without a check the one of fewest parameters."""
    if not checks:
        return TissueLaw
    name = min(checks, key=lambda law: checks[law].final_error)
    return next(kind for kind in SCHEDULE_LAWS if kind.name == name)


def rank(
    kind: LawType, models: Models, candidates: Callable[[float], Mapping[str, Schedule]], peak: float | None
) -> Ranking:
    """Fit a law to each model's curves, and rank schedules by its mean prediction.

    Args:
        kind: the law.
        models: curves by model and run.
        candidates: schedules by name, for a peak learning rate.
        peak: of the candidates; None for the median peak of each model's curves.
    """
    losses: dict[str, dict[str, float]] = {}
    for model, curves in models.items():
        law = fit_schedule_law(kind, list(curves.values()), FULL_STARTS, FULL_POINTS)
        own = float(np.median([curve.schedule.learning_rates.max() for curve in curves.values()]))
        for name, schedule in candidates(own if peak is None else peak).items():
            final = law.loss(schedule, np.array([len(schedule.learning_rates)]))[0]
            losses.setdefault(name, {})[model] = float(final)
    best = {model: min(by_model[model] for by_model in losses.values()) for model in models}
    excess = {name: float(np.mean([by[m] - best[m] for m in models])) for name, by in losses.items()}
    order = sorted(excess, key=lambda name: excess[name])
    return Ranking(
        kind.name,
        {name: excess[name] - excess[order[0]] for name in order},
        {name: losses[name] for name in order},
    )


def theory_exponents(models: Models) -> FunctionalExponents | None:
    """Exponents of task and optimizer that curves show; None where noise fades faster than in any task.

    The functional law forgets as u^-q with q = 1 - 1 / beta (`carbs_scaling.laws.schedules.law`); its signal
    falls as S^-s. Geometric means over models.
    """
    laws = [_quick(FunctionalLaw, list(curves.values())) for curves in models.values()]
    source, forgetting = (
        float(np.exp(np.mean([np.log(getattr(law, name)) for law in laws])))
        for name in ("exponent", "forgetting_exponent")
    )
    return FunctionalExponents(source, 1 / (1 - forgetting)) if forgetting < 1 else None
