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
from scipy.stats import qmc

from carbs_scaling.acquisition import (
    FrontLevels,
    ValleyDoubt,
    expected_front_gain,
    expected_improvement,
    expected_learning_gain,
    gittins_index,
)
from carbs_scaling.errors import BudgetSpent
from carbs_scaling.frontier import pareto_front
from carbs_scaling.laws.loss import (
    LossLaw,
    best_batch_feature,
    best_rate_feature,
    law_floor,
    law_prior,
    valley_curvatures,
)
from carbs_scaling.surrogate.encoding import Encoding
from carbs_scaling.surrogate.gp import EXCESS_SHARE, Surrogate, SurrogateFitter
from carbs_scaling.surrogate.history import History, read_history
from carbs_scaling.surrogate.space import Candidates, LegalSpace, Point, point_key

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
        learning: share in which a run is also worth what it teaches about learning rate and batch of later
        ones. law_mean: whether the prior mean is the loss law; else it is a constant.
        acquisition: one of `ACQUISITIONS`.
        anytime: whether the front shall be good at every moment, rather than by the mean over all FLOPs.
        max_trial_flops: dearest run that may be proposed, or None.
        overhead_flops: what a trial costs beside its FLOPs (start, evaluation, a proposal): counted when
            gains are compared, never charged; None for a two-thousandth of the budget.
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
        uses
            what it is given.
        project: the nearest legal point, which is what the trial's parameters then hold; None: all are legal.
        budget_flops: training FLOPs that all trials together may cost; None: no limit.
        target: (params, tokens) that the search shall serve by extrapolation; None: the front itself.
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
        return min(self.space.encoding.knobs + 4, 10) if wanted is None else wanted

    @property
    def _overhead(self) -> float:
        """FLOPs that stand for what a trial costs beside its training."""
        if self.options.overhead_flops is not None:
            return self.options.overhead_flops
        return 0.0 if self.budget_flops is None else self.budget_flops / 2000

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
        """A point of the cheap design: far from the others, in the cheap part of the space."""
        cap = self.space.lowest_flops * (self.space.highest_flops / self.space.lowest_flops) ** 0.35
        if self.budget_flops is not None:
            cap = min(cap, self.options.startup_fraction * self.budget_flops)
        # Never so tight that only the very cheapest run is left, which would be proposed again and again.
        cap = min(max(cap, 4 * self.space.lowest_flops), limit)
        knobs = self._sobol(rng, 64)
        # Away from the edges of what has no price, where runs are most often wasted; towards the cheapest
        # point in what has one, until it can be paid.
        knobs = np.where(self.space.moves_cost, knobs, 0.2 + 0.6 * knobs)
        cheapest = self.space.encoding.position(self.space.cheapest)
        found: list[Point] = []
        for row in knobs:
            for share in (1.0, 0.6, 0.35, 0.2, 0.1, 0.0):
                near = np.where(self.space.moves_cost, cheapest + share * (row - cheapest), row)
                point = self.space.legal(self.space.encoding.point(near))
                if self.space.cost(point) <= cap:
                    found.append(point)
                    break
        fresh = self._fresh(self.space.describe(found), history)
        if not len(fresh):
            return self._cheapest("no new point for the design")
        others = history.points + history.pending + history.failed
        if not others:
            return fresh.points[0]
        rows = np.array([self.space.encoding.row(point) for point in others])
        gaps = np.linalg.norm(fresh.cube[:, None, :] - rows[None], axis=-1).min(axis=1)
        return fresh.points[int(np.argmax(gaps))]

    def _around_published_optimum(self, knobs: np.ndarray, rng: np.random.Generator) -> None:
        """Sets learning rate and batch of rows of `knobs` around what published laws say for their N and D."""
        prior = law_prior(
            1.0,
            self.space.centre,
            self.space.has_role,
            self.space.role_range("learning_rate"),
            self.space.role_range("batch_tokens"),
        )
        features = self.space.features([self.space.legal(self.space.encoding.point(row)) for row in knobs])
        if self.space.has_role[3]:
            features[:, 3] = best_batch_feature(prior.mean, features) + rng.normal(0, 0.8, len(knobs))
            self.space.set_role(knobs, "batch_tokens", features[:, 3] + self.space.centre[3])
        if self.space.has_role[2]:
            rate = best_rate_feature(prior.mean, features) + rng.normal(0, 0.8, len(knobs))
            self.space.set_role(knobs, "learning_rate", rate + self.space.centre[2])

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

        pool = self._candidates(history, surrogate, rng, limit)
        if not len(pool):
            return self._cheapest("no new affordable candidate")
        doubt = (
            self._valley_doubt(pool, surrogate, limit)
            if self.options.learning and self.options.law_mean
            else None
        )

        # What a run teaches is counted less and less: where the law is wrong, doubt about it never ends.
        lesson = self.options.learning * np.exp(-len(history.points) / (4 * self.space.encoding.knobs))

        def score(batch: Candidates) -> np.ndarray:
            inputs = torch.from_numpy(np.column_stack([batch.cube, batch.features]))
            mean, sd = surrogate.predict(inputs)
            if self.options.acquisition != "front_gain_per_flop":
                return self._other_score(batch, mean, sd, front, threshold, history, surrogate)
            gain = expected_front_gain(mean, sd, np.log10(batch.flops), front, threshold)
            gain = surrogate.shares @ gain
            if doubt is not None:
                floor = law_floor(np.asarray(surrogate.law.theta), batch.features, self.space.has_role)
                excess = np.maximum(surrogate.shares @ mean - floor, 0.0)
                noise = sd**2 + surrogate.noise_sd**2 + (EXCESS_SHARE * excess) ** 2
                gain += lesson * expected_learning_gain(mean, noise, doubt)
            price = self._price(batch.flops, spent)
            return np.log(np.maximum(gain, 1e-300)) - np.log(price)

        scores = score(pool)
        for spread in (0.1, 0.04, 0.015):
            order = np.argsort(-scores, kind="stable")[:12]
            near = [self.space.encoding.position(pool.points[i]) for i in order]
            more = self._pool(_around(near, spread, self.options.candidates // 4, rng), history, limit)
            pool = pool.take(order)
            scores = scores[order]
            if len(more):
                pool, scores = _joined(pool, more), np.concatenate([scores, score(more)])
        return pool.points[int(np.argmax(scores))]

    def _other_score(
        self, batch: Candidates, mean, sd, front: FrontLevels, threshold: float, history: History, surrogate
    ) -> np.ndarray:
        """Scores of the alternatives kept for comparison; larger is better."""
        log_cost = np.log10(batch.flops)
        name, shares = self.options.acquisition, surrogate.shares
        if name == "front_gain":
            score = shares @ expected_front_gain(mean, sd, log_cost, front, threshold)
        elif name == "ei_front":
            score = shares @ expected_improvement(mean, sd, front.at(log_cost) - threshold)
        elif name == "ei_per_cost":
            score = shares @ expected_improvement(mean, sd, min(history.loss)) / batch.flops
        elif name == "gittins":
            scale = (front.levels[0] - front.levels[-1]) / (self.budget_flops or batch.flops.max())
            below_front = mean - front.at(log_cost)
            return -gittins_index(below_front, sd, shares, scale * batch.flops)
        else:
            near = self.space.describe([history.points[i] for i in pareto_front(history.flops, history.loss)])
            gaps = np.linalg.norm(batch.cube[:, None] - near.cube[None], axis=-1).min(axis=1)
            level = front.at(log_cost) - threshold
            score = shares @ expected_improvement(mean, sd, level) * np.exp(-0.5 * (gaps / 0.3) ** 2)
        return np.log(np.maximum(score, 1e-300))

    def _ceiling(self, flops: list[float], loss: list[float], surrogate: Surrogate) -> float:
        """Reference loss: a tenth of the front's range above what the cheapest run can reach."""
        front = np.asarray(loss)[pareto_front(flops, loss)]
        cheapest = self.space.features([self.space.cheapest])
        floor = float(law_floor(np.asarray(surrogate.law.theta), cheapest, surrogate.law.has_role)[0])
        highest = max(floor, float(front[0]))
        return highest + 0.1 * max(highest - float(front[-1]), surrogate.scale)

    def _candidates(
        self, history: History, surrogate: Surrogate, rng: np.random.Generator, limit: float
    ) -> Candidates:
        """Points spread over the space, on the valley floor of drawn laws, and around the front."""
        count = self.options.candidates
        spread_out = self._sobol(rng, count)
        guided = self._sobol(rng, count)[: count * 3 // 4]
        if self.options.law_mean:
            self._onto_valley_floor(guided, surrogate, rng)
        front = pareto_front(history.flops, history.loss)
        centres = [self.space.encoding.position(history.points[i]) for i in front]
        near = _around(centres or [self.space.encoding.position(self.space.cheapest)], 0.1, count // 2, rng)
        return self._pool(np.concatenate([spread_out[: count // 2], guided, near]), history, limit)

    def _valley_doubt(self, pool: Candidates, surrogate: Surrogate, limit: float) -> ValleyDoubt | None:
        """What is not known of the valley at the front's later runs: the best shape at each level of cost."""
        if not (self.space.has_role[2] or self.space.has_role[3]) or len(surrogate.mean.thetas) < 2:
            return None
        theta = np.asarray(surrogate.law.theta)
        floor = law_floor(theta, pool.features, self.space.has_role)
        log_cost = np.log10(pool.flops)
        edges = np.linspace(log_cost.min(), min(log_cost.max(), np.log10(limit / 2)) + 1e-9, _LEVELS + 1)
        best = [
            int(inside[np.argmin(floor[inside])])
            for low, high in itertools.pairwise(edges)
            if len(inside := np.flatnonzero((log_cost >= low) & (log_cost < high)))
        ]
        if not best:
            return None
        features = pool.features[best].copy()
        features[:, 3] = best_batch_feature(theta, features) if self.space.has_role[3] else 0.0
        thetas = surrogate.mean.thetas
        curvatures = valley_curvatures(theta, features, self.space.has_role)
        return ValleyDoubt(
            rates=np.array([best_rate_feature(t, features) for t in thetas]),
            batches=np.array([best_batch_feature(t, features) for t in thetas]),
            rate_curvature=curvatures[0],
            batch_curvature=curvatures[1],
            width=np.full(len(best), edges[1] - edges[0]),
            shares=surrogate.shares,
        )

    def _onto_valley_floor(self, knobs: np.ndarray, surrogate: Surrogate, rng: np.random.Generator) -> None:
        """Sets learning rate and batch of rows of `knobs` to the best by laws drawn from the ensemble."""
        features = self.space.features([self.space.legal(self.space.encoding.point(row)) for row in knobs])
        thetas = surrogate.mean.thetas[rng.integers(len(surrogate.mean.thetas), size=len(knobs))]
        batch = best_batch_feature(thetas, features) + 0.2 * rng.normal(size=len(knobs))
        if self.space.has_role[3]:
            features[:, 3] = batch
            self.space.set_role(knobs, "batch_tokens", batch + self.space.centre[3])
        rate = best_rate_feature(thetas, features) + 0.2 * rng.normal(size=len(knobs))
        if self.space.has_role[2]:
            self.space.set_role(knobs, "learning_rate", rate + self.space.centre[2])

    def _pool(self, knobs: np.ndarray, history: History, limit: float) -> Candidates:
        batch = self.space.candidates(knobs)
        return self._fresh(batch.take(np.flatnonzero(batch.flops <= limit)), history)

    def _fresh(self, batch: Candidates, history: History) -> Candidates:
        known = {point_key(p) for p in history.points + history.pending + history.failed}
        return batch.take([i for i, point in enumerate(batch.points) if point_key(point) not in known])

    def _cheapest(self, reason: str) -> Point:
        self.fallbacks[reason] += 1
        logger.warning("%s: the cheapest legal point is proposed", reason)
        return dict(self.space.cheapest)

    def _sobol(self, rng: np.random.Generator, count: int) -> np.ndarray:
        return qmc.Sobol(self.space.encoding.knobs, rng=rng).random(count)


def _around(centres: list[np.ndarray], spread: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` points normal around randomly chosen centres, every second one in a single dimension only."""
    chosen = np.asarray(centres)[rng.integers(len(centres), size=count)]
    steps = rng.normal(0.0, spread, size=chosen.shape)
    single = rng.integers(chosen.shape[1], size=count)
    only = np.arange(chosen.shape[1])[None] == single[:, None]
    keep = only | (np.arange(count)[:, None] % 2 == 0)
    return np.clip(chosen + steps * keep, 0.0, 1.0)


def _joined(first: Candidates, second: Candidates) -> Candidates:
    if not len(first):
        return second
    if not len(second):
        return first
    return Candidates(
        first.points + second.points,
        np.concatenate([first.flops, second.flops]),
        np.concatenate([first.cube, second.cube]),
        np.concatenate([first.features, second.features]),
    )


def new_study(sampler: BaseSampler, **arguments: Any) -> Study:
    """An Optuna study with directions (loss, training FLOPs), both minimised."""
    return optuna.create_study(
        sampler=sampler, directions=[StudyDirection.MINIMIZE, StudyDirection.MINIMIZE], **arguments
    )
