"""TEMPORARY shim."""

from dataclasses import dataclass

import numpy as np

from carbs_scaling.laws.form import law as form


@dataclass(frozen=True)
class LossLaw:
    theta: tuple
    centre: tuple
    has_role: tuple
    covariance: tuple | None = None
    residual_sd: float = float("nan")


def law_value(theta, features, has_role):
    return form.value(theta, features)


def law_floor(theta, features, has_role):
    return form.floor(np.asarray(theta)[..., None, :], features[:, 0], features[:, 1])


def best_batch_feature(theta, features):
    return form.best_batch(theta, features[:, 0], features[:, 1])


def best_rate_feature(theta, features):
    return form.best_rate(theta, features[:, 0], features[:, 1], features[:, 3])


def valley_curvatures(theta, features, has_role):
    return form.curvatures(theta, features[:, 0], features[:, 1])


def law_jacobian(theta, features, has_role):
    v, h, s = form.value_and_slopes(theta, features)
    return v, s
