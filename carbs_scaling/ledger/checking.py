"""Whether a ledger is whole, trial by trial, read below Optuna, which a single damaged value brings down."""

import json
import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

import sqlalchemy
from sqlalchemy import text

from carbs_scaling.config import StudyConfig
from carbs_scaling.errors import WrongStudy
from carbs_scaling.ledger.database import database_of, shown_place, storage_errors
from carbs_scaling.ledger.trials import INHERITED, OUTCOME, RECORD
from carbs_scaling.trial import Completed, MachineFailure, TrialOutcome

# What a trial's values may differ from its own record by: both are the same float.
TOLERANCE = 1e-9
# What is written of a trial before its run; a finished run from elsewhere has some of it.
RECORD_FIELDS: dict[str, Any] = {
    "roles": dict, "details": dict, "flops": int | float, "seed": int, "provenance": dict,
    "parent": int, INHERITED: int | float,
}  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """What is wrong with one trial.

    Args:
        trial_id: of the database.
        number: of the trial.
        what: in a few words.
        record_is_whole: whether what was known before the run can still be read.
    """

    trial_id: int
    number: int
    what: str
    record_is_whole: bool


@dataclass(frozen=True)
class Checked:
    """What was found.

    Args:
        trials: how many there are.
        open: how many have not ended.
        faults: of single trials.
        remarks: of the whole.
    """

    trials: int
    open: int
    faults: tuple[Fault, ...]
    remarks: tuple[str, ...]


def check_ledger(config: StudyConfig, mend: bool) -> Checked:
    """Read every value of a study's trials; with `mend` set those aside that cannot be read.

    A trial that is set aside is a failure of the machine, which teaches nothing and costs nothing. The rest
    of the ledger is not touched.

    Raises:
        StudyError: there is no such study, or the database cannot be used.
    """
    url, options = database_of(config)
    engine = sqlalchemy.create_engine(url, **options)
    try:
        with storage_errors(shown_place(config)), engine.begin() as connection:
            checked = _check(connection, config)
            if mend:
                for fault in checked.faults:
                    _set_aside(connection, fault)
            return checked
    finally:
        engine.dispose()


def _check(connection: sqlalchemy.Connection, config: StudyConfig) -> Checked:
    study = connection.execute(
        text("SELECT study_id FROM studies WHERE study_name = :name"), {"name": config.name}
    ).first()
    if study is None:
        raise WrongStudy(f"the ledger {shown_place(config)} holds no study {config.name!r}")
    trials = connection.execute(
        text("SELECT trial_id, number, state FROM trials WHERE study_id = :study ORDER BY number"),
        {"study": study[0]},
    ).all()

    def rows(columns: str, table: str) -> dict[int, list[Any]]:
        found = defaultdict(list)
        own = "(SELECT trial_id FROM trials WHERE study_id = :study)"
        query = f"SELECT {columns} FROM {table} WHERE trial_id IN {own}"
        for row in connection.execute(text(query), {"study": study[0]}):
            found[row[0]].append(row[1:])
        return found

    attributes = rows("trial_id, key, value_json", "trial_user_attributes")
    system = rows("trial_id, key, value_json", "trial_system_attributes")
    parameters = rows("trial_id, param_name, distribution_json", "trial_params")
    values = rows("trial_id, objective, value", "trial_values")
    faults = []
    for trial_id, number, state in trials:
        texts = [*parameters[trial_id], *system[trial_id]]
        told = dict(values[trial_id])
        fault = _fault(trial_id, number, str(state), attributes[trial_id], texts, told)
        if fault is not None:
            faults.append(fault)
    counts = Counter(number for _, number, _ in trials)
    remarks = [f"the number {number} is there {count} times" for number, count in counts.items() if count > 1]
    missing = sorted(set(range(len(trials))) - set(counts))
    if missing:
        others = f", nor {len(missing) - 1} more" if missing[1:] else ""
        remarks.append(f"no trial has the number {missing[0]}{others}")
    unfinished = sum(state in ("RUNNING", "WAITING") for _, _, state in trials)
    return Checked(len(trials), unfinished, tuple(faults), tuple(remarks))


def _fault(
    trial_id: int, number: int, state: str, attributes: list[Any], texts: list[Any], values: dict[int, float]
) -> Fault | None:
    read: dict[str, Any] = {}
    for key, content in sorted(attributes, key=lambda row: row[0] != RECORD):
        try:
            read[key] = json.loads(content)
        except (TypeError, ValueError):
            whole = key != RECORD and _is_record(read.get(RECORD))
            return Fault(trial_id, number, f"its {key} is no JSON", whole)
    for key, content in texts:
        try:
            json.loads(content)
        except (TypeError, ValueError):
            return Fault(trial_id, number, f"what is stored of {key} is no JSON", False)
    if RECORD not in read:
        return None  # killed as it was created: it is left out
    if not _is_record(read[RECORD]):
        return Fault(
            trial_id,
            number,
            "its record has a field that is not its own, or a value of another kind",
            False,
        )
    if state in ("RUNNING", "WAITING") or OUTCOME not in read:
        return None
    try:
        outcome = TrialOutcome.from_dict(read[OUTCOME])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return Fault(trial_id, number, f"its outcome cannot be read ({type(error).__name__} {error})", True)
    if isinstance(outcome, Completed) != (state == "COMPLETE"):
        return Fault(
            trial_id, number, f"its outcome is {outcome.status}, but its state {state.lower()}", True
        )
    if isinstance(outcome, Completed):
        told = values.get(0)
        if told is None or not math.isclose(told, outcome.loss, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
            return Fault(trial_id, number, f"its loss is {told}, and {outcome.loss} in its own outcome", True)
    return None


def _is_record(fields: Any) -> bool:
    if not isinstance(fields, dict) or not set(fields) <= set(RECORD_FIELDS):
        return False
    return all(isinstance(value, RECORD_FIELDS[name]) for name, value in fields.items())


def _set_aside(connection: sqlalchemy.Connection, fault: Fault) -> None:
    which = {"trial": fault.trial_id}
    connection.execute(text("DELETE FROM trial_values WHERE trial_id = :trial"), which)
    kept = "AND key <> :record" if fault.record_is_whole else ""
    connection.execute(
        text(f"DELETE FROM trial_user_attributes WHERE trial_id = :trial {kept}"),
        which | ({"record": RECORD} if kept else {}),
    )
    if not fault.record_is_whole:
        for table in ("trial_params", "trial_system_attributes"):
            connection.execute(text(f"DELETE FROM {table} WHERE trial_id = :trial"), which)
    outcome = MachineFailure(message=f"set aside by check: {fault.what}"[:300])
    for key, value in (("outcome", str(outcome.status)), (OUTCOME, outcome.to_dict()), ("flops", 0.0)):
        connection.execute(
            text(
                "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (:trial, :key, :value)"
            ),
            which | {"key": key, "value": json.dumps(value)},
        )
    connection.execute(text("UPDATE trials SET state = 'FAIL' WHERE trial_id = :trial"), which)
