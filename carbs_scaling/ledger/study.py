"""The ledger: an Optuna study that holds every trial, what it cost and what it was trained on.

State lives here and nowhere else. The budget is counted from the ledger, so it survives restarts; a trial
that was running when the program died is found open and run again under its own number.
"""

import platform
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from carbs_scaling import __version__
from carbs_scaling.config import StudyConfig
from carbs_scaling.errors import BudgetSpent, StudyError, WrongStudy, warn
from carbs_scaling.ledger.database import (
    reading_errors,
    shown_place,
    storage_errors,
    storage_to_read,
    storage_to_write,
)
from carbs_scaling.ledger.faults import numbering_faults
from carbs_scaling.ledger.identity import study_identity
from carbs_scaling.ledger.imported import FinishedRun, add_runs
from carbs_scaling.ledger.lease import Lease
from carbs_scaling.ledger.record import TrialRecord
from carbs_scaling.ledger.refusals import LEDGER_FORMAT, check_format, check_identity, require_ledger
from carbs_scaling.ledger.trials import (
    FAULT,
    IMPORTED,
    INHERITED,
    OUTCOME,
    OWN_PROGRAM_SAYS,
    RECORD,
    StoredTrial,
    continuable,
    read_trials,
    stored,
)
from carbs_scaling.task import Task
from carbs_scaling.trial import (
    Completed,
    Diverged,
    MachineFailure,
    OutOfMemory,
    Status,
    Stopped,
    TrialOutcome,
    flops_so_far,
)

SHOWN = 5  # lines about damaged trials
# What a study has where nobody but a sampler in somebody's own program wrote into it.
OWN_PROGRAM: dict[str, Any] = {"comparable_by": [], "budget_flops": float("inf")}
FAILED = {Status.DIVERGED: Diverged, Status.OUT_OF_MEMORY: OutOfMemory, Status.STOPPED: Stopped}


