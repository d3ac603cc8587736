"""The search as an Optuna sampler: expected gain of the loss-compute front per FLOP.

`CarbsSampler` works in anybody's two-objective study (loss, training FLOPs), by `ask` and `tell` or by
`optimize`. A proposal is a pure function of (seed, trial number, the other trials): it can be made again
after a restart, and no global random state is used or touched.
"""

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import optuna
import torch
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from carbs_scaling.acquisition import (
    AlternativeInputs,
    FrontLevels,
    ValleyDoubt,
    alternative_score,
    expected_front_gain,
    expected_learning_gain,
)
from carbs_scaling.errors import BudgetSpent
from carbs_scaling.frontier import pareto_front
from carbs_scaling.laws.loss import (
    LossLaw,
    best_batch_feature,
    best_rate_feature,
    law_floor,
    valley_curvatures,
)
from carbs_scaling.surrogate.candidates import affordable_pool, around, candidates, design_point, joined
from carbs_scaling.surrogate.encoding import Encoding
from carbs_scaling.surrogate.feasibility import Feasibility
from carbs_scaling.surrogate.gp import EXCESS_SHARE, Surrogate, SurrogateFitter
from carbs_scaling.surrogate.history import History, read_history
from carbs_scaling.surrogate.space import Candidates, LegalSpace, Point

logger = logging.getLogger(__name__)

ACQUISITIONS = ("front_gain_per_flop", "front_gain", "ei_front", "ei_per_cost", "gittins", "carbs_local")

# Levels of cost at which what is learnt about the valley is put to use.
_LEVELS = 10


@dataclass(frozen=True)
class SamplerOptions:
    """What may be changed about the search.

    Args:
        startup_trials: runs of the cheap design before the surrogate takes over; None for one by dimension.
        startup_fraction: share of the budget that one run of the design may cost.
        noise_sds: an improvement counts beyond this many standard deviations of seed noise.
        candidates: random points scored a proposal; twice as many more follow around the best.
        members: laws in the surrogate's ensemble; 1 leaves the doubt about the law out.
        learning: share in which a run is also worth what it teaches about the valley for later runs.
        law_mean: whether the prior mean is the loss law; else it is a constant.
        acquisition: one of `ACQUISITIONS`.
        anytime: whether the front shall be good at every moment, rather than by the mean over all FLOPs.
        max_trial_flops: dearest run that may be proposed, or None.
        overhead_flops: what a trial costs beside its FLOPs (start, evaluation, a proposal): counted when
            gains are compared, never charged; None for a 20,000th of the budget.
    """

    startup_trials: int | None = None
    startup_fraction: float = 0.0005
    noise_sds: float = 0.5
    candidates: int = 256
    members: int = 48
    anytime: bool = True
    learning: float = 0.5
    law_mean: bool = True
    acquisition: str = "front_gain_per_flop"
    max_trial_flops: float | None = None
    overhead_flops: float | None = None


