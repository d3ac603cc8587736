"""Fits of schedule laws to loss curves, and the schedule of least predicted loss."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from carbs_scaling.laws.schedules.law import Schedule, ScheduleLaw

# Relative misfit of a loss beyond which a point counts linearly, as in arXiv 2503.12811 and 2408.11029.
HUBER = 1e-3
# Two curves do not identify every exponent of a law. The prior of each is 1/2, give or take a factor of
# e^(1/2): the theory of SGD gives a square root for each of them.
EXPECTED_EXPONENTS = {"exponent": 0.5, "drop_exponent": 0.5, "rate_exponent": 0.5}
EXPONENT_SD = 0.5
# Training sits at the edge of stability (Cohen et al. 2021, arXiv 2103.00065): the sharpest directions have a
# curvature of about 2 / lr and so follow a drop of the learning rate within about one step. So the prior of
# C lr^(1 - gamma), what one step adds to the argument of G at the peak, is 1, give or take a factor of e.
RESPONSE_SD = 1.0


@dataclass(frozen=True)
class LossCurve:
    """Losses measured along a run.

    Args:
        schedule: the run's learning rates.
        steps: where the loss was measured, counted from 1 after warmup, shape (m,).
        loss: in nats a token, shape (m,).

    Raises:
        ValueError: shapes differ, a step lies outside the schedule, or a loss is not a positive number.
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
    law_type: type[ScheduleLaw],
    curves: Sequence[LossCurve],
    starts: int = 8,
    points: int = 120,
    seed: int = 0,
    evaluations: tuple[int, int] = (60, 200),
) -> ScheduleLaw:
    """Fit a law to curves of one model: Huber's loss on log residuals, bounded, from several starts.

    Args:
        law_type: one of `carbs_scaling.laws.schedules.law.SCHEDULE_LAWS`.
        curves: at least one; a law of annealing needs one that anneals.
        starts: random starts beside the informed one.
        points: largest number of losses used of each curve, evenly spread.
        seed: of the starts.
        evaluations: at most so many steps of a wide Huber scale, which finds the valley, and then of the
            narrow one, which finds its floor.

    Raises:
        ValueError: no curve.
    """
    if not curves:
        raise ValueError("a schedule law needs at least one loss curve")
    used = [_thinned(curve, points) for curve in curves]
    lowest = float(min(curve.loss.min() for curve in used))
    names = [field.name for field in fields(law_type)]
    bounds = {**law_type.BOUNDS, "floor": (0.2 * lowest, 0.999 * lowest)}
    from scipy.optimize import least_squares

    low, high = (np.log([bounds[name][side] for name in names]) for side in (0, 1))
    residual = _residual(law_type, used, lowest)
    rng = np.random.default_rng(seed)
    middle = _informed_start(names, used, lowest, low, high)
    solutions = []
    for attempt in range(starts + 1):
        spread = 0.0 if attempt == 0 else 1.0
        start = np.clip(middle + spread * rng.normal(size=len(names)), low + 1e-6, high - 1e-6)
        for scale, steps in zip((30.0, 1.0), evaluations, strict=True):
            solution = least_squares(
                residual, start, bounds=(low, high), loss="huber", f_scale=scale, max_nfev=steps
            )
            start = np.clip(solution.x, low + 1e-9, high - 1e-9)
        solutions.append(solution)
    best = min(solutions, key=lambda solution: float(solution.cost))
    return law_type(*(float(value) for value in np.exp(best.x)))


def _residual(
    law_type: type[ScheduleLaw], curves: Sequence[LossCurve], lowest: float
) -> Callable[[np.ndarray], np.ndarray]:
    """Log misfits of all points and of the priors, as a function of the logs of a law's parameters."""
    names = [field.name for field in fields(law_type)]
    target = np.log(np.concatenate([curve.loss for curve in curves]))
    held = [names.index(name) for name in EXPECTED_EXPONENTS if name in names]
    expected = np.log([EXPECTED_EXPONENTS[names[index]] for index in held])
    peak = max(curve.schedule.learning_rates.max() for curve in curves)
    has_response = {"drop_rate", "rate_exponent"} <= set(names)

    def residual(logs: np.ndarray) -> np.ndarray:
        law = law_type(*np.exp(logs))
        predicted = np.concatenate([law.loss(curve.schedule, curve.steps) for curve in curves])
        misfit = np.log(np.maximum(predicted, 1e-3 * lowest)) - target
        off_prior = (logs[held] - expected) / EXPONENT_SD
        if has_response:
            gamma = np.exp(logs[names.index("rate_exponent")])
            per_step = logs[names.index("drop_rate")] + (1 - gamma) * np.log(peak)
            off_prior = np.append(off_prior, per_step / RESPONSE_SD)
        return np.concatenate([misfit / HUBER, off_prior])

    return residual


