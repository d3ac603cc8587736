"""Any Optuna sampler under the search's own rules: legal points, told what is run, within the budget."""

from collections.abc import Callable
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from carbs_scaling.errors import BudgetSpent
from carbs_scaling.ledger.history import read_history
from carbs_scaling.space.projection import LegalSpace, Point, point_key

# Random points of which one stands in where a sampler's own cannot be paid.
_STAND_INS = 256


class ProjectedSampler(BaseSampler):
    """Asks another sampler for whole points, projects them, and asks again for what is spent or known.

    Args:
        base_for: the sampler that proposes for a trial number. Where it makes a new one each time, seeded by
            the number, a proposal is a function of (seed, number, the other trials), and a search that was
            broken goes on as the unbroken one would have.
        space: what may be run.
        budget_flops: what all trials together may cost, or None.
        attempts: proposals looked at before one that was run already is taken, or none of them can be paid.
        stand_in_seed: where none of them can be paid, a random point that can stands in, drawn with this
            seed; None: the search ends there.
    """

    def __init__(
        self,
        base_for: Callable[[int], BaseSampler],
        space: LegalSpace,
        budget_flops: float | None = None,
        attempts: int = 50,
        stand_in_seed: int | None = None,
    ) -> None:
        self.base_for = base_for
        self.space = space
        self.budget_flops = budget_flops
        self.attempts = attempts
        self.stand_in_seed = stand_in_seed

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self.space.encoding.distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """One legal, affordable point.

        Raises:
            BudgetSpent: what remains pays for none.
        """
        history = read_history(study, self.space, but=trial.number)
        remaining = history.remaining_flops(self.budget_flops)
        if remaining < self.space.lowest_flops:
            raise BudgetSpent(
                f"{remaining:.3g} FLOPs remain, the cheapest run costs {self.space.lowest_flops:.3g}"
            )
        known = {point_key(point) for point in history.points + history.pending + history.failed}
        base = self.base_for(trial.number)
        paid: Point | None = None
        for _ in range(self.attempts):
            point = self.space.legal(self._ask(base, study, trial))
            if not self._may_run(point, remaining):
                continue
            paid = point
            if point_key(point) not in known:
                break
        return self._stand_in(trial.number, remaining) if paid is None else paid

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.base_for(trial.number).sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self.base_for(trial.number).before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values) -> None:
        self.base_for(trial.number).after_trial(study, trial, state, values)

    def remaining_flops(self, study: Study) -> float:
        """Budget less what is spent and what running trials are committed to; infinite without a budget."""
        return read_history(study, self.space).remaining_flops(self.budget_flops)

    def affordable(self, study: Study) -> bool:
        """Whether some legal point fits into what remains."""
        return self.remaining_flops(study) >= self.space.lowest_flops

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
        if self.stand_in_seed is None:
            raise BudgetSpent(
                f"{self.attempts} proposals in a row cost more than the {remaining:.3g} FLOPs left"
            )
        rng = np.random.default_rng([self.stand_in_seed, number])
        for knobs in rng.random((_STAND_INS, self.space.encoding.knobs)):
            point = self.space.legal(self.space.encoding.point(knobs))
            if self._may_run(point, remaining):
                return point
        return dict(self.space.cheapest)
