"""Fits of the laws of further hyperparameters to residuals, with joint posterior covariances."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from carbs_scaling.laws.form.valley import valley
from carbs_scaling.laws.hyperparameters.law import COORDINATES, OtherLaw, varied
from carbs_scaling.laws.prior.prior import LawPrior
from carbs_scaling.laws.runs.table import MAY_BE_0, RunTable
from carbs_scaling.laws.scaling_law import ScalingLaw

if TYPE_CHECKING:
    from scipy.optimize import OptimizeResult

MIN_VALUES = 3  # two values show which is better, not where the best one lies
MIN_EVIDENCE = 5.0  # least gain in log likelihood over a flat valley
NOT_IDENTIFIED = 0.75  # posterior over prior standard deviation of the best value
SHAPES_FROM = 0.7  # range of ln N below which sizes and shapes are not told apart
MIN_SIDE = 0.05  # share of the runs that must lie on either side of their best value
HUBER = 2.0  # standard deviations beyond which a residual counts linearly
CURVATURE_SD = 1.5  # prior of ln k, around ln of a hundredth of the loss
SKEW_SD = 0.5  # prior of r, around 0
_STEP = 1e-4  # of numerical derivatives


def refit_others(law: ScalingLaw, table: RunTable) -> tuple[ScalingLaw, list[str]]:
    """Refit each law of `others` to the residuals of the main law and the rest of them.

    Returns:
        The law, and one line for each varied hyperparameter that has no law.
    """
    expected, height = _expected(law, table)
    places, notes = law.places(table), []
    for name, x in varied(table).items():
        if name == "width_to_depth" and np.ptp(np.log(table.params)) < SHAPES_FROM:
            notes.append(
                "runs of one size differ in shape, but over too narrow a range of N to tell shape from size: "
                "there is no law of width / depth; sizes a factor of 2 apart would give one"
            )
            continue
        rest = law.excess_of_others(table, but=name)
        noise_sd = np.hypot(law.seed_sd, law.height_sd * (height + rest))
        found = fit_other(
            name, x, places, table.loss - expected - rest, noise_sd, float(table.loss.min()), law.centre[:2]
        )
        kept = tuple(other for other in law.others if other.name != name)
        if isinstance(found, str):
            notes.append(found)
        else:
            kept = (*kept, found)
        law = replace(law, others=kept)
    return law, notes


def _expected(law: ScalingLaw, table: RunTable) -> tuple[np.ndarray, np.ndarray]:
    """Losses by learning rate and batch alone, and the part of them above the floor; each (n,)."""
    expected = law.run_loss(table.params, table.tokens, table.learning_rate, table.batch_tokens)
    return expected, expected - law.loss(table.params, table.tokens)


def with_joint_errors(law: ScalingLaw, table: RunTable, prior: LawPrior) -> ScalingLaw:
    """Set the covariances of `others` to their marginals in the joint posterior of all parameters.

    One linear regression in all parameters at once (Laplace), since the best weight decay depends on the
    uncertain best learning rate. `prior` is of the main law.
    """

    def losses(changed: ScalingLaw) -> np.ndarray:
        return np.asarray(_expected(changed, table)[0] + changed.excess_of_others(table))

    at = losses(law)
    noise_sd = np.hypot(law.seed_sd, law.height_sd * (at - law.loss(table.params, table.tokens)))
    columns, of_others = [], []
    for i in prior.free:
        columns.append((losses(replace(law, theta=_moved(law.theta, i))) - at) / _STEP)
    for k, other in enumerate(law.others):
        for changed in _neighbours(other):
            others = (*law.others[:k], changed, *law.others[k + 1 :])
            columns.append((losses(replace(law, others=others)) - at) / _STEP)
        width = float(np.ptp(other.coordinate.to_log(np.array([other.low, other.high]))))
        sd = [width, *(s for _, s in other.coordinate.exponents), CURVATURE_SD, SKEW_SD]
        of_others += [1 / s**2 for s in sd]
    design = np.stack(columns, axis=-1) / noise_sd[:, None]
    free = len(prior.free)
    precision = np.diag(np.concatenate([np.zeros(free), of_others]))
    precision[:free, :free] = prior.precision
    covariance = np.linalg.inv(design.T @ design + precision)
    found = []
    for k, other in enumerate(law.others):
        start = free + 7 * k
        block = covariance[start : start + 5, start : start + 5]
        found.append(replace(other, covariance=tuple(map(tuple, block.tolist()))))
    return replace(law, others=tuple(found))


def _moved(values: tuple[float, ...], index: int) -> tuple[float, ...]:
    return (*values[:index], values[index] + _STEP, *values[index + 1 :])


def _neighbours(other: OtherLaw) -> list[OtherLaw]:
    """Copies of the law with one parameter moved by a step: each of theta, ln k, r."""
    found = [replace(other, theta=_moved(other.theta, i)) for i in range(len(other.theta))]
    steeper = replace(other, curvature=other.curvature * float(np.exp(_STEP)))
    return [*found, steeper, replace(other, skew=other.skew + _STEP)]


@dataclass(frozen=True)
class _Problem:
    """The fit of one hyperparameter, in z = (o, o_N, o_D, ln k, r, theta), shape (10,).

    Args:
        x: coordinate of each run, shape (n,).
        places: `places_of` the runs, shape (n, 5).
        residual: losses less those of the rest of the law, shape (n,).
        noise_sd: of each run, up to a common factor, shape (n,).
        mean: prior mean of z.
        sd: prior standard deviation of z.
    """

    x: np.ndarray
    places: np.ndarray
    residual: np.ndarray
    noise_sd: np.ndarray
    mean: np.ndarray
    sd: np.ndarray

    def model(self, z: np.ndarray, steep: float = 1.0) -> np.ndarray:
        """Predicted residuals (n,); `steep` = 0 makes the valley flat."""
        depth = valley(self.x - self.places @ z[5:], z[4])[0]
        return np.asarray(self.places[:, :3] @ z[:3] + steep * np.exp(z[3]) * depth)

    def misfit(self, z: np.ndarray, scale: float, steep: float) -> np.ndarray:
        """Misfits of the runs and of the prior, in standard deviations, (n + 10,)."""
        off = (self.residual - self.model(z, steep)) / (scale * self.noise_sd)
        return np.concatenate([off, (z - self.mean) / self.sd])

    def slopes(self, z: np.ndarray, scale: float, steep: float) -> np.ndarray:
        """Derivatives of `misfit` by z, (n + 10, 10)."""
        depth, by_offset, by_skew = valley(self.x - self.places @ z[5:], z[4])
        k = steep * np.exp(z[3])
        by_z = np.column_stack(
            [self.places[:, :3], k * depth, k * by_skew, -(k * by_offset)[:, None] * self.places]
        )
        return np.concatenate([-by_z / (scale * self.noise_sd)[:, None], np.diag(1 / self.sd)])

    def descend(self, start: np.ndarray, scale: float, steep: float = 1.0) -> "OptimizeResult":
        """Minimise Huber's loss of `misfit` from a start."""
        from scipy.optimize import least_squares

        return least_squares(
            self.misfit, start, self.slopes, loss="huber", f_scale=HUBER, args=(scale, steep)
        )

    def solve(self) -> "tuple[OptimizeResult, float]":
        """Fit from three starts, then refit under the noise's estimated scale; returns fit and scale."""
        starts = []
        for quantile in (0.15, 0.5, 0.85):
            start = self.mean.copy()
            start[5] = np.quantile(self.x, quantile)
            starts.append(start)
        fit = min((self.descend(start, 1.0) for start in starts), key=lambda found: float(found.cost))
        scale, n = 1.0, len(self.x)
        for _ in range(3):
            z = np.minimum(np.abs((self.residual - self.model(fit.x)) / self.noise_sd), 3 * scale)
            scale = float(np.sqrt((z**2).sum() / max(n - len(self.mean), 0.3 * n)))
            fit = self.descend(fit.x, scale)
        return fit, scale


