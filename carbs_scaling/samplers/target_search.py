"""The run that tells most, per FLOP, about one model too large to search at."""

import numpy as np
import torch
from botorch.optim import optimize_acqf_discrete

from carbs_scaling.acquisition.price import KnownRows, LogGainPerCost, known_costs, per_flop
from carbs_scaling.acquisition.target_information import TargetInformation, TargetModel
from carbs_scaling.laws.fit.law_fit import fit_plain_law
from carbs_scaling.laws.form.law import value
from carbs_scaling.ledger.history import History
from carbs_scaling.samplers.candidates import Limit, target_candidates
from carbs_scaling.space.encoding import Point
from carbs_scaling.space.projection import LegalSpace
from carbs_scaling.surrogate.feasibility import feasibility_of
from carbs_scaling.surrogate.fit import loss_scale
from carbs_scaling.surrogate.law_mean import LawMean


def most_informative(
    space: LegalSpace,
    history: History,
    target: tuple[float, float],
    rng: np.random.Generator,
    limit: Limit,
    overhead_flops: float,
    count: int,
) -> Point | None:
    """The best of `count` new points that keep to `limit`; None where there is none.

    Args:
        history: at least two completed trials.
        target: (params, tokens).
        overhead_flops: what a trial costs beside its FLOPs.
    """
    model = target_model(space, history, target)
    pool = target_candidates(space, history, model.theta, rng, limit, count)
    if not len(pool):
        return None
    rows = pool.rows
    costs = known_costs(rows, torch.from_numpy(limit.prices(pool)))
    feasibility = feasibility_of(space, history, LawMean(model.theta, space.has_role, 1.0))
    acquisition = LogGainPerCost([TargetInformation(model)], per_flop(costs, overhead_flops), feasibility)
    best, _ = optimize_acqf_discrete(acquisition, q=1, choices=rows)
    return pool.points[int(KnownRows(rows).find(best)[0])]


def target_model(space: LegalSpace, history: History, target: tuple[float, float]) -> TargetModel:
    """What is known of (params, tokens); running trials are taken to end where the law says."""
    runs = space.describe(history.points + history.pending).features
    offset, level, _ = loss_scale(np.asarray(history.loss, dtype=float))
    loss = np.asarray(history.loss, dtype=float) - offset
    prior = space.law_prior(level)
    theta = fit_plain_law(runs[: len(loss)], loss, prior).theta
    predicted = value(theta, runs[len(loss) :])
    place = np.log(target) - np.asarray(space.centre[:2])
    return TargetModel.of(theta, prior, runs, np.concatenate([loss, predicted]), place)
