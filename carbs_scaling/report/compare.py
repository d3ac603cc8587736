"""Several studies side by side: how much of their joint front each found, for how many FLOPs."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from carbs_scaling.frontier import hypervolume, pareto_front

Array = NDArray[np.float64]

SHARES = (0.1, 0.25, 0.5, 1.0)  # of the first study's budget
REFERENCE_DECADES = 0.1  # past the dearest run: else the last point of a front would count for nothing
NEARLY_ALL = 0.95  # of the joint front's area: what trials are counted to
# A search that ended has spent at least so much of its budget: what was left paid for no run.
SPENT_SHARE = 0.95


@dataclass(frozen=True)
class Spending:
    """What a study bought.

    Args:
        name: of the study.
        sampler: that proposed its trials; `-` where its ledger does not say.
        budget_flops: that it was last run with.
        flops: of each whole run, in the order in which the trials ended, shape (n,).
        loss: of each trial, NaN for one that gave none, shape (n,).
        recipe: a number for each trial, the same for runs that differ by their seed alone, shape (n,); None
            where all differ.
        joules: that each trial took, NaN where that is not known, shape (n,); None where it is for none.
        charged: FLOPs that each was charged, shape (n,); None for `flops`.
        wall_seconds: of its searches.
    """

    name: str
    sampler: str
    budget_flops: float
    flops: Array
    loss: Array
    recipe: NDArray[np.int64] | None = None
    joules: Array | None = None
    charged: Array | None = None
    wall_seconds: float = 0.0

    @property
    def paid(self) -> Array:
        """FLOPs that each trial was charged, shape (n,)."""
        return self.flops if self.charged is None else self.charged

    @property
    def spent_flops(self) -> float:
        """Charged for all trials."""
        return float(self.paid.sum())

    @property
    def spent_joules(self) -> float | None:
        """Of all trials; None where that of some is not known."""
        return self.joules_of(len(self.flops))

    def joules_of(self, trials: int) -> float | None:
        """Of the first `trials`; None where that of some is not known."""
        if self.joules is None or not np.isfinite(self.joules[:trials]).all():
            return None
        return float(self.joules[:trials].sum())

    @property
    def front(self) -> NDArray[np.int64]:
        """Indices of the trials on its front, cheapest first."""
        return pareto_front(self.flops, self.mean_loss())

    def mean_loss(self, trials: int | None = None) -> Array:
        """Losses of the first `trials`, repeats of a recipe among them at their mean, shape (trials,)."""
        loss = np.array(self.loss[:trials], dtype=float)
        if self.recipe is None:
            return loss
        ended = np.flatnonzero(np.isfinite(loss))
        _, group = np.unique(self.recipe[:trials][ended], return_inverse=True)
        loss[ended] = (np.bincount(group, loss[ended]) / np.bincount(group))[group]
        return loss

    def ended_within(self, flops: float) -> int:
        """How many trials had ended when `flops` had been spent."""
        return int(np.searchsorted(np.cumsum(self.paid), flops * (1 + 1e-9), side="right"))


@dataclass(frozen=True)
class Comparison:
    """One study beside the others.

    Args:
        study, sampler: names.
        trials: that ended.
        spent_flops: of all of them.
        front_points: on its own front.
        lowest_loss: of its runs.
        regrets: at each of `SHARES` of the first study's budget: the share of the joint front's hypervolume
            that its runs so far leave out; None where no run had completed, and where less was spent.
        flops_to_match: spent when its hypervolume reached that of the whole first study, or the mean of those
            of the first study's sampler; None if never.
        trials_to_95: that ended until its hypervolume was 95% of the joint front's; None if never.
        hours: wall time.
        joules: of all of its trials; None where that of some is not known.
        joules_saved: by the first study against this one, see `saved_joules`; None likewise.
    """

    study: str
    sampler: str
    trials: int
    spent_flops: float
    front_points: int
    lowest_loss: float
    regrets: tuple[float | None, ...]
    flops_to_match: float | None
    trials_to_95: int | None = None
    hours: float = 0.0
    joules: float | None = None
    joules_saved: float | None = None


def reference_corner(studies: Sequence[Spending]) -> tuple[float, float]:
    """(log10 FLOPs, loss) that hypervolumes are measured to, the same for all studies.

    0.1 decade past the dearest run of any, and the worst loss at the cheap end: the highest of the losses
    with which the studies' fronts begin.
    """
    dearest = max(study.flops[np.isfinite(study.loss)].max() for study in studies)
    worst = max(study.mean_loss()[study.front[0]] for study in studies)
    return float(np.log10(dearest) + REFERENCE_DECADES), float(worst)


def joint_area(studies: Sequence[Spending], reference: tuple[float, float]) -> float:
    """Hypervolume of the joint front of all studies."""
    flops = np.concatenate([study.flops for study in studies])
    return hypervolume(flops, np.concatenate([study.mean_loss() for study in studies]), reference)


def compare(studies: Sequence[Spending], by_sampler: bool = False) -> list[Comparison]:
    """Each study against the joint front of all of them, and against the first; repeats by their mean.

    Hypervolume is the area between a front and `reference_corner` in (log10 FLOPs, loss), and regret is
    1 - hypervolume / hypervolume of the joint front: 0 for a study that found all of it.

    Args:
        studies: each with a completed run; losses and FLOPs mean the same in all of them.
        by_sampler: whether the studies of the first one's sampler stand together for the first.
    """
    reference = reference_corner(studies)
    joint = joint_area(studies, reference)
    first = [study for study in studies if by_sampler and study.sampler == studies[0].sampler] or [studies[0]]
    # A search may have had no limit.
    limits = [study.budget_flops if np.isfinite(study.budget_flops) else 0.0 for study in first]
    budget = max(*limits, max(study.spent_flops for study in first))
    target = fmean(hypervolume(study.flops, study.mean_loss(), reference) for study in first)

    def regret(study: Spending, share: float) -> float | None:
        trials = study.ended_within(share * budget)
        if study.spent_flops < SPENT_SHARE * share * budget:
            return None
        return regret_after(study, trials, joint, reference)

    def flops_to_match(study: Spending) -> float | None:
        trials = trials_to_area(study, target, reference)
        return None if trials is None else float(study.paid[:trials].sum())

    def saved(study: Spending) -> float | None:
        found = [saved_joules(own, study, reference) for own in first]
        known = [joules for joules in found if joules is not None]
        return fmean(known) if len(known) == len(found) else None

    return [
        Comparison(
            study=study.name,
            sampler=study.sampler,
            trials=len(study.flops),
            spent_flops=study.spent_flops,
            front_points=len(study.front),
            lowest_loss=float(np.nanmin(study.mean_loss())),
            regrets=tuple(regret(study, share) for share in SHARES),
            flops_to_match=flops_to_match(study),
            trials_to_95=trials_to_area(study, NEARLY_ALL * joint, reference),
            hours=study.wall_seconds / 3600,
            joules=study.spent_joules,
            joules_saved=saved(study),
        )
        for study in studies
    ]


def regret_after(study: Spending, trials: int, joint: float, reference: tuple[float, float]) -> float | None:
    """The share of the joint front's area that the first `trials` leave out; None where none completed."""
    if not np.isfinite(study.loss[:trials]).any():
        return None
    area = hypervolume(study.flops[:trials], study.mean_loss(trials), reference)
    return 1 - area / joint if joint > 0 else 0.0


def trials_to_area(study: Spending, area: float, reference: tuple[float, float]) -> int | None:
    """How many trials of a study made its hypervolume reach `area`; None if it never did."""
    for trials in range(1, len(study.flops) + 1):
        reached = hypervolume(study.flops[:trials], study.mean_loss(trials), reference)
        if reached >= area * (1 - 1e-12):
            return trials
    return None


def saved_joules(search: Spending, other: Spending, reference: tuple[float, float]) -> float | None:
    """Joules that `other`, such as a grid, took more than `search` until both had the same front.

    The front of equal hypervolume that both reached: the smaller of their two final ones.

    Args:
        search, other: each with a completed run.
        reference: of `reference_corner`.

    Returns:
        Joules, negative where `other` was the thriftier; None where the energy of some trial is not known.
    """
    whole = (hypervolume(study.flops, study.mean_loss(), reference) for study in (search, other))
    common = min(whole)
    joules = []
    for study in (search, other):
        trials = trials_to_area(study, common, reference)
        joules.append(None if trials is None else study.joules_of(trials))
    own, others = joules
    return None if own is None or others is None else others - own