def _thinned(curve: LossCurve, points: int) -> LossCurve:
    keep = np.unique(np.linspace(0, len(curve.steps) - 1, points).round().astype(int))
    return LossCurve(curve.schedule, curve.steps[keep], curve.loss[keep])


def _informed_start(
    names: Sequence[str], curves: Sequence[LossCurve], lowest: float, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """Exponents of 1/2, amplitudes that meet the first and last losses, else the middle of the bounds.

    Bounds, of the logs, and the result have the shape (p,).
    """
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
    """Errors of predicted losses.

    Args:
        r_squared: of the losses along a curve; NaN where they do not vary.
        mean_absolute_error: in nats.
        final_error: predicted less measured loss at the last point.
    """

    r_squared: float
    mean_absolute_error: float
    final_error: float


def agreement(law: ScheduleLaw, curve: LossCurve) -> Agreement:
    """Compare a law's predictions with a measured curve, seen in the fit or not."""
    predicted = law.loss(curve.schedule, curve.steps)
    off = predicted - curve.loss
    total = np.sum((curve.loss - curve.loss.mean()) ** 2)
    return Agreement(
        r_squared=float(1 - np.sum(off**2) / total) if total > 0 else float("nan"),
        mean_absolute_error=float(np.abs(off).mean()),
        final_error=float(off[-1]),
    )


def rank_schedules(law: ScheduleLaw, schedules: Mapping[str, Schedule]) -> dict[str, float]:
    """Predict the final losses of candidate schedules of any lengths, by name, best first."""
    finals = {
        name: float(law.loss(schedule, np.array([len(schedule.learning_rates)]))[0])
        for name, schedule in schedules.items()
    }
    return dict(sorted(finals.items(), key=lambda item: item[1]))


def best_schedule(
    law: ScheduleLaw, steps: int, peak: float, warmup_area: float = 0.0, knots: int = 40, lowest: float = 0.01
) -> Schedule:
    """Find the schedule of least predicted final loss among those that never rise.

    Args:
        law: fitted to curves of the same model, batch and text.
        steps: after warmup.
        peak: learning rate that it starts from.
        warmup_area: sum of the learning rates of the warmup.
        knots: points between which the schedule is linear; they are closer together towards the end.
        lowest: least learning rate, as a share of the peak.

    Returns:
        The schedule, shape (steps,).
    """
    position = 1 - (1 - np.linspace(0, 1, knots)) ** 1.5
    grid = np.arange(1, steps + 1) / steps

    def build(logits: np.ndarray) -> Schedule:
        # Each knot takes a share of the way down from the peak: a softmax, with one share that is not used.
        weights = np.exp(np.append(logits, 0.0) - max(logits.max(), 0.0))
        way = np.concatenate([[0.0], np.cumsum(weights / weights.sum())[:-1]])
        rates = peak * (lowest + (1 - lowest) * (1 - way))
        return Schedule(np.interp(grid, position, rates), warmup_area)

    def final_loss(logits: np.ndarray) -> float:
        return float(law.loss(build(logits), np.array([steps]))[0])

    from scipy.optimize import minimize

    # Two starts: an even decay, and flat with a late decay.
    late = np.where(position[1:] > 0.75, 2.0, -2.0)
    tries = [
        minimize(
            final_loss, start, method="L-BFGS-B", bounds=[(-12, 12)] * (knots - 1), options={"maxiter": 150}
        )
        for start in (np.zeros(knots - 1), late)
    ]
    return build(min(tries, key=lambda solution: float(solution.fun)).x)
