"""The search as an Optuna sampler: expected gain of the loss-compute front per FLOP.

`CarbsSampler` works in anybody's two-objective study (loss, training FLOPs), by `ask` and `tell` or by
`optimize`. A proposal is a pure function of (seed, trial number, the other trials): it can be made again
after a restart, and no global random state is used or touched.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from math import isfinite, isinf
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from carbs_scaling.laws.fit.fit_law import fit_law
from carbs_scaling.laws.prior.rates import ADAMW, RatePrior
from carbs_scaling.laws.recipe import Recommendation
from carbs_scaling.laws.runs.reading import StudyRuns, study_row
from carbs_scaling.laws.scaling_law import ScalingLaw
from carbs_scaling.ledger.history import MACHINE, History, without_collapsed
from carbs_scaling.ledger.trials import read_trials
from carbs_scaling.samplers.candidates import design_point
from carbs_scaling.samplers.front_search import FrontSearch
from carbs_scaling.samplers.options import SamplerOptions
from carbs_scaling.samplers.sampler import Sampler, SamplerEntry
from carbs_scaling.samplers.target_search import most_informative
from carbs_scaling.space.encoding import Encoding, Point
from carbs_scaling.space.projection import LegalSpace
from carbs_scaling.surrogate.fit import SurrogateFitter
from carbs_scaling.surrogate.model import LawEnsembleModel
from carbs_scaling.trial import Status

logger = logging.getLogger(__name__)

# A design goes on beyond one run a dimension while it has spent at most this share of the budget.
_DESIGN_SHARE = 0.02
_PROPOSING = threading.Lock()  # not of the sampler, which people pickle


class CarbsSampler(Sampler):
    """Proposes the runs that are expected to push out the front of loss against FLOPs most, per FLOP.

    Args:
        distributions: Optuna distributions by name: float, int, logarithmic or not, and categorical.
        flops: training FLOPs of a point (name to value), known before the run.
        roles: those of `params`, `tokens`, `learning_rate`, `batch_tokens` that a point has; the loss law
            uses what it is given.
        project: the nearest legal point, which is what the trial's parameters then hold; None: all are legal.
        budget_flops: training FLOPs that all trials together may cost; None: no limit.
        target: (params, tokens) of a model that the search shall serve by extrapolation: it then buys what
            tells most, per FLOP, about the best learning rate, the best batch and the loss there
            (`best_recipe`); None: the front itself.
        seed: of the proposals; None draws one.
        allowed: whether a legal point may be run at all, such as one that fits into memory; None: all may.
        rates: what is known of the best learning rate before any run; other optimizers than AdamW have
            theirs in `laws.prior.rates`.
        options: further fields of `SamplerOptions`, by name.

    Raises:
        ValueError: an argument that cannot be.
    """

    def __init__(
        self,
        distributions: Mapping[str, BaseDistribution],
        flops: Callable[[Point], float],
        roles: Callable[[Point], Mapping[str, float | None] | None],
        project: Callable[[Point], Point] | None = None,
        budget_flops: float | None = None,
        target: tuple[float, float] | None = None,
        seed: int | None = None,
        allowed: Callable[[Point], bool] | None = None,
        rates: RatePrior = ADAMW,
        **options: Any,
    ) -> None:
        self.options = SamplerOptions(target=target, **options)
        if budget_flops is not None and not budget_flops >= 0:
            raise ValueError(f"budget_flops={budget_flops} must be a number of FLOPs, or None for no limit")
        if seed is not None and int(seed) < 0:
            raise ValueError(f"seed={seed} must not be negative")
        super().__init__(
            LegalSpace(Encoding(dict(distributions)), flops, roles, project, allowed, rates),
            None if budget_flops is None or isinf(budget_flops) else float(budget_flops),
            int(np.random.default_rng().integers(2**32)) if seed is None else int(seed),
        )
        dearest = self.options.max_trial_flops
        if dearest is not None and not self.space.lowest_flops <= dearest:
            raise ValueError(
                f"max_trial_flops={dearest:.3g} allows no run: "
                f"the cheapest legal one costs {self.space.lowest_flops:.3g}"
            )
        self.target: tuple[float, float] | None = self.options.target
        if target is not None and not all(self.space.has_role[:2]):
            raise ValueError("a target needs points with the roles params and tokens")
        self.fallbacks: Counter[str] = Counter()

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """One legal, affordable point.

        Raises:
            BudgetSpent: what remains pays for none.
        """
        # One thread of `optimize(n_jobs=...)` at a time, each knowing what the others were told.
        with _PROPOSING:
            point = self.propose(self._history(study, but=trial.number), trial.number)
            self._proposed[trial.number] = point
            return point

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Stops `study.optimize` once nothing legal is affordable; elsewhere it does nothing."""
        proposed = self._proposed.pop(trial.number, None)
        remaining = self.read(study, but=trial.number).remaining_flops(self.budget_flops)
        if remaining - self._charge(trial, state, values, proposed) < self.space.lowest_flops:
            try:
                study.stop()
            except RuntimeError:
                # Raised outside `optimize`, where the caller asks `affordable` before the next trial.
                return

    def law(self, study: Study) -> ScalingLaw:
        """The scaling law of the study's runs, as `fit_law` fits it.

        Raises:
            LawError: the runs give no law.
        """
        rows = []
        for trial in read_trials(study):
            ended = trial.status in (Status.COMPLETED, Status.DIVERGED)
            if ended and self.space.encoding.contains(trial.params):
                roles = {
                    name: value for name, value in (self.space.roles(trial.params) or {}).items() if value
                }
                rows.append(study_row(trial.number, {**roles, **trial.params}, trial.loss))
        law = fit_law(StudyRuns(rows, study.study_name), rates=self.space.rates)
        assert isinstance(law, ScalingLaw)
        return law

    def best_recipe(self, study: Study, params: float, tokens: float) -> Recommendation:
        """What `law` recommends for N non-embedding parameters and D tokens, also beyond the search.

        Raises:
            LawError: the runs give no law.
        """
        return self.law(study).recommend(params, tokens)

    def propose(self, history: History, number: int) -> Point:
        """The point for trial `number` given the other trials.

        Raises:
            BudgetSpent: what remains pays for none.
        """
        limit = self._limit(history)
        self.require_affordable(limit)
        rng = np.random.default_rng([self.seed, number])
        if self._designs(history) or len(history.points) < 2:
            return self._design_point(history, rng, limit)
        if self.target is not None:
            count = 2 * self.options.candidates
            point = most_informative(self.space, history, self.target, rng, limit, self._overhead, count)
        else:
            point = self.front_search().best(history, self.model_of(history, rng), rng, limit)
        return self._cheapest("no new affordable candidate") if point is None else point

    def front_search(self) -> FrontSearch:
        """What chooses runs for the front."""
        return FrontSearch(self.space, self.options, self.budget_flops, self._overhead)

    def _history(self, study: Study, but: int | None = None) -> History:
        return without_collapsed(self.read(study, but), self.space)

    def _charge(
        self,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
        proposed: Point | None,
    ) -> float:
        """FLOPs of a trial that is about to end."""
        if state is TrialState.COMPLETE and values is not None and isfinite(values[1]):
            return float(values[1])
        if state is TrialState.FAIL and trial.user_attrs.get("outcome") == MACHINE:
            return 0.0
        if proposed is None and self.space.encoding.contains(trial.params):
            proposed = {name: trial.params[name] for name in self.space.encoding.distributions}
        return 0.0 if proposed is None else self.space.cost(proposed)

    def _designs(self, history: History) -> bool:
        """Whether the next point is one of the cheap design."""
        begun = len(history.points) + len(history.pending) + len(history.failed)
        if self.options.startup_trials is not None:
            return begun < self.options.startup_trials
        knobs = self.space.encoding.knobs
        if begun < min(knobs, 8):
            return True
        # A second round tells more of the valley than it costs, where it costs next to nothing.
        spent = history.spent_flops + history.committed_flops
        cheap = self.budget_flops is None or spent <= _DESIGN_SHARE * self.budget_flops
        return begun < min(2 * knobs, 8) and cheap

    @property
    def _overhead(self) -> float:
        """FLOPs that stand for what a trial costs beside its training."""
        if self.options.overhead_flops is not None:
            return self.options.overhead_flops
        if self.budget_flops is None:
            return 0.0
        return self.budget_flops / (20_000 if self.target is None else 1_000)

    def _limit(self, history: History) -> float:
        """Dearest run that may be proposed now."""
        cap = self.options.max_trial_flops
        return min(self.may_cost(history), float("inf") if cap is None else cap)

    def _design_point(self, history: History, rng: np.random.Generator, limit: float) -> Point:
        cap = self.space.lowest_flops * (self.space.highest_flops / self.space.lowest_flops) ** 0.35
        if self.budget_flops is not None:
            cap = min(cap, self.options.startup_fraction * self.budget_flops)
        # Never so tight that only the very cheapest shape is left: twice its parameters or tokens cost twice
        # as much, give or take what rounding to legal shapes does; twice its width four times.
        for least in (2.5, 5.0):
            point = design_point(
                self.space, history, rng, min(max(cap, least * self.space.lowest_flops), limit)
            )
            if point is not None:
                break
        return self._cheapest("no new point for the design") if point is None else point

    def model_of(self, history: History, rng: np.random.Generator) -> LawEnsembleModel:
        """The model of the loss after the completed trials of `history`, at least two."""
        known = self.space.describe(history.points)
        fitter = SurrogateFitter(
            self.space.centre,
            self.space.has_role if self.options.law_mean else (False,) * 4,
            self.space.role_range("learning_rate"),
            self.space.role_range("batch_tokens"),
            self.options.members,
            self.space.floor_field,
            self.space.rates,
            self.fallbacks,
        )
        return fitter.fit(known.cube, known.features, np.asarray(history.loss), rng)

    def _cheapest(self, reason: str) -> Point:
        self.fallbacks[reason] += 1
        logger.warning("%s: the cheapest legal point is proposed", reason)
        return dict(self.space.cheapest)


def _build(space: LegalSpace, budget_flops: float, seed: int, options: SamplerOptions) -> CarbsSampler:
    parts = space.encoding.distributions, space.flops, space.roles, space.project
    return CarbsSampler(
        *parts,
        budget_flops=budget_flops,
        seed=seed,
        allowed=space.allowed,
        rates=space.rates,
        **asdict(options),
    )


SAMPLER = SamplerEntry(_build, SamplerOptions)
