"""The search as an Optuna sampler: expected gain of the loss-compute front per FLOP.

`CarbsSampler` works in anybody's two-objective study (loss, training FLOPs), by `ask` and `tell` or by
`optimize`. A proposal is a pure function of (seed, trial number, the other trials): it can be made again
after a restart, and no global random state is used or touched. Only proposals for
several workers, made while no trial ends, share what the first of them has fitted.
"""

import logging
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from math import inf, isinf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from carbs_scaling.errors import BudgetSpent
from carbs_scaling.laws.fit.fit_law import fit_law
from carbs_scaling.laws.prior.rates import ADAMW, RatePrior
from carbs_scaling.laws.recipe import Recommendation
from carbs_scaling.laws.recommend.predicted_curve import SeenCurve
from carbs_scaling.laws.runs.reading import StudyRuns, study_row
from carbs_scaling.laws.scaling_law import ScalingLaw
from carbs_scaling.ledger.history import History, essential, without_collapsed
from carbs_scaling.ledger.imported import Reader, add_runs, read_rows, require_some
from carbs_scaling.ledger.trials import INHERITED, OWN_PROGRAM_SAYS, read_trials
from carbs_scaling.samplers.candidates import Limit, design_point
from carbs_scaling.samplers.checks import TrialChecks, charge, record_own
from carbs_scaling.samplers.front_search import FrontSearch
from carbs_scaling.samplers.options import SamplerOptions
from carbs_scaling.samplers.sampler import Sampler, SamplerEntry
from carbs_scaling.samplers.stopping import LEAST_CURVES, stop_rule
from carbs_scaling.samplers.target_search import most_informative
from carbs_scaling.space.conditions import Conditions
from carbs_scaling.space.encoding import Encoding, Point
from carbs_scaling.space.projection import LegalSpace
from carbs_scaling.stop_rule import StopRule
from carbs_scaling.surrogate.fit import SurrogateFitter
from carbs_scaling.surrogate.model import LawEnsembleModel
from carbs_scaling.trial import Status

logger = logging.getLogger(__name__)

# A design goes on beyond one run a dimension while it has spent at most this share of the budget.
_DESIGN_SHARE = 0.02
# Most that the design may spend where the lowest loss is all that counts.
_DESIGN_SHARE_FOR_BEST = 0.2
# What one of a limited number of trials is worth, in equal shares of the budget that is left: more than one,
# for the cheap end of a front takes its trials first (docs/benchmarks.md, a limited number of trials).
_SHARE_OF_A_TRIAL = 3.0
# And never beyond this share of a limited number of trials.
_DESIGN_SHARE_OF_TRIALS = 0.2
# Runs that a proposal rests on: the time of a fit, two thirds of it that of the ensemble's chains, grows with
# them, its memory with their square (benchmarks/large_study.py, suggest_latency.py). What the choice of runs
# costs in regret was not measured.
MOST_RUNS = 800
_PROPOSING = threading.Lock()  # not of the sampler, which people pickle


