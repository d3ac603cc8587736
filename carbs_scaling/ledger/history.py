"""What the other trials of a study say: losses, costs, failures, and what is still running."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from carbs_scaling.laws.runs.collapse import collapsed
from carbs_scaling.space.projection import LegalSpace, Point

MACHINE = "machine"  # the `outcome` of a failure that says nothing of the point


@dataclass(frozen=True)
class History:
    """The trials as the surrogate sees them.

    Args:
        points: completed ones.
        loss: their losses, finite.
        flops: what they were charged.
        failed: points that diverged, ran out of memory, were pruned or broke without a word; those of the
            machine's failures are not in it.
        pending: points that are running.
        spent_flops: of completed and failed trials.
        committed_flops: of running trials.
    """

    points: list[Point]
    loss: list[float]
    flops: list[float]
    failed: list[Point]
    pending: list[Point]
    spent_flops: float
    committed_flops: float

    def remaining_flops(self, budget_flops: float | None) -> float:
        """Budget less what is spent and what running trials are committed to; infinite without a budget."""
        if budget_flops is None:
            return float("inf")
        return budget_flops - self.spent_flops - self.committed_flops


def without_collapsed(history: History, space: LegalSpace) -> History:
    """The history in which runs that ended with the loss of a model that broke count as diverged.

    Only where points have parameters and tokens: else a high loss may be all that so cheap a run can reach.
    """
    if len(history.points) < 2 or not all(space.has_role[:2]):
        return history
    broke, _ = collapsed(space.features(history.points), np.asarray(history.loss))
    if not broke.any():
        return history
    fine = np.flatnonzero(~broke)
    return replace(
        history,
        points=[history.points[i] for i in fine],
        loss=[history.loss[i] for i in fine],
        flops=[history.flops[i] for i in fine],
        failed=history.failed + [history.points[i] for i in np.flatnonzero(broke)],
    )


def read_history(
    study: Study, space: LegalSpace, but: int | None = None, proposed: Mapping[int, Point] | None = None
) -> History:
    """The history without trial number `but` (the one that is being sampled).

    A completed trial without two finite values counts as diverged, and so does one that failed without saying
    that the machine did it: Optuna makes a failure of a loss that is NaN, and of an exception that `optimize`
    was told to catch. Trials of other spaces are charged, where they say what they cost, and otherwise left
    out.

    Args:
        study: of two objectives, loss and training FLOPs.
        space: of the caller.
        but: number of a trial to leave out.
        proposed: points of running trials, by number, whose parameters may not all be stored yet.
    """
    points, loss, flops, failed, pending = [], [], [], [], []
    spent = committed = 0.0
    for trial in study.get_trials(deepcopy=False):
        if trial.number == but:
            continue
        point = _point_of(trial, space)
        if point is None and trial.state is TrialState.RUNNING:
            point = (proposed or {}).get(trial.number)
        charged = _charged(trial, point, space)
        if trial.state is TrialState.RUNNING:
            committed += charged
            if point is not None:
                pending.append(point)
        elif trial.state is TrialState.COMPLETE:
            spent += charged
            if point is None:
                continue
            if isfinite(trial.values[0]) and isfinite(trial.values[1]) and trial.values[1] > 0:
                points.append(point)
                loss.append(float(trial.values[0]))
                flops.append(float(trial.values[1]))
            else:
                failed.append(point)
        elif trial.state is TrialState.FAIL:
            spent += charged
            if point is not None and trial.user_attrs.get("outcome") != MACHINE:
                failed.append(point)
        elif trial.state is TrialState.PRUNED:
            spent += charged
            if point is not None:
                failed.append(point)
    return History(points, loss, flops, failed, pending, spent, committed)


def _point_of(trial: FrozenTrial, space: LegalSpace) -> Point | None:
    """What the space knows of the trial's parameters; the caller may suggest others beside them."""
    if not space.encoding.contains(trial.params):
        return None
    return {name: trial.params[name] for name in space.encoding.distributions}


def _charged(trial: FrozenTrial, point: Point | None, space: LegalSpace) -> float:
    if trial.state is TrialState.COMPLETE and len(trial.values) > 1 and isfinite(trial.values[1]):
        return max(float(trial.values[1]), 0.0)
    if trial.state is not TrialState.RUNNING and "flops" in trial.user_attrs:
        stated = float(trial.user_attrs["flops"])
        return max(stated, 0.0) if isfinite(stated) else 0.0
    if trial.state is TrialState.FAIL and trial.user_attrs.get("outcome") == MACHINE:
        return 0.0
    if trial.state is TrialState.WAITING or point is None:
        return 0.0
    return space.cost({name: point[name] for name in space.encoding.distributions})
