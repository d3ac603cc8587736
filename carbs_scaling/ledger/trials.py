"""The trials of an Optuna study as they are stored: the one place that says how each of them ended."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from typing import Any
from weakref import WeakKeyDictionary

from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from carbs_scaling.trial import Status

# User attributes of a trial: what was known before it ran, how it ended, and where a finished run from
# elsewhere is from.
RECORD, OUTCOME, IMPORTED = "record", "outcome_record", "imported"
FAULT = "carbs_scaling_fault"  # of a trial that was found damaged as it was read; it is never stored
INHERITED = "inherited_flops"  # in the record; of a trial of somebody's own program an attribute of its own
LARGEST_LOSS = 1e50  # a larger one overflows when squared: it is that of a run which diverged
OWN_PROGRAM_SAYS = (
    "carbs_scaling"  # user attribute of a study in somebody's own program: what the sampler says of it
)

# Trials that have ended, by storage and id, beside what they were read from: nothing of them changes, and a
# search of thousands of trials reads all of them several times a proposal (benchmarks/large_study.py).
_ENDED: "WeakKeyDictionary[BaseStorage, dict[int, tuple[FrozenTrial, StoredTrial]]]" = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class StoredTrial:
    """A trial of anybody's study with the objectives loss and FLOPs.

    Args:
        number: of the trial.
        params: its parameters; those of a running trial may not all be stored yet.
        status: how it ended; None while it runs. A trial that failed without a word, was pruned, or has a
            loss that is not finite, diverged.
        loss: where it completed.
        flops: of the whole run as far as it was done, where it says so.
        attributes: user attributes.
        ended_at: when it ended.
        wall_seconds: from its proposal to its end; None while it runs.
        imported: whether it is a finished run from elsewhere, which no budget pays for.
        inherited_flops: of the whole run, those of a parent, which are not paid again.
    """

    number: int
    params: dict[str, Any]
    status: Status | None
    loss: float | None
    flops: float | None
    attributes: dict[str, Any]
    ended_at: datetime | None
    wall_seconds: float | None
    imported: bool = False
    inherited_flops: float = 0.0

    @property
    def charged_flops(self) -> float | None:
        """FLOPs that it was charged, where it says what it took."""
        return None if self.flops is None else max(0.0, self.flops - self.inherited_flops)

    @property
    def at_least(self) -> float | None:
        """Loss that a stopped trial would at least have ended at, where it says so."""
        bound = self.attributes.get(OUTCOME, {}).get("at_least")
        return None if bound is None else float(bound)

    @property
    def may_be_continued(self) -> bool:
        """Whether it may have left a state to go on from."""
        return self.status in (Status.COMPLETED, Status.STOPPED) and not self.imported


def read_trials(study: Study) -> list[StoredTrial]:
    """All trials that were begun, by number; those that are damaged are left out.

    Optuna makes a failure of a loss that is NaN, and of an exception that `optimize` was told to catch.
    """
    ended = _ENDED.setdefault(study._storage, {})
    trials = study.get_trials(deepcopy=False)
    return [
        _stored_once(trial, ended)
        for trial in trials
        if trial.state is not TrialState.WAITING and FAULT not in trial.user_attrs
    ]


def _stored_once(trial: FrozenTrial, ended: dict[int, tuple[FrozenTrial, StoredTrial]]) -> StoredTrial:
    known = ended.get(trial._trial_id)
    if known is not None and known[0] is trial:
        return known[1]
    read = stored(trial)
    if trial.state.is_finished():
        ended[trial._trial_id] = trial, read
    return read


def stored(trial: FrozenTrial) -> StoredTrial:
    """One trial."""
    status, loss, flops = _ending(trial)
    imported = IMPORTED in trial.user_attrs
    wall = None if trial.duration is None or imported else trial.duration.total_seconds()
    return StoredTrial(
        trial.number,
        trial.params,
        status,
        loss,
        flops,
        trial.user_attrs,
        trial.datetime_complete,
        wall,
        imported,
        _not_negative(float(trial.user_attrs.get(RECORD, trial.user_attrs).get(INHERITED, 0.0))),
    )


def continuable(trials: Iterable[StoredTrial]) -> dict[int, dict[str, Any]]:
    """Parameters of the trials that others may go on from, by number."""
    return {trial.number: trial.params for trial in trials if trial.may_be_continued}


def _ending(trial: FrozenTrial) -> tuple[Status | None, float | None, float | None]:
    """Status, loss and charged FLOPs."""
    if trial.state is TrialState.RUNNING:
        return None, None, None
    values = trial.values if trial.state is TrialState.COMPLETE and trial.values else []
    charged = _not_negative(values[1]) if len(values) > 1 and isfinite(values[1]) else None
    if charged is None and "flops" in trial.user_attrs:
        charged = _not_negative(float(trial.user_attrs["flops"]))
    if len(values) > 1 and abs(values[0]) < LARGEST_LOSS and isfinite(values[1]) and values[1] > 0:
        return Status.COMPLETED, float(values[0]), charged
    word = trial.user_attrs.get("outcome")
    if trial.state in (TrialState.FAIL, TrialState.PRUNED) and word in (
        Status.MACHINE,
        Status.STOPPED,
        Status.OUT_OF_MEMORY,
    ):
        return Status(word), None, 0.0 if charged is None and word == Status.MACHINE else charged
    return Status.DIVERGED, None, charged


def _not_negative(flops: float) -> float:
    return max(flops, 0.0) if isfinite(flops) else 0.0
