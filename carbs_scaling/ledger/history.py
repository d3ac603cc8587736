"""What the other trials of a study say: losses, costs, failures, and what is still running."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from optuna.study import Study

from carbs_scaling.frontier import pareto_front
from carbs_scaling.laws.runs.collapse import collapsed
from carbs_scaling.ledger.trials import StoredTrial, read_trials
from carbs_scaling.space.encoding import Point
from carbs_scaling.space.projection import Key, LegalSpace, point_key
from carbs_scaling.trial import Status

MACHINE = str(Status.MACHINE)  # the user attribute `outcome` of a failure that says nothing of the point
FAILURES = (Status.DIVERGED, Status.OUT_OF_MEMORY)  # what says that a point cannot be run


@dataclass(frozen=True)
class History:
    """The trials as the surrogate sees them.

    Args:
        points: completed ones.
        loss: their losses, finite.
        flops: of their whole runs.
        failed: points that diverged, ran out of memory, were pruned or broke without a word; those that the
            machine lost or that were stopped on purpose are not in it.
        pending: points that are running.
        spent_flops: of completed and failed trials that were not imported.
        committed_flops: of running trials.
        continuable: points of completed and stopped trials, by number, that others may go on from.
        bounded: points that were stopped, with the loss that each would at least have ended at.
        begun: trials that count against a limit on them: neither imported nor lost to the machine.
        left_out: keys of completed points that are not in it, for there are too many (`essential`).
    """

    points: list[Point]
    loss: list[float]
    flops: list[float]
    failed: list[Point]
    pending: list[Point]
    spent_flops: float
    committed_flops: float
    begun: int = 0
    continuable: dict[int, Point] = field(default_factory=dict)
    bounded: list[tuple[Point, float]] = field(default_factory=list)
    left_out: frozenset[Key] = frozenset()

    def remaining_flops(self, budget_flops: float | None) -> float:
        """Budget less what is spent and what running trials are committed to; infinite without a budget."""
        if budget_flops is None:
            return float("inf")
        return budget_flops - self.spent_flops - self.committed_flops

    def merged(self) -> "History":
        """The same with runs of one point merged into their mean loss: the luckiest does not count."""
        runs: dict[Key, list[int]] = {}
        for i, point in enumerate(self.points):
            runs.setdefault(point_key(point), []).append(i)
        if len(runs) == len(self.points):
            return self
        return replace(
            self,
            points=[self.points[same[0]] for same in runs.values()],
            loss=[float(np.mean([self.loss[i] for i in same])) for same in runs.values()],
            flops=[float(np.mean([self.flops[i] for i in same])) for same in runs.values()],
        )


class SeenPoints:
    """What a space says of the points of ended trials, worked out once: they are read at each proposal.

    Threads of one `optimize` may read at the same time.
    """

    def __init__(self) -> None:
        self._of: tuple[LegalSpace | None, dict[int, tuple[StoredTrial, Point | None]]] = None, {}
        # By identity of a point, which is held beside it and so stays what it was.
        self._keys: dict[int, tuple[Point, Key]] = {}
        self._features: dict[int, tuple[Point, LegalSpace, np.ndarray]] = {}

    def point(self, trial: StoredTrial, space: LegalSpace) -> Point | None:
        """The point of a trial, as `LegalSpace.point_of` makes it; None for one that the space lacks."""
        if self._of[0] is not space:
            self._of, self._keys, self._features = (space, {}), {}, {}
        of_space, points = self._of
        known, point = points.get(trial.number, (None, None))
        if known is not trial:
            point = space.point_of(trial.params)
            if trial.status is not None and of_space is space:
                points[trial.number] = trial, point
        return point

    def key(self, point: Point) -> Key:
        """Key of the point of an ended trial, by which equal points are found (`point_key`)."""
        known = self._keys.get(id(point))
        if known is None or known[0] is not point:
            known = self._keys[id(point)] = point, point_key(point)
        return known[1]

    def features(self, points: list[Point], space: LegalSpace) -> np.ndarray:
        """Centred log features of ended trials' points, shape (n, 4), as `LegalSpace.features` makes them."""
        features = self._features

        def known(point: Point) -> bool:
            found = features.get(id(point))
            return found is not None and found[0] is point and found[1] is space

        new = [point for point in points if not known(point)]
        if new:
            rows = space.features(new)
            features |= {id(point): (point, space, row) for point, row in zip(new, rows, strict=True)}
        return np.array([features[id(point)][2] for point in points])