class Study:
    """A study's ledger, opened for reading. `Study.begin` opens or creates one for searching.

    Args:
        optuna_study: the study underneath.
        unwritten: attributes of a new study, its identity the last, written with its first trial.
    """

    def __init__(self, optuna_study: optuna.Study, unwritten: Mapping[str, Any] | None = None) -> None:
        self.optuna_study = optuna_study
        self._unwritten = dict(unwritten or {})
        self._ended: dict[int, TrialRecord] = {}  # nothing of a trial that has ended changes
        self._attributes: dict[str, Any] = {**optuna_study.user_attrs, **self._unwritten}
        self._of_own_program = "ledger_format" not in self._attributes
        self._torn = False  # whether a trial may have been opened without its record
        if self._of_own_program:
            said = self._attributes.get(OWN_PROGRAM_SAYS, {})
            metric = (optuna_study.metric_names or ["loss"])[0]
            identity = {"task": "optuna", "metric": metric, "flops_convention": "own"}
            self._attributes |= {**OWN_PROGRAM, **said, "identity": identity}

    @property
    def name(self) -> str:
        """The study's name."""
        return self.optuna_study.study_name

    @property
    def budget_flops(self) -> float:
        """The budget that it was last run with."""
        return float(self._attributes["budget_flops"])

    @property
    def wall_seconds(self) -> float:
        """Wall time of all its searches, up to the last trial that ended."""
        return float(self._attributes.get("wall_seconds", 0.0))

    def set_wall_seconds(self, seconds: float) -> None:
        """Stores the wall time."""
        with storage_errors(self.name):
            self.optuna_study.set_user_attr("wall_seconds", seconds)
        self._attributes["wall_seconds"] = seconds

    @property
    def identity(self) -> dict[str, Any]:
        """What does not change while it lives: of its task, with seed, metric and FLOPs convention."""
        return dict(self._attributes["identity"])

    @property
    def comparable_by(self) -> tuple[str, ...]:
        """Keys of the identity that must agree between studies for their losses to mean the same."""
        return tuple(self._attributes["comparable_by"])

    @property
    def metric(self) -> str:
        """Unit of the loss, for headings."""
        return str(self.identity["metric"])

    @property
    def convention(self) -> str:
        """How its FLOPs are counted."""
        return str(self.identity["flops_convention"])

    @staticmethod
    def load(config: StudyConfig) -> "Study":
        """Opens an existing study.

        Raises:
            StudyError: there is none of this name, or the ledger cannot be used.
        """
        require_ledger(config)
        with reading_errors(shown_place(config)):
            try:
                study = optuna.load_study(study_name=config.name, storage=storage_to_read(config))
            except KeyError:
                raise WrongStudy(f"the ledger {shown_place(config)} holds no study {config.name!r}") from None
            if "identity" not in study.user_attrs and not study.get_trials(deepcopy=False):
                raise StudyError(f"study {config.name!r} holds no trial yet")
            if "identity" in study.user_attrs:
                check_format(config, study.user_attrs)
            elif study.directions != [optuna.study.StudyDirection.MINIMIZE] * 2:
                raise WrongStudy(
                    f"study {config.name!r} has other objectives than loss and training FLOPs, both minimised"
                )
            found = Study(study)
            _ = found.identity, found.comparable_by, found.metric, found.convention, found.budget_flops
        for line in shortened(found.faults()):
            warn(f"{line}: it is left out; carbs-scaling check study.name={config.name} mends what can be")
        return found

    @staticmethod
    def begin(
        config: StudyConfig,
        task: Task,
        budget_flops: float,
        sampler: BaseSampler,
        lease: Lease | None = None,
    ) -> "Study":
        """Opens the study to go on with it, or creates it.

        Args:
            config: its name, place and seed.
            task: what its trials are; its identity must not change while the study lives.
            budget_flops: the budget of this run of it; may be raised from one run to the next.
            sampler: proposes its points.
            lease: what is written is undone where it is not held any more; None for a study of nobody else.

        Raises:
            StudyError: it was begun with another identity, its trials are not numbered from 0 without a gap,
                or the ledger cannot be used.
        """
        identity = study_identity(task, config.seed)
        where = shown_place(config)
        with storage_errors(where):
            storage = storage_to_write(config)
            if lease is not None:
                lease.guard(storage)
            study = optuna.create_study(
                study_name=config.name,
                storage=storage,
                directions=["minimize", "minimize"],
                sampler=sampler,
                load_if_exists=True,
            )
            attributes = study.user_attrs
            if "identity" not in attributes and study.get_trials(deepcopy=False):
                raise WrongStudy(f"the study {config.name!r} in {where} was not made by carbs-scaling")
            if "identity" not in attributes:
                with warnings.catch_warnings():  # experimental in Optuna, and what its dashboard shows
                    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                    study.set_metric_names(["loss", "flops"])
                unwritten = {
                    "ledger_format": LEDGER_FORMAT,
                    "budget_flops": budget_flops,
                    "comparable_by": list(task.comparable_by),
                    "identity": identity,  # last: it says that the others are there
                }
                return Study(study, unwritten)
            check_format(config, attributes)
            check_identity(config, attributes["identity"], identity)
            wrong = numbering_faults(storage.numbers(study._study_id))
            if wrong:
                raise StudyError(
                    f"the ledger of study {config.name!r} is damaged ({wrong[0]}): carbs-scaling check "
                    f"study.name={config.name} mend=true mends it"
                )
            study.set_user_attr("budget_flops", budget_flops)
            return Study(study)

    def ask(
        self, task: Task, provenance: Mapping[str, Any], point: Mapping[str, Any] | None = None
    ) -> TrialRecord:
        """A new trial, at `point` or else proposed by the sampler, open in the ledger from now on.

        Raises:
            BudgetSpent: from the sampler; no trial is left open if `affordable` was asked first.
            LedgerGone: the ledger cannot be reached; asked again, what was begun is gone on with.
        """
        with storage_errors(self.name):
            self._write_attributes()
            if self._torn:
                for record in self._without_record(task, provenance):
                    return record
            self._torn = True
            if point is None:
                trial = self.optuna_study.ask(fixed_distributions=task.space)
                record = self._open(trial.number, trial.params, trial._trial_id, task, provenance)
            else:
                given = create_trial(
                    state=TrialState.RUNNING, params=dict(point), distributions=dict(task.space)
                )
                storage = self.optuna_study._storage
                created = storage.create_new_trial(self.optuna_study._study_id, given)
                number = storage.get_trial_number_from_id(created)
                record = self._open(number, dict(point), created, task, provenance)
            self._torn = False
            return record

    def _write_attributes(self) -> None:
        for name, value in self._unwritten.items():
            self.optuna_study.set_user_attr(name, value)
        self._unwritten = {}

    def add_runs(self, task: Task, runs: Iterable[FinishedRun]) -> int:
        """Adds finished runs from elsewhere, which are not charged; returns how many are new."""
        with storage_errors(self.name):
            self._write_attributes()
            return add_runs(self.optuna_study, runs, task.space)

    def unfinished(self, task: Task, provenance: Mapping[str, Any]) -> list[TrialRecord]:
        """The trials that were open when the last run of this study ended, to be run again as they are.

        One that was killed between its creation and the writing of its record is proposed again under its
        own number, from the same completed trials.
        """
        with storage_errors(self.name):
            left_open = self.optuna_study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            kept = [self._record(stored(frozen)) for frozen in left_open if RECORD in frozen.user_attrs]
            proposed = self._without_record(task, provenance)
            return sorted([*kept, *proposed], key=lambda record: record.number)

    def _without_record(self, task: Task, provenance: Mapping[str, Any]) -> list[TrialRecord]:
        """Trials that are open without a record, proposed now under their own numbers."""
        records = []
        for frozen in self.optuna_study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if RECORD in frozen.user_attrs:
                continue
            try:
                trial = optuna.trial.Trial(self.optuna_study, frozen._trial_id)  # Optuna samples it here
            except BudgetSpent:
                self.optuna_study.tell(frozen.number, state=TrialState.FAIL)
                continue
            for name, distribution in task.space.items():
                trial._suggest(name, distribution)
            records.append(self._open(trial.number, trial.params, trial._trial_id, task, provenance))
        self._torn = False
        return records

    def _open(
        self, number: int, point: dict[str, Any], trial_id: int, task: Task, provenance: Mapping[str, Any]
    ) -> TrialRecord:
        """Writes all that is known before the run in one attribute: it is there, or it is not."""
        versions = {"carbs_scaling": __version__, "python": platform.python_version()}
        written: dict[str, Any] = {
            "roles": dict(task.roles(point)),
            "details": task.details(point),
            "flops": float(task.flops(point)),
            "seed": trial_seed(self.identity["seed"], number),
            "provenance": {**task.provenance(), **provenance, **versions},
        }
        if task.continues:
            written |= self._origin(number, point, task)
        self.optuna_study._storage.set_trial_user_attr(trial_id, RECORD, written)
        return TrialRecord(number=number, point=point, outcome=None, **written)

    def _origin(self, number: int, point: dict[str, Any], task: Task) -> dict[str, Any]:
        """Parent, inherited FLOPs and seed of a trial that goes on from another; nothing of any other."""
        trials = read_trials(self.optuna_study)
        completed = continuable(trial for trial in trials if trial.number != number)
        parent = task.parent(point, completed)
        if parent is None:
            return {}
        seed = next(t.attributes[RECORD]["seed"] for t in trials if t.number == parent)
        inherited = max(0.0, task.flops(point) - task.price(point, completed))
        return {"parent": parent, INHERITED: inherited, "seed": seed}

    def begin_anew(self, number: int) -> TrialRecord:
        """A running trial whose parent's state is gone: now without a parent, at the full price."""
        with storage_errors(self.name):
            frozen = self._frozen(number)
            written = {k: v for k, v in frozen.user_attrs[RECORD].items() if k not in ("parent", INHERITED)}
            written["seed"] = trial_seed(self.identity["seed"], number)
            self.optuna_study._storage.set_trial_user_attr(frozen._trial_id, RECORD, written)
            return self._record(stored(self._frozen(number)))

    def tell(self, number: int, outcome: TrialOutcome) -> TrialRecord:
        """Closes a trial with how it ended, charged for what was done of it.

        A trial that is closed already stays as it is: somebody else did, as a dashboard can, or this was told
        before the database went away.

        Raises:
            LedgerGone: the ledger cannot be reached; it can be told again.
        """
        with storage_errors(self.name):
            frozen = self._frozen(number)
            if not frozen.state.is_finished():
                with suppress(optuna.exceptions.UpdateFinishedTrialError):
                    self._close(frozen, outcome)
            return self._record(stored(self._frozen(number)))

    def _close(self, frozen: FrozenTrial, outcome: TrialOutcome) -> None:
        flops = flops_so_far(frozen.user_attrs[RECORD]["flops"], outcome)
        attributes = {"outcome": str(outcome.status), OUTCOME: outcome.to_dict(), "flops": flops}
        # Through the storage: a reopened Trial would be sampled anew.
        for name, value in attributes.items():
            self.optuna_study._storage.set_trial_user_attr(frozen._trial_id, name, value)
        values = [outcome.loss, flops] if isinstance(outcome, Completed) else None
        state = None if values else TrialState.FAIL
        self.optuna_study.tell(frozen.number, values, state, skip_if_finished=True)

    def _frozen(self, number: int) -> FrozenTrial:
        trial_id = self.optuna_study._storage.get_trial_id_from_study_id_trial_number(
            self.optuna_study._study_id, number
        )
        return self.optuna_study._storage.get_trial(trial_id)

    @property
    def space(self) -> dict[str, optuna.distributions.BaseDistribution]:
        """The searched dimensions, as of the last trial that was proposed; empty before the first."""
        with storage_errors(self.name):
            trials = self.optuna_study.get_trials(deepcopy=False)
        own = [t for t in trials if t.distributions and IMPORTED not in t.user_attrs]
        return dict(own[-1].distributions) if own else {}

    def records(self) -> list[TrialRecord]:
        """All trials, by number. One without a record (killed as it was created) is left out."""
        with reading_errors(self.name):
            return [self._record(trial) for trial in self._trials()]

    def records_as_ended(self) -> list[TrialRecord]:
        """The trials that ended, in the order in which they did."""
        return [record for _, record in self.endings()]

    def endings(self) -> list[tuple[datetime, TrialRecord]]:
        """When each trial ended, in that order."""
        ended = [
            (trial.ended_at, self._record(trial)) for trial in self._trials() if trial.ended_at is not None
        ]
        return sorted(ended, key=lambda pair: (pair[0], pair[1].number))

    def _trials(self) -> list[StoredTrial]:
        with reading_errors(self.name):
            trials = read_trials(self.optuna_study)
        return trials if self._of_own_program else [t for t in trials if RECORD in t.attributes]

    def faults(self) -> list[str]:
        """The trials that are damaged and left out everywhere, each named with what is wrong."""
        with reading_errors(self.name):
            trials = self.optuna_study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        return [f"trial {t.number}: {t.user_attrs[FAULT]}" for t in trials if FAULT in t.user_attrs]

    def _record(self, trial: StoredTrial) -> TrialRecord:
        if trial.number in self._ended:
            return self._ended[trial.number]
        record = self._read_record(trial)
        if trial.status is not None:
            self._ended[trial.number] = record
        return record

    def _read_record(self, trial: StoredTrial) -> TrialRecord:
        nothing: dict[str, Any] = {"roles": {}, "details": {}, "seed": 0, "provenance": {}}
        written = {**nothing, "flops": trial.flops or 0.0, **trial.attributes.get(RECORD, {})}
        outcome = None
        if trial.status is not None:
            fields = trial.attributes.get(OUTCOME)
            if fields is not None:
                outcome = TrialOutcome.from_dict(fields)
                written["flops"] = flops_so_far(written["flops"], outcome)
            elif self._of_own_program:
                outcome = _outcome_of(trial)
                written["flops"] = written["flops"] if trial.flops is None else trial.flops
            else:
                # Failed by somebody else's hand, such as a dashboard's, where nothing is written.
                outcome, written["flops"] = MachineFailure(message="closed from outside"), 0.0
        return TrialRecord(
            number=trial.number,
            point=trial.params,
            outcome=outcome,
            wall_seconds=trial.wall_seconds,
            **written,
        )


def shortened(lines: list[str]) -> list[str]:
    """The first of many lines, and how many more there are."""
    more = len(lines) - SHOWN
    return lines if more <= 0 else [*lines[:SHOWN], f"{more} more trials are damaged"]


def _outcome_of(trial: StoredTrial) -> TrialOutcome:
    """How a trial of somebody's own program ended, by what Optuna knows of it."""
    if trial.status is Status.COMPLETED and trial.loss is not None:
        return Completed(loss=trial.loss)
    kind = FAILED.get(trial.status or Status.MACHINE, MachineFailure)
    return kind(progress=0.0 if kind is MachineFailure else 1.0)


def spent_flops(records: Iterable[TrialRecord]) -> float:
    """What the ended trials were charged; imported runs were paid for elsewhere."""
    return sum(record.price_flops for record in records if not record.running and not record.imported)


def trial_seed(seed: int, number: int) -> int:
    """Seed of one trial, from (study seed, trial number) alone: a resumed study goes on as it would have."""
    import numpy as np

    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
