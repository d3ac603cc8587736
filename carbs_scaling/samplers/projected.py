"""Any Optuna sampler under the search's own rules: legal points, told what is run, within the budget."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from carbs_scaling.errors import BudgetSpent
from carbs_scaling.samplers.candidates import tried
from carbs_scaling.samplers.sampler import Sampler
from carbs_scaling.space.encoding import Point
from carbs_scaling.space.projection import LegalSpace, point_key

# Random points of which one stands in where a sampler's own cannot be paid.
_STAND_INS = 256
# Proposals looked at for a trial; those that fit a model for each are slow.
MANY_ATTEMPTS, FEW_ATTEMPTS = 50, 8


class ProjectedSampler(Sampler):
    """Asks another sampler for whole points, projects them, and asks again for what is spent or known.

    Args:
        base_for: the sampler that proposes for a trial number. Where it makes a new one each time, seeded by
            the number, a proposal is a function of (seed, number, the other trials), and a search that was
            broken goes on as the unbroken one would have.
        space: what may be run.
        budget_flops: what all trials together may cost, or None.
        seed: of the points that stand in.
        attempts: proposals looked at before one that was run already is taken, or none of them can be paid.
        stands_in: whether, where none of them can be paid, a random point that can stands in; else the search
            ends there.
    """

    def __init__(
        self,
        base_for: Callable[[int], BaseSampler],
        space: LegalSpace,
        budget_flops: float | None = None,
        seed: int = 0,
        attempts: int = MANY_ATTEMPTS,
        stands_in: bool = True,
    ) -> None:
        super().__init__(space, budget_flops, seed)
        self.base_for, self.attempts, self.stands_in = base_for, attempts, stands_in

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """One legal, affordable point; none where `optimize` ends.

        Raises:
            BudgetSpent: what remains pays for none.
        """
        try:
            return self._proposed_for(study, trial)
        except BudgetSpent as spent:
            return self.end(study, trial, spent)

    def _proposed_for(self, study: Study, trial: FrozenTrial) -> Point:
        history = self.read(study, but=trial.number)
        remaining = self.may_cost(history)
        self.require_affordable(remaining)
        known = tried(history)
        stopped = {point_key(point) for point, _ in history.bounded}  # once more they would be stopped again
        base = self.base_for(trial.number)
        paid: Point | None = None
        for _ in range(self.attempts):
            point = self.space.legal(self._ask(base, study, trial))
            key = point_key(point)
            if key in stopped or not self._may_run(point, remaining):
                continue
            paid = point
            if key not in known:
                break
        return self._stand_in(trial.number, remaining) if paid is None else paid

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Passes on to the base sampler."""
        self.base_for(trial.number).before_trial(study, trial)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Passes on to the base sampler."""
        self.base_for(trial.number).after_trial(study, trial, state, values)

    def _may_run(self, point: Point, remaining: float) -> bool:
        return self.space.permits(point) and self.space.cost(point) <= remaining

    def _ask(self, base: BaseSampler, study: Study, trial: FrozenTrial) -> Point:
        together = base.infer_relative_search_space(study, trial)
        point = dict(base.sample_relative(study, trial, together))
        for name, distribution in self.space.encoding.distributions.items():
            if name not in point:
                point[name] = base.sample_independent(study, trial, name, distribution)
        return point

    def _stand_in(self, number: int, remaining: float) -> Point:
        if not self.stands_in:
            raise BudgetSpent(
                f"{self.attempts} proposals in a row cost more than the {remaining:.3g} FLOPs left, or were "
                "stopped before"
            )
        rng = np.random.default_rng([self.seed, number])
        for knobs in self.space.encoding.points(rng.random((_STAND_INS, self.space.encoding.knobs))):
            point = self.space.legal(knobs)
            if self._may_run(point, remaining):
                return point
        return dict(self.space.cheapest)
