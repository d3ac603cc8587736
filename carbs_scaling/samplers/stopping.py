"""The training loss above which a trial that is about to run would hardly reach the front: a `StopRule`.

Two things say what a run will end at. The surrogate: a distribution of the loss at the point. And the curve:
at a share p of its tokens a run is above its end by

    ln L(p) - ln L_end = ln floor(N, p D) - ln floor(N, D) + s(p),

where the law's floor says what more tokens bring, and s(p) what rate, schedule and the difference of training
and held-out loss do. The runs of a study share their schedule, so mean and deviation of s(p) are read off the
curves of those that ended. The losses are taken as normal in their logs, and both sources as independent.
"""

from collections.abc import Sequence
from math import hypot, inf, log, sqrt

import numpy as np
import torch
from scipy.stats import norm, t

from carbs_scaling.frontier import pareto_front
from carbs_scaling.laws.recommend.predicted_curve import PARTS, SeenCurve
from carbs_scaling.ledger.history import History
from carbs_scaling.space.encoding import Point
from carbs_scaling.space.projection import LegalSpace
from carbs_scaling.stop_rule import StopRule
from carbs_scaling.surrogate.model import LawEnsembleModel

# Curves of fewer runs say too little of how much they differ.
LEAST_CURVES = 8
# Standard deviation of ln loss that is added to what the surrogate predicts: a run may go wrong in a way that
# no other did, and the surrogate alone would be sure that it does not. About that of seeds on tiny models.
LEAST_DEVIATION = 0.02
# Nothing stops in the first part of a run, where losses fall in another way at every size.
FIRST_PART = 3


def stop_rule(
    space: LegalSpace,
    history: History,
    model: LawEnsembleModel,
    curves: Sequence[SeenCurve],
    point: Point,
    probability: float,
) -> StopRule | None:
    """When a run at a legal point ends early; None where too little is known, or no run was as cheap.

    Args:
        space: with N and D.
        history: of the other trials.
        model: of the loss, fitted to the completed ones.
        curves: of completed runs.
        point: that is about to run.
        probability: to end below the front at its FLOPs, under which a run ends.
    """
    shapes = [shape for curve in curves if (shape := _shape(space, model, curve)) is not None]
    level = front_level(space, history, point)
    if len(shapes) < LEAST_CURVES or level is None:
        return None
    count = len(shapes)
    middle = np.mean(shapes, axis=0)
    # Of one more curve, by Student's t: few of them say little of how much they differ.
    wider = t.ppf(1 - probability, count - 1) / norm.ppf(1 - probability)
    spread = np.std(shapes, axis=0, ddof=1) * sqrt(1 + 1 / count) * wider
    with torch.no_grad():
        predicted = model.posterior(space.describe([point]).rows[:, None])
    mean = max(float(predicted.mean), 1e-9)
    seeds = hypot(sqrt(float(predicted.variance)), model.noise_sd) / mean
    prior, prior_sd = log(mean), hypot(seeds, LEAST_DEVIATION)
    roles = space.roles(point) or {}
    along = _falls(space, model, float(roles["params"] or 1), float(roles["tokens"] or 1))
    # Posterior mean m and deviation d of ln L_end given y = ln L(p) - fall(p) - s(p); it stops where
    # (ln level - m) / d is below the quantile.
    precision = 1 / prior_sd**2 + 1 / spread**2
    least = log(level) - norm.ppf(probability) / np.sqrt(precision)
    y = spread**2 * (least * precision - prior / prior_sd**2)
    losses = np.exp(np.minimum(y + along + middle, 700.0))
    shares = [(part + 1) / PARTS for part in range(PARTS - 1)]
    kept = [inf if part < FIRST_PART else float(losses[part]) for part in range(PARTS - 1)]
    return StopRule(tuple(shares), tuple(kept), level)


def front_level(space: LegalSpace, history: History, point: Point) -> float | None:
    """The lowest loss of runs that cost no more; None where there is none, or it is not positive."""
    cost = space.cost(point)
    flops, loss = np.asarray(history.flops), np.asarray(history.loss)
    cheaper = [loss[i] for i in pareto_front(flops, loss) if flops[i] <= cost] if len(loss) else []
    return float(min(cheaper)) if cheaper and min(cheaper) > 0 else None


def _falls(space: LegalSpace, model: LawEnsembleModel, params: float, tokens: float) -> np.ndarray:
    """ln floor(N, p D) - ln floor(N, D) in the middle of each part but the last, shape (PARTS - 1,)."""
    shares = (np.arange(PARTS - 1) + 0.5) / PARTS
    features = np.zeros((PARTS, 4))
    features[:, 0] = log(params) - space.centre[0]
    features[:, 1] = np.log(tokens * np.append(shares, 1.0)) - space.centre[1]
    losses = np.maximum(model.best_law.floor(features), 1e-9)
    return np.asarray(np.log(losses[:-1]) - np.log(losses[-1]))


def _shape(space: LegalSpace, model: LawEnsembleModel, curve: SeenCurve) -> np.ndarray | None:
    """Values of s, shape (PARTS - 1,); None for a curve with a part that has no loss."""
    if not (curve.end_loss > 0 and (curve.loss > 0).all()):
        return None
    parts = np.minimum((curve.share * PARTS).astype(int), PARTS - 1)
    count = np.bincount(parts, minlength=PARTS)[:-1]
    if not count.all():
        return None
    loss = np.bincount(parts, curve.loss, PARTS)[:-1] / count
    return np.asarray(np.log(loss / curve.end_loss) - _falls(space, model, curve.params, curve.tokens))
