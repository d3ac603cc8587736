"""Fits of schedule laws to loss curves, and the schedule that a law likes best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from scipy.optimize import least_squares, minimize

from carbs_scaling.laws.schedules.law import Schedule, ScheduleLaw

# Relative misfit of a loss beyond which a point counts linearly, as in arXiv 2503.12811 and 2408.11029.
HUBER = 1e-3
# Two curves cannot tell every exponent of a law: what they leave open is drawn to a square root, give or
# take a factor of e^(1/2). Square roots are what SGD's theory gives for each of them.
EXPECTED_EXPONENTS = {"exponent": 0.5, "drop_exponent": 0.5, "rate_exponent": 0.5}
EXPONENT_SD = 0.5
# Training sits at the edge of stability (Cohen et al. 2021, arXiv 2103.00065): the sharpest directions have a
# curvature of about 2 / lr and so follow a drop of the learning rate within about one step. So C lr^(1 -
# gamma), what one step adds to the argument of G at the peak, is about 1 - give or take a factor of e.
RESPONSE_SD = 1.0


@dataclass(frozen=True)
class LossCurve:
    """Losses that were measured along a run.

    Args:
        schedule: the run's learning rates.
        steps: where the loss was measured, counted from 1 after warmup, shape (m,).
        loss: shape (m,).
    """

    schedule: Schedule
    steps: np.ndarray
    loss: np.ndarray

    def __post_init__(self) -> None:
        steps, loss = np.asarray(self.steps, dtype=int), np.asarray(self.loss, dtype=float)
        if steps.shape != loss.shape or steps.ndim != 1 or not len(steps):
            raise ValueError("a loss curve needs as many losses as steps")
        if steps.min() < 1 or steps.max() > len(self.schedule.learning_rates):
            raise ValueError("a loss curve has losses outside its schedule")
        if not (np.isfinite(loss).all() and (loss > 0).all()):
            raise ValueError("a loss curve has losses that are not positive numbers")
        object.__setattr__(self, "steps", steps)
        object.__setattr__(self, "loss", loss)


def fit_schedule_law(
    law_type: type, curves: Sequence[LossCurve], starts: int = 8, points: int = 120, seed: int = 0
) -> ScheduleLaw:
    """Fits a law to some curves of one model: Huber's loss on log residuals, bounded, from several starts.

    Args:
        law_type: one of `carbs_scaling.laws.schedules.law.SCHEDULE_LAWS`.
        curves: at least one; a law of annealing needs one that anneals.
        starts: random starts beside the informed one.
        points: at most so many losses of each curve are used, evenly spread.
        seed: of the starts.

    Raises:
        ValueError: no curve.
    """
    if not curves:
        raise ValueError("a schedule law needs at least one loss curve")
    used = [_thinned(curve, points) for curve in curves]
    target = np.log(np.concatenate([curve.loss for curve in used]))
    lowest = min(curve.loss.min() for curve in used)
    names = [field.name for field in fields(law_type)]
    bounds = dict(law_type.BOUNDS)
    bounds["floor"] = (0.2 * lowest, 0.999 * lowest)
    low, high = (np.log([bounds[name][side] for name in names]) for side in (0, 1))

    expected = {name: np.log(value) for name, value in EXPECTED_EXPONENTS.items() if name in names}
    held = [names.index(name) for name in expected]
    response = [names.index(name) for name in ("drop_rate", "rate_exponent") if name in names] or None
    peak = max(curve.schedule.learning_rates.max() for curve in used)

    def residual(logs: np.ndarray) -> np.ndarray:
        law = law_type(*np.exp(logs))
        predicted = np.concatenate([law.loss(curve.schedule, curve.steps) for curve in used])
        misfit = np.log(np.maximum(predicted, 1e-3 * lowest)) - target
        surprise = (logs[held] - np.array(list(expected.values()))) / EXPONENT_SD
        if response is not None:
            rate, exponent = logs[response[0]], np.exp(logs[response[1]])
            per_step = rate + (1 - exponent) * np.log(peak)
            surprise = np.append(surprise, per_step / RESPONSE_SD)
        return np.concatenate([misfit / HUBER, surprise])

    rng = np.random.default_rng(seed)
    middle = _informed_start(names, used, lowest, low, high)
    best = None
    for attempt in range(starts + 1):
        spread = 0.0 if attempt == 0 else 1.0
        start = np.clip(middle + spread * rng.normal(size=len(names)), low + 1e-6, high - 1e-6)
        # A wide Huber scale first finds the valley, the narrow one then its floor.
        for scale, evaluations in ((30.0, 60), (1.0, 200)):
            solution = least_squares(
                residual, start, bounds=(low, high), loss="huber", f_scale=scale, max_nfev=evaluations
            )
            start = np.clip(solution.x, low + 1e-9, high - 1e-9)
        if best is None or solution.cost < best.cost:
            best = solution
    return law_type(*(float(value) for value in np.exp(best.x)))


def _thinned(curve: LossCurve, points: int) -> LossCurve:
    keep = np.unique(np.linspace(0, len(curve.steps) - 1, points).round().astype(int))
    return LossCurve(curve.schedule, curve.steps[keep], curve.loss[keep])


def _informed_start(names, curves: Sequence[LossCurve], lowest: float, low, high) -> np.ndarray:
    """Middle of the bounds; exponents of 1/2, and amplitudes that meet the first and the last losses."""
    middle = (low + high) / 2
    first = max(curve.loss.max() for curve in curves)
    area = curves[0].schedule.area[curves[0].steps[0] - 1]
    peak = max(curve.schedule.learning_rates.max() for curve in curves)
    informed = {
        "drop_gain": np.log(0.03 * lowest / peak),
        "drop_rate": 0.0,
        "drop_exponent": np.log(0.5),
        "rate_exponent": np.log(0.5),
        "floor": np.log(0.9 * lowest),
        "exponent": np.log(0.5),
        "amplitude": np.log(max(first - 0.9 * lowest, 1e-3) * area**0.5),
    }
    return np.array([informed.get(name, value) for name, value in zip(names, middle, strict=True)])


@dataclass(frozen=True)
class Agreement:
    """How well predicted losses meet measured ones.

    Args:
        r_squared: of the losses along a curve.
        mean_absolute_error: in nats.
        final_error: predicted less measured, at the last point.
    """

    r_squared: float
    mean_absolute_error: float
    final_error: float


def agreement(law: ScheduleLaw, curve: LossCurve) -> Agreement:
    """How well a law predicts a curve that it may not have seen."""
    predicted = law.loss(curve.schedule, curve.steps)
    off = predicted - curve.loss
    total = np.sum((curve.loss - curve.loss.mean()) ** 2)
    return Agreement(
        r_squared=float(1 - np.sum(off**2) / total) if total > 0 else float("nan"),
        mean_absolute_error=float(np.abs(off).mean()),
        final_error=float(off[-1]),
    )


def rank_schedules(law: ScheduleLaw, schedules: Mapping[str, Schedule]) -> dict[str, float]:
    """Predicted final losses of candidate schedules, best first, before anything is trained with them.

    Args:
        law: fitted to curves of the same model, batch and text.
        schedules: by name, of any lengths.
    """
    finals = {
        name: float(law.loss(schedule, np.array([len(schedule.learning_rates)]))[0])
        for name, schedule in schedules.items()
    }
    return dict(sorted(finals.items(), key=lambda item: item[1]))


def best_schedule(
    law: ScheduleLaw, steps: int, peak: float, warmup_area: float = 0.0, knots: int = 40, lowest: float = 0.01
) -> Schedule:
    """The never-rising schedule of least predicted final loss.

    Args:
        law: fitted.
        steps: after warmup.
        peak: learning rate that it starts from.
        warmup_area: sum of the learning rates of the warmup.
        knots: the schedule is linear between so many points, closer together towards the end.
        lowest: least learning rate, as a share of the peak.

    Returns:
        The schedule, shape (steps,).
    """
    position = 1 - (1 - np.linspace(0, 1, knots)) ** 1.5
    grid = np.arange(1, steps + 1) / steps

    def build(logits: np.ndarray) -> Schedule:
        # Shares of the way from the peak down, one a knot: a softmax, with one share for what is never
        # used up.
        weights = np.exp(np.append(logits, 0.0) - max(logits.max(), 0.0))
        way = np.concatenate([[0.0], np.cumsum(weights / weights.sum())[:-1]])
        rates = peak * (lowest + (1 - lowest) * (1 - way))
        return Schedule(np.interp(grid, position, rates), warmup_area)

    def final_loss(logits: np.ndarray) -> float:
        return float(law.loss(build(logits), np.array([steps]))[0])

    # Two beginnings: an even way down, and flat with a late decay.
    late = np.where(position[1:] > 0.75, 2.0, -2.0)
    tries = [
        minimize(
            final_loss, start, method="L-BFGS-B", bounds=[(-12, 12)] * (knots - 1), options={"maxiter": 150}
        )
        for start in (np.zeros(knots - 1), late)
    ]
    return build(min(tries, key=lambda solution: solution.fun).x)