def essential(history: History, most: int, key: Callable[[Point], Key] = point_key) -> History:
    """The history with about `most` of its completed points, where there are more.

    Half are those nearest to the front: layer by layer, each the front of what the ones before it leave. The
    others are spread evenly over all costs. Repeats of a point go with it.
    """
    runs: dict[Key, list[int]] = {}
    if len(history.points) > most:
        for i, point in enumerate(history.points):
            runs.setdefault(key(point), []).append(i)
    if len(runs) <= most:
        return history
    same = list(runs.values())
    of = np.empty(len(history.points), dtype=int)
    of[[i for group in same for i in group]] = np.repeat(np.arange(len(same)), [len(group) for group in same])
    flops, loss = (np.bincount(of, values) / np.bincount(of) for values in (history.flops, history.loss))
    left, near = np.arange(len(same)), np.array([], dtype=int)
    while len(near) < most // 2:
        layer = pareto_front(flops[left], loss[left])
        near, left = np.append(near, left[layer]), np.delete(left, layer)
    others = left[np.argsort(flops[left], kind="stable")]
    spread = others[np.linspace(0, len(others) - 1, max(most - len(near), 0)).astype(int)]
    kept = sorted(i for group in np.append(near, spread) for i in same[group])
    keys = list(runs)
    return replace(
        history,
        left_out=frozenset(runs) - {keys[group] for group in np.append(near, spread)},
        points=[history.points[i] for i in kept],
        loss=[history.loss[i] for i in kept],
        flops=[history.flops[i] for i in kept],
    )


def without_collapsed(history: History, space: LegalSpace, seen: SeenPoints | None = None) -> History:
    """The history in which runs that ended with the loss of a model that broke count as diverged.

    Only where points have parameters and tokens: else a high loss may be all that so cheap a run can reach.
    """
    if len(history.points) < 2 or not all(space.has_role[:2]):
        return history
    seen = SeenPoints() if seen is None else seen
    broke, _ = collapsed(seen.features(history.points, space), np.asarray(history.loss))
    if not broke.any():
        return history
    fine = np.flatnonzero(~broke)
    return replace(
        history,
        points=[history.points[i] for i in fine],
        loss=[history.loss[i] for i in fine],
        flops=[history.flops[i] for i in fine],
        failed=history.failed + [history.points[i] for i in np.flatnonzero(broke)],
    )


def read_history(
    study: Study,
    space: LegalSpace,
    but: int | None = None,
    proposed: Mapping[int, Point] | None = None,
    seen: SeenPoints | None = None,
) -> History:
    """The history without trial number `but` (the one that is being sampled).

    Trials of other spaces are charged, where they say what they cost, and otherwise left out.

    Args:
        study: of two objectives, loss and training FLOPs.
        space: of the caller.
        but: number of a trial to leave out.
        proposed: points of running trials, by number, whose parameters may not all be stored yet.
        seen: what the last reading worked out.
    """
    seen = SeenPoints() if seen is None else seen
    history = History([], [], [], [], [], 0.0, 0.0)
    spent = committed = 0.0
    begun = 0
    for trial in read_trials(study):
        if trial.number == but:
            continue
        point = seen.point(trial, space)
        begun += not trial.imported and trial.status is not Status.MACHINE
        if trial.status is None:
            point = (proposed or {}).get(trial.number) if point is None else point
            if point is not None:
                history.pending.append(point)
                committed += max(0.0, _expected(point, space) - trial.inherited_flops)
            continue
        if trial.imported:
            pass  # paid for elsewhere
        elif trial.charged_flops is not None:
            spent += trial.charged_flops
        elif point is not None:
            spent += _expected(point, space)
        if point is None:
            continue
        if trial.may_be_continued:
            history.continuable[trial.number] = point
        if trial.status is Status.COMPLETED and trial.loss is not None and trial.flops is not None:
            history.points.append(point)
            history.loss.append(trial.loss)
            history.flops.append(trial.flops)
        elif trial.status in FAILURES:
            history.failed.append(point)
        elif trial.status is Status.STOPPED and trial.at_least is not None:
            history.bounded.append((point, trial.at_least))
    return replace(history, spent_flops=spent, committed_flops=committed, begun=begun)


def _expected(point: Point, space: LegalSpace) -> float:
    return space.cost({name: point[name] for name in space.encoding.distributions})
