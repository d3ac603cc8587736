"""Whether a ledger is whole, trial by trial, and the mending of what is not."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy
from optuna.storages._rdb.models import TrialModel
from sqlalchemy import orm, text

from carbs_scaling.config import StudyConfig
from carbs_scaling.errors import WrongStudy
from carbs_scaling.ledger.database import ledger_engine, reading_errors, shown_place
from carbs_scaling.ledger.faults import Fault, fault_of, numbering_faults
from carbs_scaling.ledger.trials import OUTCOME, RECORD
from carbs_scaling.trial import MachineFailure

BATCH_TRIALS = 500  # read together, for memory
STATES = ("RUNNING", "WAITING", "COMPLETE", "PRUNED", "FAIL")
CHILDREN = ("trial_params", "trial_values", "trial_user_attributes", "trial_system_attributes")


@dataclass(frozen=True)
class Checked:
    """What was found.

    Args:
        trials: how many there are.
        open: how many have not ended.
        faults: (number, what) of single trials.
        remarks: of their numbers and of rows that belong to none.
    """

    trials: int
    open: int
    faults: tuple[tuple[int, str], ...]
    remarks: tuple[str, ...]

    @property
    def wrong(self) -> int:
        """How many things are wrong."""
        return len(self.faults) + len(self.remarks)


def check_ledger(config: StudyConfig, mend: bool) -> Checked:
    """Read every value of a study's trials; with `mend` mend what is wrong.

    A trial that cannot be read is set aside as a failure of the machine, which teaches nothing and costs
    nothing. Of two trials of one number the worse one is set aside under a number of its own, a missing
    number is filled by such a failure, and rows of trials that are not there are removed. The rest is not
    touched.

    Raises:
        StudyError: there is no such study, or the database cannot be used.
    """
    with reading_errors(shown_place(config)):
        engine = ledger_engine(config)
        try:
            with orm.Session(engine) as session:
                checked = _check(session, config, mend)
                session.commit()
                return checked
        finally:
            engine.dispose()


def _check(session: orm.Session, config: StudyConfig, mend: bool) -> Checked:
    study_id = study_id_of(session.connection(), config)
    which = {"study": study_id}
    rows = session.execute(
        text("SELECT trial_id, number, state FROM trials WHERE study_id = :study ORDER BY trial_id"), which
    ).all()
    found = [
        (trial_id, number, Fault(f"its state is {state!r}, which is none"))
        for trial_id, number, state in rows
        if state not in STATES
    ]
    readable = [row[0] for row in rows if row[2] in STATES]
    orm.configure_mappers()  # else `TrialModel` has no `params` where nothing was asked of it before
    for start in range(0, len(readable), BATCH_TRIALS):
        batch = readable[start : start + BATCH_TRIALS]
        query = sqlalchemy.select(TrialModel).where(TrialModel.trial_id.in_(batch))
        loads = (
            TrialModel.params,
            TrialModel.values,
            TrialModel.user_attributes,
            TrialModel.system_attributes,
        )
        for trial in session.scalars(query.options(*map(orm.selectinload, loads))):
            fault = fault_of(trial)
            if fault is not None:
                found.append((trial.trial_id, trial.number, fault))
        session.expunge_all()
    orphans = {table: _orphans(session, table) for table in CHILDREN}
    remarks = numbering_faults([row[1] for row in rows])
    remarks += [f"{count} rows of {table} belong to no trial" for table, count in orphans.items() if count]
    if mend:
        for trial_id, _, fault in found:
            _set_aside(session, trial_id, fault)
        damaged = {trial_id for trial_id, _, _ in found}
        _renumber(session, study_id, rows, damaged)
        for table in CHILDREN:
            if orphans[table]:
                session.execute(text(f"DELETE FROM {table} WHERE {_ORPHANED}"))
    faults = sorted((number, fault.what) for _, number, fault in found)
    unfinished = sum(row[2] in ("RUNNING", "WAITING") for row in rows)
    return Checked(len(rows), unfinished, tuple(faults), tuple(remarks))


def study_id_of(connection: sqlalchemy.Connection, config: StudyConfig) -> int:
    """Number of a study in its database.

    Raises:
        WrongStudy: there is none of its name.
    """
    if sqlalchemy.inspect(connection).has_table("studies"):
        query = text("SELECT study_id FROM studies WHERE study_name = :name")
        study = connection.execute(query, {"name": config.name}).first()
        if study is not None:
            return int(study[0])
    raise WrongStudy(f"the ledger {shown_place(config)} holds no study {config.name!r}")


_ORPHANED = "trial_id NOT IN (SELECT trial_id FROM trials)"


def _orphans(session: orm.Session, table: str) -> int:
    return int(session.execute(text(f"SELECT COUNT(*) FROM {table} WHERE {_ORPHANED}")).scalar_one())


def _set_aside(session: orm.Session, trial_id: int, fault: Fault) -> None:
    which = {"trial": trial_id}
    session.execute(text("DELETE FROM trial_values WHERE trial_id = :trial"), which)
    kept = "AND key <> :record" if fault.record_is_whole else ""
    session.execute(
        text(f"DELETE FROM trial_user_attributes WHERE trial_id = :trial {kept}"),
        which | ({"record": RECORD} if kept else {}),
    )
    if not fault.record_is_whole:
        for table in ("trial_params", "trial_system_attributes"):
            session.execute(text(f"DELETE FROM {table} WHERE trial_id = :trial"), which)
    _write_failure(session, trial_id, f"set aside by check: {fault.what}", fault.record_is_whole)


def _write_failure(session: orm.Session, trial_id: int, message: str, record_is_whole: bool) -> None:
    outcome = MachineFailure(message=message[:300])
    attributes: dict[str, Any] = {"outcome": str(outcome.status), "flops": 0.0}
    if record_is_whole:
        attributes[OUTCOME] = outcome.to_dict()
    for key, value in attributes.items():
        session.execute(
            text(
                "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (:trial, :key, :value)"
            ),
            {"trial": trial_id, "key": key, "value": json.dumps(value)},
        )
    session.execute(text("UPDATE trials SET state = 'FAIL' WHERE trial_id = :trial"), {"trial": trial_id})


def _renumber(
    session: orm.Session, study_id: int, rows: Sequence[sqlalchemy.Row[Any]], damaged: set[int]
) -> None:
    """Gives every trial a number of its own, and every number up to the last a trial."""
    by_number = defaultdict(list)
    for row in rows:
        trial_id, number, state = tuple(row)
        by_number[number].append(
            (trial_id in damaged, state != "COMPLETE", state in ("RUNNING", "WAITING"), trial_id)
        )
    extra = [trial for same in by_number.values() for trial in sorted(same)[1:]]
    free = [n for n in range(max(by_number, default=-1) + 1) if n not in by_number]
    # Optuna numbers a new trial by how many there are.
    free += list(range(max(by_number, default=-1) + 1, max(by_number, default=-1) + 1 + len(extra)))
    for is_damaged, *_, trial_id in extra:
        number = free.pop(0)
        session.execute(
            text("UPDATE trials SET number = :number WHERE trial_id = :trial"),
            {"number": number, "trial": trial_id},
        )
        if not is_damaged:
            _set_aside(session, trial_id, Fault("another trial has its number", True))
    for number in [n for n in free if n < max(by_number, default=-1)]:
        trial: Any = TrialModel(study_id=study_id, number=number, state="FAIL")
        session.add(trial)
        session.flush()
        _write_failure(session, trial.trial_id, "missing, filled in by check", False)
