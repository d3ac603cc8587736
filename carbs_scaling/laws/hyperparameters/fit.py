"""Laws of other hyperparameters fitted beside the law of learning rate and batch, with joint errors."""

from dataclasses import replace

import numpy as np

from carbs_scaling.laws.hyperparameters.law import (
    COORDINATES,
    CURVATURE_SD,
    SKEW_SD,
    OtherLaw,
    fit_other,
    varied,
)
from carbs_scaling.laws.prior.prior import LawPrior
from carbs_scaling.laws.runs.table import RunTable
from carbs_scaling.laws.scaling_law import ScalingLaw

_STEP = 1e-4  # of the differences by which losses are derived


def refit_others(law: ScalingLaw, table: RunTable) -> tuple[ScalingLaw, list[str]]:
    """The law with fresh `others`, each fitted to what it and the rest leave of the losses.

    Returns:
        The law, and one line for each varied hyperparameter that has no law.
    """
    expected, height = _expected(law, table)
    places, said = law.places(table), []
    for name, x in varied(table).items():
        rest = law.excess_of_others(table, but=name)
        noise_sd = np.hypot(law.seed_sd, law.height_sd * (height + rest))
        found = fit_other(
            name, x, places, table.loss - expected - rest, noise_sd, float(table.loss.min()), law.centre[:2]
        )
        kept = tuple(other for other in law.others if other.name != name)
        if isinstance(found, str):
            said.append(found)
        else:
            kept = (*kept, found)
        law = replace(law, others=kept)
    return law, said


def _expected(law: ScalingLaw, table: RunTable) -> tuple[np.ndarray, np.ndarray]:
    """Losses by learning rate and batch alone, and how much of them is valley."""
    expected = law.run_loss(table.params, table.tokens, table.learning_rate, table.batch_tokens)
    return expected, expected - law.loss(table.params, table.tokens)


def with_joint_errors(law: ScalingLaw, table: RunTable, prior: LawPrior) -> ScalingLaw:
    """The law whose `others` have the covariance that they have when nothing else is taken as known.

    One linear regression in all parameters at once (Laplace), since a best weight decay hangs on what the
    best learning rate is taken to be.

    Args:
        law: fitted, with `others`.
        table: its runs.
        prior: of the law.
    """

    def losses(changed: ScalingLaw) -> np.ndarray:
        return _expected(changed, table)[0] + changed.excess_of_others(table)

    at = losses(law)
    noise_sd = np.hypot(law.seed_sd, law.height_sd * (at - law.loss(table.params, table.tokens)))
    columns, of_others = [], []
    for i in prior.free:
        columns.append((losses(replace(law, theta=_moved(law.theta, i))) - at) / _STEP)
    for k, other in enumerate(law.others):
        for changed in _neighbours(other):
            others = (*law.others[:k], changed, *law.others[k + 1 :])
            columns.append((losses(replace(law, others=others)) - at) / _STEP)
        x_sd = COORDINATES[other.name].to_log(np.array([other.low, other.high]))
        sd = [float(np.ptp(x_sd)), *(s for _, s in COORDINATES[other.name].exponents), CURVATURE_SD, SKEW_SD]
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
    """The law with one parameter a step further: each of theta, ln k, r."""
    found = [replace(other, theta=_moved(other.theta, i)) for i in range(len(other.theta))]
    steeper = replace(other, curvature=other.curvature * float(np.exp(_STEP)))
    return [*found, steeper, replace(other, skew=other.skew + _STEP)]
