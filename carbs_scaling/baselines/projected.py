"""Any Optuna sampler under the search's own rules: legal points, told what is run, within the budget."""

from collections.abc import Callable
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from carbs_scaling.errors import BudgetSpent
from carbs_scaling.surrogate.encoding import Encoding
from carbs_scaling.surrogate.history import read_history
from carbs_scaling.surrogate.space import LegalSpace, Point, point_key


class ProjectedSampler(BaseSampler):
    """Asks another sampler for whole points, projects them, and asks again for what is spent or known.

    Args:
        base: the sampler that proposes.
        distributions: Optuna distributions by name.
        flops: training FLOPs of a point.
        roles: as for `CarbsSampler`.
        project: the nearest legal point, or None.
        budget_flops: what all trials together may cost, or None.
        attempts: proposals looked at before one that was run already is taken, or, if none of them can be
            paid, the search ends.
    """

    def __init__(
        self,
        base: BaseSampler,
        distributions: dict[str, BaseDistribution],
        flops: Callable[[Point], float],
        roles: Callable[[Point], dict],
        project: Callable[[Point], Point] | None = None,
        budget_flops: float | None = None,
        attempts: int = 50,
    ) -> None:
        self.base = base
        self.space = LegalSpace(Encoding(dict(distributions)), flops, roles, project)
        self.budget_flops = budget_flops
        self.attempts = attempts

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
        remaining = self._remaining(history.spent_flops + history.committed_flops)
        if remaining < self.space.lowest_flops:
            raise BudgetSpent(
                f"{remaining:.3g} FLOPs remain, the cheapest run costs {self.space.lowest_flops:.3g}"
            )
        known = {point_key(point) for point in history.points + history.pending}
        paid: Point | None = None
        for _ in range(self.attempts):
            point = self.space.legal(self._ask_base(study, trial))
            if self.space.cost(point) > remaining:
                continue
            paid = point
            if point_key(point) not in known:
                break
        if paid is None:
            raise BudgetSpent(
                f"{self.attempts} proposals in a row cost more than the {remaining:.3g} FLOPs left"
            )
        return paid

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.base.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self.base.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values) -> None:
        self.base.after_trial(study, trial, state, values)

    def affordable(self, study: Study) -> bool:
        """Whether some legal point fits into what remains."""
        history = read_history(study, self.space)
        return self._remaining(history.spent_flops + history.committed_flops) >= self.space.lowest_flops

    def _remaining(self, used: float) -> float:
        return float("inf") if self.budget_flops is None else self.budget_flops - used

    def _ask_base(self, study: Study, trial: FrozenTrial) -> Point:
        together = self.base.infer_relative_search_space(study, trial)
        point = dict(self.base.sample_relative(study, trial, together))
        for name, distribution in self.space.encoding.distributions.items():
            if name not in point:
                point[name] = self.base.sample_independent(study, trial, name, distribution)
        return point
