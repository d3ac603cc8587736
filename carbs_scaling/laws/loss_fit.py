"""The most probable loss law for some runs: Levenberg-Marquardt under Huber's loss or correlated errors."""

from dataclasses import dataclass
from math import isfinite

import numpy as np
from scipy.linalg import solve_triangular

from carbs_scaling.laws.loss import LossLaw, law_floor, law_jacobian, law_value
from carbs_scaling.laws.loss_prior import LawPrior, law_prior

# Distinct runs below which there is no law.
MIN_POINTS = 5


@dataclass(frozen=True)
class LawFit:
    """The most probable law for some runs.

    Args:
        theta: shape (19,).
        covariance: Laplace (Gauss-Newton) posterior covariance, shape (19, 19); 0 for pinned parameters.
        objective: half the weighted squares plus half the prior's squares, Huber's where that is larger.
        converged: whether the last step was small.
    """

    theta: np.ndarray
    covariance: np.ndarray
    objective: float
    converged: bool


def fit_law_map(
    features: np.ndarray,
    loss: np.ndarray,
    noise_sd: np.ndarray,
    prior: LawPrior,
    starts: tuple[np.ndarray, ...] = (),
    iterations: int = 40,
    huber: float = 2.0,
) -> LawFit:
    """Maximum a posteriori law under Huber's loss: Levenberg-Marquardt from several starts, the best kept.

    Args:
        features: centred log features, shape (n, 4).
        loss: shape (n,).
        noise_sd: standard deviation of each run around the law, shape (n,).
        prior: of the parameters; its mean is always one of the starts.
        starts: further starts, each of shape (19,).
        iterations: Levenberg-Marquardt steps a start.
        huber: residuals beyond this many standard deviations count linearly.
    """

    def whiten(values: np.ndarray) -> np.ndarray:
        return values / (noise_sd if values.ndim == 1 else noise_sd[:, None])

    fits = [
        _levenberg_marquardt(features, loss, whiten, prior, start, iterations, huber)
        for start in (prior.mean, *starts)
    ]
    return min(fits, key=lambda fit: fit.objective)


def _levenberg_marquardt(
    features, loss, whiten, prior: LawPrior, start, iterations: int, huber: float
) -> LawFit:
    # Steps are taken in z, of which the prior's own Hessian is the identity.
    root = prior.root
    z = prior.inverse_root @ (np.asarray(start, dtype=float) - prior.mean)
    theta = prior.mean + root @ z
    reach = min(huber, 1e9)

    def objective(theta: np.ndarray, z: np.ndarray) -> float:
        off = np.abs(whiten(loss - law_value(theta, features, prior.has_role)))
        data = np.where(off <= huber, off**2 / 2, reach * (off - reach / 2)).sum()
        return float(data + 0.5 * z @ z)

    damping, best, converged = 1e-2, objective(theta, z), False
    hessian = np.eye(z.size)
    for _ in range(iterations):
        value, slopes = law_jacobian(theta, features, prior.has_role)
        residual = whiten(loss - value)
        scaled = whiten(slopes @ root)
        weight = np.minimum(1.0, huber / np.maximum(np.abs(residual), 1e-12))
        hessian = scaled.T @ (weight[:, None] * scaled) + np.eye(z.size)
        gradient = scaled.T @ (weight * residual) - z
        for _ in range(8):
            step = np.linalg.solve(hessian + damping * np.diag(np.diag(hessian)), gradient)
            step *= min(1.0, 2.0 / max(np.abs(step).max(), 1e-12))
            there = prior.mean + root @ (z + step)
            value_there = objective(there, z + step)
            if isfinite(value_there) and value_there < best:
                break
            damping *= 4
        else:
            converged = True
            break
        gained, best, theta, z = best - value_there, value_there, there, z + step
        damping = max(damping / 5, 1e-9)
        if gained < 1e-4:
            converged = True
            break
    covariance = root @ np.linalg.solve(hessian, root.T)
    return LawFit(theta=theta, covariance=covariance, objective=best, converged=converged)


def refine_law(
    features: np.ndarray, loss: np.ndarray, cholesky: np.ndarray, prior: LawPrior, start
) -> LawFit:
    """Maximum a posteriori law under correlated normal errors.

    Args:
        features: centred log features, shape (n, 4).
        loss: shape (n,).
        cholesky: lower factor of the errors' covariance, shape (n, n).
        prior: of the parameters.
        start: shape (19,).
    """

    def whiten(values: np.ndarray) -> np.ndarray:
        return solve_triangular(cholesky, values, lower=True, check_finite=False)

    return _levenberg_marquardt(features, loss, whiten, prior, start, 20, float("inf"))


def fit_loss_law(params, tokens, learning_rate, batch_tokens, loss) -> LossLaw | None:
    """The loss law of some finished runs, or None where there are too few to say anything.

    Args:
        params: non-embedding parameters, shape (n,); None for a role that there is not (also below).
        tokens: training tokens, shape (n,).
        learning_rate: peak learning rates, shape (n,).
        batch_tokens: tokens a step, shape (n,).
        loss: final losses, shape (n,); runs with any number that is not finite are left out.

    Returns:
        The law, or None with fewer than `MIN_POINTS` distinct runs.
    """
    loss = np.asarray(loss, dtype=float).reshape(-1)
    given = (params, tokens, learning_rate, batch_tokens)
    has_role = tuple(column is not None for column in given)
    columns = [
        np.log(np.asarray(c, dtype=float).reshape(-1)) if c is not None else np.zeros_like(loss)
        for c in given
    ]
    logs = np.stack(columns, axis=-1)
    keep = np.isfinite(logs).all(axis=1) & np.isfinite(loss)
    logs, loss = logs[keep], loss[keep]
    if len(np.unique(np.column_stack([logs, loss]), axis=0)) < MIN_POINTS:
        return None
    centre = tuple(float(c) for c in (logs.min(axis=0) + logs.max(axis=0)) / 2)
    level, spread = loss_scale(loss)
    prior = law_prior(level, centre, has_role)
    features = logs - np.asarray(centre)
    noise_sd = np.full(loss.shape, 0.2 * spread)
    for _ in range(3):
        fit = fit_law_map(features, loss, noise_sd, prior)
        residual = loss - law_value(fit.theta, features, has_role)
        # A run far above the floor says less about it: its error is taken to grow with its excess.
        excess = np.maximum(loss - law_floor(fit.theta, features, has_role), 0.0)
        typical = max(1.4826 * float(np.median(np.abs(residual))), 0.01 * spread)
        noise_sd = np.sqrt(typical**2 + (0.15 * excess) ** 2)
    return LossLaw(
        theta=tuple(float(v) for v in fit.theta),
        centre=centre,
        has_role=has_role,
        covariance=tuple(tuple(float(v) for v in row) for row in fit.covariance),
        residual_sd=float(np.sqrt(np.mean(residual**2))),
    )


def loss_scale(loss: np.ndarray) -> tuple[float, float]:
    """(level, spread) of some losses: their low end, and a robust standard deviation; both positive.

    The spread has a floor of a thousandth of the level, so that equal losses do no harm.
    """
    low = float(np.min(loss))
    quartiles = np.quantile(loss, [0.25, 0.75])
    spread = max(
        float(quartiles[1] - quartiles[0]) / 1.349, 0.5 * float(np.median(np.abs(loss - np.median(loss))))
    )
    level = max(abs(low), spread, 1e-9)
    return level, max(spread, 1e-2 * level)