class CarbsSampler(BaseSampler):
    """Proposes the runs that are expected to push out the front of loss against FLOPs most, per FLOP.

    Args:
        distributions: Optuna distributions by name: float, int, logarithmic or not, and categorical.
        flops: training FLOPs of a point (name to value), known before the run.
        roles: those of `params`, `tokens`, `learning_rate`, `batch_tokens` that a point has; the loss law
            uses what it is given.
        project: the nearest legal point, which is what the trial's parameters then hold; None: all are legal.
        budget_flops: training FLOPs that all trials together may cost; None: no limit.
        target: (params, tokens) that the search shall serve by extrapolation; None: the front itself. It was
            measured to do worse than None even there (docs/benchmarks.md): leave it unset until mended.
        seed: of the proposals; None draws one.
        options: fields of `SamplerOptions`.
    """

    def __init__(
        self,
        distributions: dict[str, BaseDistribution],
        flops: Callable[[Point], float],
        roles: Callable[[Point], dict],
        project: Callable[[Point], Point] | None = None,
        budget_flops: float | None = None,
        target: tuple[float, float] | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> None:
        unknown = set(options) - {f.name for f in fields(SamplerOptions)}
        if unknown:
            raise TypeError(f"CarbsSampler has no option {', '.join(sorted(unknown))}")
        self.options = SamplerOptions(**options)
        if self.options.acquisition not in ACQUISITIONS:
            raise ValueError(
                f"acquisition {self.options.acquisition!r} is not one of {', '.join(ACQUISITIONS)}"
            )
        self.space = LegalSpace(Encoding(dict(distributions)), flops, roles, project)
        self.budget_flops = budget_flops
        self.target = target
        self.seed = int(np.random.SeedSequence().entropy % 2**32) if seed is None else int(seed)
        self.fallbacks: Counter = Counter()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self.space.encoding.distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """One legal, affordable point.

        Raises:
            BudgetSpent: what remains pays for none.
        """
        return self.propose(read_history(study, self.space, but=trial.number), trial.number)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value of a parameter that is not among `distributions`."""
        name_seed = sum((i + 1) * ord(c) for i, c in enumerate(param_name))
        rng = np.random.default_rng([self.seed, trial.number, name_seed])
        return Encoding({param_name: param_distribution}).point(rng.random(1))[param_name]

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Stops `study.optimize` once nothing legal is affordable; elsewhere it does nothing."""
        if not self._pays(self._remaining(read_history(study, self.space))):
            try:
                study.stop()
            except RuntimeError:
                # Raised outside `optimize`, where the caller asks `affordable` before the next trial.
                return

    def remaining_flops(self, study: Study) -> float:
        """Budget less what is spent and what running trials are committed to; infinite without a budget."""
        return self._remaining(read_history(study, self.space))

    def affordable(self, study: Study) -> bool:
        """Whether some legal point fits into what remains."""
        return self._pays(self.remaining_flops(study))

    def law(self, study: Study) -> LossLaw | None:
        """The loss law of the study's completed trials; None where there are too few."""
        history = read_history(study, self.space)
        surrogate = self._surrogate(history, np.random.default_rng(self.seed))
        return None if surrogate is None else surrogate.law

    def best_recipe(self, study: Study, params: float, tokens: float) -> dict[str, float]:
        """Learning rate and batch tokens for so many parameters and tokens, also beyond the search.

        Each is the middle of the posterior's optimum, with the factor that one standard deviation is.

        Raises:
            ValueError: the study has too few completed trials, or its points lack the roles.
        """
        surrogate = self._surrogate(read_history(study, self.space), np.random.default_rng(self.seed))
        if surrogate is None:
            raise ValueError("a recipe needs at least two completed trials")
        if not all(self.space.has_role[:2]):
            raise ValueError("a recipe needs the roles params and tokens")
        n, d = np.log(params) - self.space.centre[0], np.log(tokens) - self.space.centre[1]
        thetas, shares = surrogate.mean.thetas, surrogate.shares
        rows = np.tile([n, d, 0.0, 0.0], (len(thetas), 1))
        rows[:, 3] = best_batch_feature(thetas, rows) if self.space.has_role[3] else 0.0
        found = {}
        for name, role, values in (
            ("learning_rate", 2, best_rate_feature(thetas, rows)),
            ("batch_tokens", 3, rows[:, 3]),
        ):
            if self.space.has_role[role]:
                middle = shares @ values
                found[name] = float(np.exp(middle + self.space.centre[role]))
                found[f"{name}_factor"] = float(np.exp(np.sqrt(shares @ (values - middle) ** 2)))
        return found

    def propose(self, history: History, number: int) -> Point:
        """The point for trial `number` given the other trials.

        Raises:
            BudgetSpent: what remains pays for none.
        """
        limit = self._limit(history)
        if not self._pays(limit):
            raise BudgetSpent(
                f"{limit:.3g} FLOPs remain of {self.budget_flops or limit:.3g}, "
                f"and the cheapest legal run costs {self.space.lowest_flops:.3g}"
            )
        with torch.random.fork_rng(devices=[]):
            rng = np.random.default_rng([self.seed, number])
            if len(history.points) + len(history.pending) + len(history.failed) < self._startup_trials:
                return self._design_point(history, rng, limit)
            surrogate = self._surrogate(history, rng)
            if surrogate is None:
                return self._design_point(history, rng, limit)
            return self._best_point(history, surrogate, rng, limit)

    @property
    def _startup_trials(self) -> int:
        wanted = self.options.startup_trials
        return min(self.space.encoding.knobs + 2, 8) if wanted is None else wanted

    @property
    def _overhead(self) -> float:
        """FLOPs that stand for what a trial costs beside its training."""
        if self.options.overhead_flops is not None:
            return self.options.overhead_flops
        return 0.0 if self.budget_flops is None else self.budget_flops / 20_000

    def _price(self, flops: np.ndarray, spent: float) -> np.ndarray:
        """What gains are divided by.

        FLOPs, made dearer where they are many beside what is spent: if the search may end at any total,
        equally likely in each decade, then of two orders of the same two runs the better one is that by
        gain / ((s + c) ln(1 + c / s)), which is gain / c for c far below the spent s.
        """
        cost = flops + self._overhead
        if not self.options.anytime:
            return cost
        return (spent + cost) * np.log1p(cost / spent)

    def _remaining(self, history: History) -> float:
        if self.budget_flops is None:
            return float("inf")
        return self.budget_flops - history.spent_flops - history.committed_flops

    def _limit(self, history: History) -> float:
        """Dearest run that may be proposed now."""
        cap = self.options.max_trial_flops
        return min(self._remaining(history), float("inf") if cap is None else cap)

    def _pays(self, flops: float) -> bool:
        return self.space.lowest_flops <= flops

    def _design_point(self, history: History, rng: np.random.Generator, limit: float) -> Point:
        cap = self.space.lowest_flops * (self.space.highest_flops / self.space.lowest_flops) ** 0.35
        if self.budget_flops is not None:
            cap = min(cap, self.options.startup_fraction * self.budget_flops)
        # Never so tight that only the very cheapest run is left, which would be proposed again and again.
        cap = min(max(cap, 4 * self.space.lowest_flops), limit)
        point = design_point(self.space, history, rng, cap)
        return self._cheapest("no new point for the design") if point is None else point

    def _surrogate(self, history: History, rng: np.random.Generator) -> Surrogate | None:
        if len(history.points) < 2:
            return None
        known = self.space.describe(history.points)
        fitter = SurrogateFitter(
            self.space.centre,
            self.space.has_role if self.options.law_mean else (False,) * 4,
            self.space.role_range("learning_rate"),
            self.space.role_range("batch_tokens"),
            self.options.members,
            self.fallbacks,
        )
        return fitter.fit(known.cube, known.features, np.asarray(history.loss), rng)

    def _best_point(
        self, history: History, surrogate: Surrogate, rng: np.random.Generator, limit: float
    ) -> Point:
        flops, loss = list(history.flops), list(history.loss)
        if history.pending:
            pending = self.space.describe(history.pending)
            inputs = torch.from_numpy(np.column_stack([pending.cube, pending.features]))
            believed, _ = surrogate.marginal(inputs)
            surrogate = surrogate.believe(inputs)
            flops += list(pending.flops)
            loss += list(believed)
        dearest = min(self.space.highest_flops, self.budget_flops or np.inf)
        top = np.log10(dearest) + 0.1
        ceiling = self._ceiling(flops, loss, surrogate)
        front = FrontLevels.of(flops, loss, np.log10(self.space.lowest_flops), (top, ceiling))
        spent = max(history.spent_flops + history.committed_flops, self.space.lowest_flops)
        threshold = self.options.noise_sds * surrogate.noise_sd

        pool = candidates(self.space, history, surrogate, rng, limit, self.options.candidates)
        if not len(pool):
            return self._cheapest("no new affordable candidate")
        learns = self.options.law_mean and (self.options.learning > 0 or self.target is not None)
        doubt = self._valley_doubt(pool, surrogate, limit) if learns else None
        theta = np.asarray(surrogate.law.theta)

        def rate_offset(features: np.ndarray) -> np.ndarray:
            return features[:, 2] - best_rate_feature(theta, features)

        ends = self._feasibility(history, rate_offset)

        # What a run teaches counts less and less: where the law is wrong, doubt about it never ends.
        lesson = self.options.learning * np.exp(-len(history.points) / (4 * self.space.encoding.knobs))

        def score(batch: Candidates) -> np.ndarray:
            inputs = torch.from_numpy(np.column_stack([batch.cube, batch.features]))
            mean, sd = surrogate.predict(inputs)
            if self.options.acquisition != "front_gain_per_flop":
                return self._other_score(batch, mean, sd, front, threshold, history, surrogate.shares)
            gain = expected_front_gain(mean, sd, np.log10(batch.flops), front, threshold)
            gain = surrogate.shares @ gain
            if doubt is not None:
                floor = law_floor(theta, batch.features, self.space.has_role)
                excess = np.maximum(surrogate.shares @ mean - floor, 0.0)
                noise = sd**2 + surrogate.noise_sd**2 + (EXCESS_SHARE * excess) ** 2
                gain += lesson * expected_learning_gain(mean, noise, doubt)
            if ends is not None:
                gain = gain * ends.probability(batch.cube, rate_offset(batch.features))
            price = self._price(batch.flops, spent)
            return np.log(np.maximum(gain, 1e-300)) - np.log(price)

        scores = score(pool)
        for spread in (0.1, 0.04, 0.015):
            order = np.argsort(-scores, kind="stable")[:12]
            near = [self.space.encoding.position(pool.points[i]) for i in order]
            knobs = around(near, spread, self.options.candidates // 4, rng)
            more = affordable_pool(self.space, knobs, history, limit)
            pool = pool.take(order)
            scores = scores[order]
            if len(more):
                pool, scores = joined(pool, more), np.concatenate([scores, score(more)])
        return pool.points[int(np.argmax(scores))]

    def _feasibility(
        self, history: History, rate_offset: Callable[[np.ndarray], np.ndarray]
    ) -> Feasibility | None:
        if not history.failed:
            return None
        tried = self.space.describe(history.failed + history.points)
        ended = np.arange(len(tried)) >= len(history.failed)
        return Feasibility.fit(tried.cube, rate_offset(tried.features), ended)

    def _other_score(self, batch: Candidates, mean, sd, front: FrontLevels, threshold, history, shares):
        """Logs of the alternatives kept for comparison, shape (m,); larger is better."""
        on_front = [history.points[i] for i in pareto_front(history.flops, history.loss)]
        gaps = np.linalg.norm(batch.cube[:, None] - self.space.describe(on_front).cube[None], axis=-1)
        return alternative_score(
            self.options.acquisition,
            AlternativeInputs(
                mean=mean,
                sd=sd,
                shares=shares,
                flops=batch.flops,
                front=front,
                threshold=threshold,
                lowest_loss=min(history.loss),
                budget_flops=self.budget_flops or float(batch.flops.max()),
                front_distance=gaps.min(axis=1),
            ),
        )

    def _ceiling(self, flops: list[float], loss: list[float], surrogate: Surrogate) -> float:
        """Reference loss: a tenth of the front's range above what the cheapest run can reach."""
        front = np.asarray(loss)[pareto_front(flops, loss)]
        cheapest = self.space.features([self.space.cheapest])
        floor = float(law_floor(np.asarray(surrogate.law.theta), cheapest, surrogate.law.has_role)[0])
        highest = max(floor, float(front[0]))
        return highest + 0.1 * max(highest - float(front[-1]), surrogate.scale)

    def _valley_doubt(self, pool: Candidates, surrogate: Surrogate, limit: float) -> ValleyDoubt | None:
        """What is not known of the valley at the front's later runs: the best shape at each level of cost."""
        if not (self.space.has_role[2] or self.space.has_role[3]) or len(surrogate.mean.thetas) < 2:
            return None
        theta = np.asarray(surrogate.law.theta)
        floor = law_floor(theta, pool.features, self.space.has_role)
        log_cost = np.log10(pool.flops)
        top = min(log_cost.max(), np.log10(min(limit / 2, 1e300)))
        edges = np.linspace(log_cost.min(), top + 1e-9, _LEVELS + 1)
        best = [
            int(inside[np.argmin(floor[inside])])
            for low, high in itertools.pairwise(edges)
            if len(inside := np.flatnonzero((log_cost >= low) & (log_cost < high)))
        ]
        features = pool.features[best]
        if self.target is not None:
            # The run at the target counts as one more level of the front.
            features = np.concatenate([features, self._target_features()])
        if not len(features):
            return None
        features[:, 3] = best_batch_feature(theta, features) if self.space.has_role[3] else 0.0
        thetas = surrogate.mean.thetas
        curvatures = valley_curvatures(theta, features, self.space.has_role)
        return ValleyDoubt(
            rates=np.array([best_rate_feature(t, features) for t in thetas]),
            batches=np.array([best_batch_feature(t, features) for t in thetas]),
            rate_curvature=curvatures[0],
            batch_curvature=curvatures[1],
            width=np.full(len(features), edges[1] - edges[0]),
            shares=surrogate.shares,
        )

    def _target_features(self) -> np.ndarray:
        return np.array(
            [[np.log(v) - c for v, c in zip(self.target, self.space.centre, strict=False)] + [0, 0]]
        )

    def _cheapest(self, reason: str) -> Point:
        self.fallbacks[reason] += 1
        logger.warning("%s: the cheapest legal point is proposed", reason)
        return dict(self.space.cheapest)


def new_study(sampler: BaseSampler, **arguments: Any) -> Study:
    """An Optuna study with directions (loss, training FLOPs), both minimised."""
    return optuna.create_study(
        sampler=sampler, directions=[StudyDirection.MINIMIZE, StudyDirection.MINIMIZE], **arguments
    )
