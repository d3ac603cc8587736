"""Every sampler of the benchmarks by name, and the loop that spends a budget with one."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from _alternatives import AlternativeSampler
from _peers import KINDS, PeerSampler, environment
from optuna.trial import TrialState

from carbs_scaling.errors import BudgetSpent
from carbs_scaling.samplers.carbs import CarbsSampler
from carbs_scaling.samplers.projected import FEW_ATTEMPTS, ProjectedSampler
from carbs_scaling.samplers.sampler import build_sampler, new_study
from carbs_scaling.space.encoding import Encoding
from carbs_scaling.space.projection import LegalSpace

ABLATIONS = {
    "ours": {},
    "ours: constant mean": {"law_mean": False},
    "ours: no law uncertainty": {"members": 1},
    "ours: no division by cost": {"alternative": "front_gain"},
    "ours: no projection": {"project_first": False},
    "ours: nothing for learning": {"learning": 0.0},
    "ours: EI along the front": {"alternative": "ei_front"},
    "ours: Gittins index": {"alternative": "gittins"},
    "ours: CARBS's local score": {"alternative": "carbs_local"},
    "EI per cost": {"alternative": "ei_per_cost", "law_mean": False},
}
# As tables call them, and as the package does.
BASELINE_NAMES = {
    "random": "random",
    "Sobol": "sobol",
    "grid": "grid",
    "CARBS": "imbue_carbs",
    "TPE": "tpe",
    "NSGA-II": "nsga2",
    "Optuna GP": "optuna_gp",
    "qLogNEHVI": "qlognehvi",
}
PEERS = (*BASELINE_NAMES, "Ax", *KINDS)


@dataclass(frozen=True)
class Task:
    """Something to search.

    Args:
        problem: has `distributions`, `flops`, `roles` and `project`.
        budget: training FLOPs.
        start: where every sampler begins.
        run: loss of a legal point, or None where it diverges.
    """

    problem: object
    budget: float
    start: dict
    run: Callable[[dict], float | None]


def build(name: str, task: Task, seed: int, **options):
    """The sampler called `name`; further options go to `CarbsSampler`."""
    problem = task.problem
    parts = (problem.distributions, problem.flops, problem.roles)
    if name in ABLATIONS:
        chosen = {**options, **ABLATIONS[name]}
        if not chosen.pop("project_first", True):
            own = CarbsSampler(*parts, None, budget_flops=task.budget, seed=seed, **chosen)
            # Asked again it would say the same, so its first answer stands.
            return ProjectedSampler(lambda _: own, _space(problem), task.budget, attempts=1, stands_in=False)
        alternative = chosen.pop("alternative", None)
        if alternative is not None:
            keywords = {"budget_flops": task.budget, "seed": seed, **chosen}
            return AlternativeSampler(alternative, *parts, problem.project, **keywords)
        return CarbsSampler(*parts, problem.project, budget_flops=task.budget, seed=seed, **chosen)
    space = _space(problem)
    if name == "Ax":
        from _ax_sampler import AxSampler

        ax = AxSampler(space, seed)
        return ProjectedSampler(lambda _: ax, space, task.budget, attempts=FEW_ATTEMPTS, stands_in=False)
    if name in KINDS:
        peer = PeerSampler(KINDS[name], space, seed, space.legal(task.start), *environment(KINDS[name]))
        return ProjectedSampler(lambda _: peer, space, task.budget, attempts=FEW_ATTEMPTS, stands_in=False)
    if name not in BASELINE_NAMES:
        raise SystemExit(f"no sampler {name!r}: known are {', '.join([*ABLATIONS, *PEERS])}")
    start = {"start": task.start} if name == "CARBS" else {}
    baseline = build_sampler(BASELINE_NAMES[name], space, task.budget, seed, start)
    # A baseline is compared up to where its own proposals can be paid.
    assert isinstance(baseline, ProjectedSampler)
    baseline.stands_in = False
    return baseline


def _space(problem) -> LegalSpace:
    return LegalSpace(Encoding(dict(problem.distributions)), problem.flops, problem.roles, problem.project)


@dataclass(frozen=True)
class Spending:
    """What a sampler bought.

    Args:
        points: in order.
        flops: charged for each, shape (n,).
        loss: seen, NaN where it diverged, shape (n,).
        seconds: a proposal, shape (n,).
        fallbacks: of the sampler, counted by reason.
        paid: what was really charged for each, where some cost nothing, shape (n,); None for `flops`.
    """

    points: list[dict]
    flops: np.ndarray
    loss: np.ndarray
    seconds: np.ndarray
    fallbacks: dict[str, int]
    paid: np.ndarray | None = None

    @property
    def charged(self) -> np.ndarray:
        """What was charged for each, shape (n,)."""
        return self.flops if self.paid is None else self.paid

    def within(self, flops: float) -> np.ndarray:
        """Indices of the runs that were finished when `flops` had been spent."""
        return np.flatnonzero(np.cumsum(self.charged) <= flops * (1 + 1e-9))


def spend(
    sampler,
    task: Task,
    max_trials: int = 500,
    failed_share: float = 0.3,
    history: Sequence[dict] = (),
    until: float = 1.0,
) -> Spending:
    """Spends a task's budget; a run that diverges is charged `failed_share` of its cost.

    Args:
        history: finished runs that are given for nothing, each a point with its loss.
        until: share of the budget at which to stop.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = new_study(sampler)
    problem = task.problem
    if history:
        sampler.add_runs(study, history)
    study.enqueue_trial(problem.project(task.start))
    points, flops, losses, seconds = [], [], [], []
    while len(points) < max_trials and sum(flops) < until * task.budget and sampler.affordable(study):
        began = time.perf_counter()
        try:
            trial = study.ask(problem.distributions)
        except BudgetSpent:
            break
        seconds.append(time.perf_counter() - began)
        point = problem.project(trial.params)
        loss, cost = task.run(point), problem.flops(point)
        if loss is None:
            cost *= failed_share
            trial.set_user_attr("outcome", "diverged")
            trial.set_user_attr("flops", cost)
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, [loss, cost])
        points.append(point)
        flops.append(cost)
        losses.append(np.nan if loss is None else loss)
    return Spending(
        points,
        np.array(flops),
        np.array(losses),
        np.array(seconds[: len(points)]),
        dict(getattr(sampler, "fallbacks", {})),
    )
