"""The run that tells most, per FLOP, about one model too large to search at."""

import numpy as np

from carbs_scaling.acquisition.target_information import TargetDesign
from carbs_scaling.laws.loss import law_value
from carbs_scaling.laws.loss_fit import loss_scale
from carbs_scaling.laws.loss_prior import law_prior
from carbs_scaling.ledger.history import History
from carbs_scaling.samplers.candidates import target_candidates
from carbs_scaling.space.projection import LegalSpace, Point
from carbs_scaling.surrogate.feasibility import chance_to_end
from carbs_scaling.surrogate.model import robust_law


def most_informative(
    space: LegalSpace,
    history: History,
    target: tuple[float, float],
    rng: np.random.Generator,
    limit: float,
    overhead_flops: float,
    count: int,
) -> Point | None:
    """The best of `count` new points that cost at most `limit`; None where there is none.

    Args:
        space: of the caller.
        history: at least two completed trials.
        target: (params, tokens).
        rng: of the candidates.
        limit: FLOPs.
        overhead_flops: what a trial costs beside its FLOPs.
        count: candidates.
    """
    design = target_design(space, history, target)
    pool = target_candidates(space, history, design.theta, rng, limit, count)
    if not len(pool):
        return None
    gain = design.information(pool.features)
    ends = chance_to_end(space, history, design.theta)
    if ends is not None:
        gain = gain * ends(pool)
    score = np.log(np.maximum(gain, 1e-300)) - np.log(pool.flops + overhead_flops)
    return pool.points[int(np.argmax(score))]


def target_design(space: LegalSpace, history: History, target: tuple[float, float]) -> TargetDesign:
    """What is believed of (params, tokens); running trials are taken to end where the law says."""
    runs = space.describe(history.points + history.pending).features
    loss = np.asarray(history.loss, dtype=float)
    level, spread = loss_scale(loss)
    ranges = space.role_range("learning_rate"), space.role_range("batch_tokens")
    prior = law_prior(level, space.centre, space.has_role, *ranges)
    theta = robust_law(runs[: len(loss)], loss, spread, prior)[0].theta
    believed = law_value(theta, runs[len(loss) :], space.has_role)
    place = np.log(target) - np.asarray(space.centre[:2])
    return TargetDesign.of(theta, prior, runs, np.concatenate([loss, believed]), place)