class CarbsSampler(Sampler):
    """Proposes the runs that are expected to push out the front of loss against FLOPs most, per FLOP.

    With goal="best": the runs that are expected to fall below the lowest loss most, per FLOP.

    A parameter that the objective suggests only where a categorical one has some value is learnt from too.

    Args:
        distributions: Optuna distributions by name: float, int, logarithmic or not, and categorical.
        flops: training FLOPs of a point (name to value), known before the run.
        roles: those of `params`, `tokens`, `learning_rate`, `batch_tokens` that a point has; the loss law
            uses what it is given. None: there are none, and no law.
        project: the nearest legal point, which is what the trial's parameters then hold; None: all are legal.
        budget_flops: training FLOPs that all trials together may cost; None: no limit.
        n_trials: trials that there may be in all; None: no limit. With a budget, both are used up together.
        target: (params, tokens) of a model that the search shall serve by extrapolation: it then buys what
            tells most, per FLOP, about the best learning rate, the best batch and the loss there
            (`best_recipe`); None: the front itself.
        seed: of the proposals; None draws one.
        allowed: whether a legal point may be run at all, such as one that fits into memory; None: all may.
        rates: what is known of the best learning rate before any run; other optimizers than AdamW have
            theirs in `laws.prior.rates`.
        max_trial_flops: dearest run that may be proposed; None: no limit beside the budget.
        overhead_flops: what a trial costs beside its FLOPs (start, evaluation, a proposal): counted when
            gains are compared, never charged; None: a 20,000th of the budget, a thousandth with a target.
        startup_trials: runs of the cheap design before the surrogate takes over; None: one or two a
            dimension, at most 8.
        startup_fraction: share of the budget that one run of the design may cost; not read with goal=best,
            whose design may cost a fifth of the budget in all.
        candidates: random points scored a proposal; twice as many more follow around the best.
        members: laws in the surrogate's ensemble; 1 leaves the uncertainty of the law out.
        learning: share in which a run is also worth what it teaches about the valley for later runs.
        law_mean: whether the prior mean is the loss law; else it is a constant.
        price: FLOPs that a point would really cost now, given the points of the trials that it may go on
            from, by number (completed and stopped ones; -1: one that is not there yet, whose continuations
            are weighed); at most `flops(point)`, which stays its place on the
            front. Gains are weighed against it, and the budget is charged it. None: every run begins anew.
        goal: `front`: the lowest loss at every cost; `best`: the lowest loss of all, whatever it costs within
            the limits, for the fewest FLOPs and trials.

    Raises:
        ValueError: an argument that cannot be.
    """

    def __init__(
        self,
        distributions: Mapping[str, BaseDistribution],
        flops: Callable[[Point], float],
        roles: Callable[[Point], Mapping[str, float | None] | None] | None = None,
        project: Callable[[Point], Point] | None = None,
        budget_flops: float | None = None,
        *,
        n_trials: int | None = None,
        target: tuple[float, float] | None = None,
        seed: int | None = None,
        allowed: Callable[[Point], bool] | None = None,
        rates: RatePrior = ADAMW,
        max_trial_flops: float | None = None,
        overhead_flops: float | None = None,
        startup_trials: int | None = None,
        startup_fraction: float = SamplerOptions.startup_fraction,
        candidates: int = SamplerOptions.candidates,
        members: int = SamplerOptions.members,
        learning: float = SamplerOptions.learning,
        law_mean: bool = SamplerOptions.law_mean,
        price: Callable[[Point, Mapping[int, Point]], float] | None = None,
        goal: str = "front",
    ) -> None:
        self.options = SamplerOptions(
            target=target,
            startup_trials=startup_trials,
            startup_fraction=startup_fraction,
            candidates=candidates,
            members=members,
            learning=learning,
            law_mean=law_mean,
            max_trial_flops=max_trial_flops,
            overhead_flops=overhead_flops,
            n_trials=n_trials,
            goal=goal,
        )
        if budget_flops is not None and not budget_flops >= 0:
            raise ValueError(f"budget_flops={budget_flops} must be a number of FLOPs, or None for no limit")
        if seed is not None and int(seed) < 0:
            raise ValueError(f"seed={seed} must not be negative")
        super().__init__(
            LegalSpace(
                Encoding(dict(distributions)),
                flops,
                no_roles if roles is None else roles,
                project,
                allowed,
                rates,
                price=price,
            ),
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
        self._introduced = False
        # The last model, with the space and the runs that it was fitted to.
        self._fitted: (
            tuple[LegalSpace, list[float], list[float], list[tuple[Point, float]], LawEnsembleModel] | None
        ) = None
        self.checks = TrialChecks()
        self.checks.roles(self.space, roles is not None)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_fitted": None}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """One legal, affordable point; none where `optimize` ends.

        Raises:
            BudgetSpent: what remains pays for none.
        """
        # One thread of `optimize(n_jobs=...)` at a time.
        with _PROPOSING:
            self._introduce(study)
            self._learn_conditions(study)
            try:
                history = self._history(study, but=trial.number)
                point = self.propose(history, trial.number)
            except BudgetSpent as spent:
                return self.end(study, trial, spent)
            self._proposed[trial.number] = point
            if self.space.price is not None:
                inherited = self.space.cost(point) - float(self.space.prices([point], history.continuable)[0])
                study._storage.set_trial_user_attr(trial._trial_id, INHERITED, inherited)
            return point

    def affordable(self, study: Study) -> bool:
        """Whether some legal point fits into what remains, and a trial is left."""
        history = self.read(study)
        return self._trials_left(history) > 0 and self.may_cost(history) >= self.space.lowest_flops

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Stops `study.optimize` once nothing legal is affordable, and writes what later readers need."""
        proposed = self._proposed.pop(trial.number, None)
        record_own(study, trial, values, self.space, self.checks)
        history = self.read(study, but=trial.number)
        remaining = history.remaining_flops(self.budget_flops) - charge(
            trial, state, values, proposed, self.space
        )
        if remaining < self.space.lowest_flops or self._trials_left(history) <= 1:
            try:
                study.stop()
            except RuntimeError:
                # Raised outside `optimize`, where the caller asks `affordable` before the next trial.
                return

    def _introduce(self, study: Study) -> None:
        """Writes the budget of somebody's own study, for `front` and `compare`; ours has it already."""
        if self._introduced or self.budget_flops is None:
            return
        self._introduced = True
        if "ledger_format" not in study.user_attrs:
            study.set_user_attr(OWN_PROGRAM_SAYS, {"budget_flops": self.budget_flops})

    def _learn_conditions(self, study: Study) -> None:
        """Takes over from the completed trials when dimensions do not matter."""
        encoding = self.space.encoding
        completed = [trial.params for trial in read_trials(study) if trial.status is Status.COMPLETED]
        conditions = Conditions.learnt(completed, encoding)
        if conditions != self.space.conditions:
            self.space = replace(self.space, conditions=conditions)
        self.checks.lacking(completed, self.space)

    def add_runs(self, study: Study, runs: Any, columns: Mapping[str, Any] | None = None) -> int:
        """Adds finished runs from elsewhere, which are learnt from and not charged; returns how many are new.

        Args:
            study: two objectives, loss and training FLOPs.
            runs: a CSV, TSV, JSONL or Parquet file, or a sequence of dicts: a value for each dimension that
                matters there, and `loss`, or `diverged`.
            columns: for a dimension or `loss`, the column of another name, or a formula of columns.

        Raises:
            CarbsScalingError: a file that cannot be read, or none of whose rows is a run of this space.
        """
        source = str(runs) if isinstance(runs, str | Path) else "the program"
        rows = read_rows(runs) if isinstance(runs, str | Path) else list(runs)
        space = self.space
        reader = Reader(space.encoding.distributions, space.cost, space.roles, project=space.project)
        found, refused = reader.runs(rows, source, columns)
        require_some(found, refused, source)
        if refused:
            warnings.warn(f"{len(refused)} of {len(rows)} runs are left out ({refused[0]})", stacklevel=2)
        return add_runs(study, found, space.encoding.distributions)

    def law(self, study: Study) -> ScalingLaw:
        """The scaling law of the study's runs, as `fit_law` fits it.

        Raises:
            LawError: the runs give no law.
        """
        rows = []
        self._learn_conditions(study)
        for trial in read_trials(study):
            ended = trial.status in (Status.COMPLETED, Status.DIVERGED)
            point = self.space.point_of(trial.params) if ended else None
            if point is not None:
                roles = {name: value for name, value in (self.space.roles(point) or {}).items() if value}
                rows.append(study_row(trial.number, {**roles, **point}, trial.loss))
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
        if self._trials_left(history) <= 0:
            raise BudgetSpent(f"n_trials={self.options.n_trials} were run")
        limit = self._limit(history)
        self.require_affordable(min(limit.price, limit.flops))
        rng = np.random.default_rng([self.seed, number])
        if self._designs(history) or len(history.points) < 2:
            planned = self._planned()[1]
            self.doing = f"design run {min(_begun(history) + 1, planned)} of {planned}"
            return self._design_point(history, rng, min(limit.price, limit.flops))
        wanted = {"front": "the front", "best": "the lowest loss"}[self.options.goal]
        self.doing = f"a run for {wanted if self.target is None else 'the target'}"
        if self.target is not None:
            count = 2 * self.options.candidates
            overhead = self._overhead(history)
            point = most_informative(self.space, history, self.target, rng, limit, overhead, count)
        else:
            point = self.front_search(history).best(history, self.model_of(history, rng), rng, limit)
        return self._cheapest("no new affordable candidate") if point is None else point

    def stop_rule(
        self, study: Study, number: int, point: Point, curves: Sequence[SeenCurve], probability: float
    ) -> StopRule | None:
        """See `Sampler`; None where points have no N and D, or few runs completed."""
        self._learn_conditions(study)
        history = self._history(study, but=number)
        if not all(self.space.has_role[:2]) or min(len(curves), len(history.points)) < LEAST_CURVES:
            return None
        model = self.model_of(history, np.random.default_rng([self.seed, number, 1]))
        return stop_rule(self.space, history, model, curves, point, probability)

    def front_search(self, history: History) -> FrontSearch:
        """What chooses runs for the front."""
        return FrontSearch(self.space, self.options, self.budget_flops, self._overhead(history))

    def _history(self, study: Study, but: int | None = None) -> History:
        history = without_collapsed(self.read(study, but), self.space, self._seen)
        return essential(history, MOST_RUNS, self._seen.key)

    def _planned(self) -> tuple[int, int]:
        """Runs of the design where no limit on trials ends it earlier: of its first round, and of both.

        A second round tells more of the valley than it costs only where runs cost next to nothing. Those of
        goal="best" cost more.
        """
        knobs = self.space.encoding.knobs
        rounds = 1 if self.options.goal == "best" else 2
        # Asked for none, there is one all the same where nothing can be fitted yet.
        asked = self.options.startup_trials or None
        return asked or min(knobs, 8), asked or min(rounds * knobs, 8)

    def _designs(self, history: History) -> bool:
        """Whether the next point is one of the cheap design."""
        begun, (first, both) = _begun(history), self._planned()
        if self.options.startup_trials is not None:
            return begun < self.options.startup_trials
        if self.options.n_trials is not None and begun >= _DESIGN_SHARE_OF_TRIALS * self.options.n_trials:
            return False
        spent = history.spent_flops + history.committed_flops
        cheap = self.budget_flops is None or spent <= _DESIGN_SHARE * self.budget_flops
        return begun < first or (begun < both and cheap)

    def _trials_left(self, history: History) -> float:
        """Trials that may still be begun."""
        return inf if self.options.n_trials is None else self.options.n_trials - history.begun

    def _overhead(self, history: History) -> float:
        """FLOPs that stand for what a trial costs beside its training."""
        overhead = self.options.overhead_flops
        if overhead is None:
            share = 20_000 if self.target is None else 1_000
            overhead = 0.0 if self.budget_flops is None else self.budget_flops / share
        left = self._trials_left(history)
        if self.budget_flops is None or isinf(left):
            return overhead
        return max(overhead, _SHARE_OF_A_TRIAL * history.remaining_flops(self.budget_flops) / left)

    def _limit(self, history: History) -> Limit:
        """Dearest run that may be proposed now."""
        cap = self.options.max_trial_flops or inf
        return Limit(self.space, self.may_cost(history), cap, history.continuable)

    def _design_point(self, history: History, rng: np.random.Generator, limit: float) -> Point:
        if self.options.goal == "best":
            # Cheap runs say little of a score that only long ones reach at all.
            cap = inf if self.budget_flops is None else _DESIGN_SHARE_FOR_BEST * self.budget_flops
            cap /= self._planned()[1]
        else:
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
        """The model of the loss after the completed trials of `history`, at least two, and stopped ones.

        Where several proposals are made while no trial ends, one fit serves them all: with many workers the
        fits would leave them idle. A search that runs one trial at a time fits for each.
        """
        if self._fitted is not None and history.pending:
            space, loss, flops, bounded, model = self._fitted
            known = loss == history.loss and flops == history.flops and bounded == history.bounded
            if space is self.space and known:
                return model
        model = self._fit(history, rng)
        self._fitted = self.space, history.loss, history.flops, history.bounded, model
        return model

    def _fit(self, history: History, rng: np.random.Generator) -> LawEnsembleModel:
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
        model = fitter.fit(known.cube, known.features, np.asarray(history.loss), rng)
        if not history.bounded:
            return model
        points, bounds = zip(*history.bounded, strict=True)
        return model.at_least(self.space.describe(list(points)).rows, torch.tensor(bounds))

    def _cheapest(self, reason: str) -> Point:
        self.fallbacks[reason] += 1
        logger.warning("%s: the cheapest legal point is proposed", reason)
        return dict(self.space.cheapest)


def _begun(history: History) -> int:
    """Trials that the design counts."""
    ended = len(history.points) + len(history.failed) + len(history.bounded)
    return ended + len(history.pending)


def no_roles(point: Point) -> dict[str, float]:
    """The roles of a space without any."""
    return {}


def _build(space: LegalSpace, budget_flops: float, seed: int, options: SamplerOptions) -> CarbsSampler:
    return CarbsSampler(
        space.encoding.distributions,
        space.flops,
        space.roles if any(space.has_role) else None,
        space.project,
        budget_flops,
        seed=seed,
        allowed=space.allowed,
        rates=space.rates,
        price=space.price,
        **asdict(options),
    )


SAMPLER = SamplerEntry(_build, SamplerOptions)
