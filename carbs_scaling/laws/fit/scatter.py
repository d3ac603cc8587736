"""How cells and sizes scatter around the law, and what that makes of the covariance of its parameters.

Runs of one cell (N, D) share what the law gets wrong there, and so do runs of one model size: a loss that
is off as a whole, a best learning rate that is off. The variances of these shifts are estimated from the
residuals and enter the covariance of the law (a sandwich), without which a cell swept a hundred times would
count as a hundred independent runs. They do not weight the fit itself: on held-out sizes that predicted
worse. They do decide how far a bend of the power laws is kept (`carbs_scaling.laws.form.bends`).
"""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from carbs_scaling.laws.fit.least_squares import huber
from carbs_scaling.laws.fit.noise import Noise, estimate_noise
from carbs_scaling.laws.fit.problem import Grouping, LawProblem
from carbs_scaling.laws.form.valley import Array

_MIN_CELL_RUNS = 4  # a cell with fewer says nothing of its own about a valley: its scatter is run noise
_MIN_CELLS = 3
_MIN_SIZES = 2
_MAX_EFFECT_COLUMNS = 600
# Level and exponent in N go through the sizes, so that two of them scatter not at all: of the scatter of m
# sizes m - 2 are left to tell its variance. (Cells are many: what the law takes of theirs is left out.)
_FITTED_THROUGH_SIZES = 2
# A first guess of each spread, worth `PRIOR_GROUPS` groups: neutral, so that few groups do not give zero.
PRIOR_GROUPS = 1.0
FIRST_SPREAD = {"loss": 0.003, "rate": 0.15, "batch": 0.2, "steepness": 0.2}  # loss: as a share of the loss
_OUTLIER = 3.0  # standard deviations beyond which a residual says no more about its cell and size
_ROUNDS = 25

Spread = dict[tuple[str, str], float]


def groupings(features: Array) -> list[Grouping]:
    """Cells and sizes that have enough runs to show a shift of their own.

    Args:
        features: centred logs of N, D, learning rate, batch; shape (n, 4).
    """
    sizes = np.unique(np.round(features[:, 0], 2), return_inverse=True)[1].reshape(-1)
    cells = np.unique(np.round(features[:, :2], 2), axis=0, return_inverse=True)[1].reshape(-1)
    kinds: tuple[str, ...] = ("loss", "rate", "batch", "steepness")
    if sizes.max() == cells.max():  # one cell a size: then they are sizes that scatter
        levels = [("size", sizes, _MIN_SIZES, kinds)]
    else:
        levels = [("cell", cells, _MIN_CELLS, kinds), ("size", sizes, _MIN_SIZES, kinds[:3])]
    found = []
    for level, label, least, shared in levels:
        enough = np.bincount(label) >= _MIN_CELL_RUNS
        if enough.sum() < least or enough.sum() * len(shared) > _MAX_EFFECT_COLUMNS:
            continue
        basis = (label[:, None] == np.flatnonzero(enough)).astype(float)
        found += [Grouping(level, kind, basis) for kind in shared]
    return found


def scatter(
    problem: LawProblem, z: Array, noise: Noise, spread2: Sequence[float], groups: list[Grouping]
) -> tuple[Spread, Noise, Array]:
    """Spreads of cells and sizes by (level, kind), the noise that they leave to a run, the covariance of z.

    Variances of the linear mixed model residual = U u + noise, by maximum likelihood. The covariance is
    that of weighted least squares whose errors are correlated as U T U' says: H^-1 (H + J'W U T U'W J)
    H^-1.

    Args:
        problem: whose z was fitted.
        z: its minimum, shape (p,).
        noise: at the minimum.
        spread2: variances of the problem's own groups.
        groups: cells and sizes.
    """
    value, height, design = problem.evaluate(z)
    errors = noise.errors(height)
    covariance = problem.covariance(z, errors, spread2)
    if not groups:
        return {}, noise, covariance
    residual = problem.loss - value
    weight = huber(residual, errors.variance)[1]
    # A mixed model is not robust: one run three times too high would be taken for a size that is off.
    limit = _OUTLIER * np.sqrt(errors.variance)
    residual = np.clip(residual, -limit, limit)
    level = problem.level
    slopes = problem.by_parameters(z)[2]
    # Each run belongs to one cell and one size: some seven of up to 600 columns are not zero.
    effects = csr_array(np.concatenate([group.design(slopes) for group in groups], axis=1))
    owner = np.repeat(np.arange(len(groups)), [group.groups for group in groups])
    first2 = np.array([(FIRST_SPREAD[g.kind] * (level if g.kind == "loss" else 1.0)) ** 2 for g in groups])
    left = np.array([_left_to_tell(group) / group.groups for group in groups])
    group2 = first2.copy()
    for _ in range(_ROUNDS):
        variance = noise.errors(height).variance
        precision = (effects.T @ (effects * (1 / variance)[:, None])).toarray()
        precision[np.diag_indices_from(precision)] += 1 / group2[owner]
        inverse = np.linalg.inv(precision)
        shifts = inverse @ (effects.T @ (residual / variance))
        # A shift counts as far as runs determine it (MacKay's fixed point, which is that of EM); one that
        # they do not determine leaves the variance at its first guess.
        told = np.maximum(1 - np.diag(inverse) / group2[owner], 0.0)
        squares, counts = np.bincount(owner, shifts**2), np.bincount(owner, told) * left
        group2 = (squares + PRIOR_GROUPS * first2) / (counts + PRIOR_GROUPS)
        noise = estimate_noise(residual - effects @ shifts, height, noise, float(told.sum()) + len(z), level)
    shared = (effects.T @ (weight[:, None] * design)).T
    correlated = covariance @ ((shared * group2[owner]) @ shared.T) @ covariance
    # What the runs' own noise leaves uncertain, now that the shared part of it is counted apart.
    own = design.T @ ((weight**2 * noise.errors(height).variance)[:, None] * design)
    own += problem.too_high(z)[2] + problem.precision(spread2)
    covariance = covariance @ own @ covariance + correlated
    named = {(g.level, g.kind): float(np.sqrt(v)) for g, v in zip(groups, group2, strict=True)}
    return named, noise, (covariance + covariance.T) / 2


def _left_to_tell(group: Grouping) -> int:
    """How many shifts are left to tell their variance, once the law has been fitted through them."""
    return max(group.groups - _FITTED_THROUGH_SIZES, 0) if group.level == "size" else group.groups
