"""Warnings about somebody's own program, once each: what it returns and suggests is not what it declared."""

import warnings
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from carbs_scaling.ledger.history import MACHINE
from carbs_scaling.ledger.trials import INHERITED, RECORD
from carbs_scaling.space.encoding import Point
from carbs_scaling.space.projection import LegalSpace

# Factors of the declared FLOPs between which reported ones are fine: runs may end early, or count otherwise.
LEAST, MOST = 0.1, 3.0


class TrialChecks:
    """Looks at trials and warns of each kind of mistake once."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def roles(self, space: LegalSpace, given: bool) -> None:
        """Warns of roles that are the same everywhere: no law can be learnt from them."""
        ranges = [space.role_range(name) for name in ("params", "tokens", "learning_rate", "batch_tokens")]
        varied = [known for known in ranges if known is not None and known[1] - known[0] > 1e-9]
        if given and not varied:
            self._warn(
                "roles",
                "roles(point) says nothing: it names none of params, tokens, learning_rate and batch_tokens, "
                "or gives the same numbers everywhere; without roles (None) there is no law",
            )

    def ranges(self, trial: FrozenTrial, space: LegalSpace) -> None:
        """Warns of a parameter that is suggested in another range than was declared."""
        for name, declared in space.encoding.distributions.items():
            suggested = trial.distributions.get(name, declared)
            if suggested != declared:
                self._warn(
                    "ranges",
                    f"{name} is suggested as {suggested} and declared as {declared}: make them the same, or "
                    "values outside are drawn at random and the search learns from the wrong scale",
                )

    def values(self, number: int, values: Sequence[float] | None, cost: float) -> None:
        """Warns of objectives in the wrong order, and of FLOPs far from those that were declared."""
        if values is None or len(values) != 2 or not all(isfinite(value) for value in values):
            return
        first, second = values
        if not _near(second, cost) and _near(first, cost):
            self._warn(
                "order",
                f"trial {number} returned ({first:.3g}, {second:.3g}), and flops(point) is {cost:.3g}: "
                "return the loss first and the FLOPs second",
            )
        elif not _near(second, cost):
            self._warn(
                "flops",
                f"trial {number} reported {second:.3g} FLOPs where flops(point) said {cost:.3g}: the search "
                "chooses runs by the latter, so make them agree",
            )

    def lacking(self, completed: Sequence[Mapping[str, Any]], space: LegalSpace) -> None:
        """Warns of trials that are not learnt from because a parameter was not suggested in them."""
        names = space.encoding.distributions
        partly = [params for params in completed if not names.keys().isdisjoint(params)]
        without = [params for params in partly if not names.keys() <= params.keys()]
        lost = [params for params in without if space.point_of(params) is None]
        absent = next((name for params in lost for name in names if name not in params), None)
        if absent is not None:
            self._warn(
                "lacking",
                f"{len(lost)} of {len(partly)} trials are not learnt from: {absent} was not suggested in "
                "them, and no categorical parameter says when it is; suggest it always",
            )

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            warnings.warn(message, UserWarning, stacklevel=4)


def record_own(
    study: Study,
    trial: FrozenTrial,
    values: Sequence[float] | None,
    space: LegalSpace,
    checks: TrialChecks,
) -> None:
    """Checks a trial of somebody's own study, and writes its roles and cost as our ledger has them."""
    if RECORD in trial.user_attrs:
        return
    point = space.point_of(trial.params)
    checks.ranges(trial, space)
    if point is None:
        return
    cost = space.cost(point)
    checks.values(trial.number, values, cost)
    roles = {name: float(value) for name, value in (space.roles(point) or {}).items() if value}
    provenance = {"sampler": "carbs"}
    written: dict[str, Any] = {
        "roles": roles,
        "details": {},
        "flops": cost,
        "seed": 0,
        "provenance": provenance,
    }
    inherited = study._storage.get_trial(trial._trial_id).user_attrs.get(INHERITED, 0.0)
    if inherited:
        written[INHERITED] = inherited
    study._storage.set_trial_user_attr(trial._trial_id, RECORD, written)


def charge(
    trial: FrozenTrial,
    state: TrialState,
    values: Sequence[float] | None,
    proposed: Point | None,
    space: LegalSpace,
) -> float:
    """FLOPs that a trial which is about to end has to pay."""
    inherited = float(trial.user_attrs.get(INHERITED, 0.0))
    if state is TrialState.COMPLETE and values is not None and isfinite(values[1]):
        return max(0.0, float(values[1]) - inherited)
    if state is TrialState.FAIL and trial.user_attrs.get("outcome") == MACHINE:
        return 0.0
    point = space.point_of(trial.params) if proposed is None else proposed
    return 0.0 if point is None else max(0.0, space.cost(point) - inherited)


def _near(flops: float, cost: float) -> bool:
    return bool(LEAST <= np.float64(flops) / cost <= MOST)