def fit_other(
    name: str,
    x: np.ndarray,
    places: np.ndarray,
    residual: np.ndarray,
    noise_sd: np.ndarray,
    loss_level: float,
    centre: tuple[float, float],
) -> OtherLaw | str:
    """Fit the law of one hyperparameter; returns one line with the reason where it has none.

    Args:
        name: of `COORDINATES`.
        x: of each run, shape (n,); runs where it is NaN are left out.
        places: `places_of` the runs, shape (n, 5).
        residual: losses less those of the law of learning rate and batch, shape (n,).
        noise_sd: of each run, up to a common factor, shape (n,).
        loss_level: a low loss of the runs.
        centre: (ln N0, ln D0) of `places`.
    """
    label = COORDINATES[name].label
    there = np.isfinite(x)
    x, places = x[there], places[there]
    if len(np.unique(np.round(x, 3))) < MIN_VALUES:
        above = " above 0" if name in MAY_BE_0 else ""
        return f"{name} has fewer than {MIN_VALUES} values{above}: the best one is not identified"
    width = float(np.ptp(x))
    exponents = np.array(COORDINATES[name].exponents)
    level = np.log(0.01 * loss_level)
    problem = _Problem(
        x,
        places,
        residual[there],
        noise_sd[there],
        mean=np.concatenate([[0.0, 0.0, 0.0, level, 0.0, x.mean()], exponents[:, 0]]),
        sd=np.concatenate([[0.05 * loss_level] * 3, [CURVATURE_SD, SKEW_SD, width], exponents[:, 1]]),
    )
    fit, scale = problem.solve()
    flat = problem.descend(problem.mean, scale, steep=0.0)
    covariance = np.linalg.inv(fit.jac.T @ fit.jac)[5:, 5:]
    error = float(np.sqrt(covariance[0, 0]))
    if flat.cost - fit.cost < MIN_EVIDENCE or error > NOT_IDENTIFIED * width:
        return f"{label} is not identified by these runs: the loss does not change with it beyond their noise"
    above_best = float(np.mean(x > places @ fit.x[5:]))
    if not MIN_SIDE < above_best < 1 - MIN_SIDE:
        side = "lower" if above_best > 0.5 else "upper"
        return f"the best {label} lies beyond the {side} edge of the runs: widen its range"
    values = COORDINATES[name].from_log(np.array([x.min(), x.max()]))
    return OtherLaw(
        name=name,
        theta=tuple(fit.x[5:].tolist()),
        covariance=tuple(map(tuple, covariance.tolist())),
        centre=centre,
        curvature=float(np.exp(fit.x[3])),
        skew=float(fit.x[4]),
        low=float(values.min()),
        high=float(values.max()),
    )
