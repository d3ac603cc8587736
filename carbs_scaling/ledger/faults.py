"""What can be wrong with one stored trial, below Optuna, which a single damaged value brings down."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from optuna.distributions import json_to_distribution
from optuna.storages._rdb.models import TrialModel, TrialValueModel

from carbs_scaling.ledger.trials import IMPORTED, INHERITED, OUTCOME, RECORD
from carbs_scaling.trial import Completed, TrialOutcome, flops_so_far

# What a trial's values may differ from its own record by: both are the same float.
TOLERANCE = 1e-9
_NUMBER = (int, float)  # a union would be built anew at each of a million looks
# What is written of a trial before its run.
RECORD_FIELDS: dict[str, Any] = {
    "roles": dict, "details": dict, "flops": _NUMBER, "seed": int, "provenance": dict,
}  # fmt: skip
# What is written of a trial that goes on from another.
ORIGIN_FIELDS: dict[str, Any] = {"parent": int, INHERITED: _NUMBER}
ALL_FIELDS = RECORD_FIELDS | ORIGIN_FIELDS


distribution_of = lru_cache(maxsize=1024)(json_to_distribution)  # by its JSON: the same few in all trials


@dataclass(frozen=True)
class Fault:
    """What is wrong with one trial.

    Args:
        what: in a few words.
        record_is_whole: whether what was known before the run can still be read.
    """

    what: str
    record_is_whole: bool = False


def numbering_faults(numbers: Sequence[int]) -> list[str]:
    """What is wrong with the numbers of a study's trials: they count from 0, each is there once."""
    counts = Counter(numbers)
    faults = [f"the number {number} is there {count} times" for number, count in counts.items() if count > 1]
    missing = [number for number in range(max(counts, default=-1) + 1) if number not in counts]
    return faults + [f"no trial has the number {number}" for number in missing]


def fault_of(trial: TrialModel) -> Fault | None:
    """The first fault of a trial; None for a whole one, and for what nobody but another program wrote."""
    return examined(trial)[0]


def examined(trial: TrialModel) -> tuple[Fault | None, dict[str, Any]]:
    """A trial's first fault and its user attributes, which are whole where there is no fault."""
    read: dict[str, Any] = {}
    try:
        return _fault_of(trial, read), read
    except OverflowError:
        return Fault("a number of it is too large"), read


def _fault_of(trial: TrialModel, read: dict[str, Any]) -> Fault | None:
    state = trial.state.name
    for row in sorted(trial.user_attributes, key=lambda row: row.key != RECORD):
        try:
            read[row.key] = json.loads(row.value_json)
        except (TypeError, ValueError, RecursionError):
            whole = row.key != RECORD and _record_fault(read) is None
            return Fault(f"its {row.key} is no JSON", whole)
    for row in trial.system_attributes:
        try:
            json.loads(row.value_json)
        except (TypeError, ValueError, RecursionError):
            return Fault(f"what is stored of {row.key} is no JSON")
    for row in trial.params:
        try:
            distribution = distribution_of(row.distribution_json)
            distribution.to_external_repr(row.param_value)
            inside = distribution._contains(row.param_value)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError):
            return Fault(f"what is stored of {row.param_name} is no value of a dimension")
        if not inside:
            return Fault(f"its {row.param_name} lies outside of the dimension that it was drawn from")
    if RECORD not in read:
        # Else it was killed as it was created, or is of somebody's own program.
        return Fault("it has an outcome without a record") if OUTCOME in read else None
    what = _record_fault(read)
    if what is not None:
        return Fault(what)
    if state in ("RUNNING", "WAITING"):
        return None
    if OUTCOME not in read:
        if not isinstance(read.get("flops", 0.0), _NUMBER):
            return Fault("its flops are no number", True)
        # A failure without a word is a trial that somebody closed by hand. Somebody's own program writes no
        # outcomes; its records lack the version that a search writes into them.
        ours = "carbs_scaling" in read[RECORD].get("provenance", {})
        return Fault("it is complete without an outcome", True) if ours and state == "COMPLETE" else None
    return _outcome_fault(trial, read)


def _record_fault(read: dict[str, Any]) -> str | None:
    fields = read.get(RECORD)
    if not isinstance(fields, dict):
        return "its record is no mapping"
    for name, value in fields.items():
        if name not in ALL_FIELDS:
            return f"its record has a field {name!r}, which is not its own"
        if not isinstance(value, ALL_FIELDS[name]) or isinstance(value, bool):
            return f"the {name} of its record is of another kind"
    missing = sorted(set(RECORD_FIELDS) - set(fields))
    if missing and IMPORTED not in read:
        return f"its record lacks {missing[0]}"
    flops = fields.get("flops", 0.0)
    if not (math.isfinite(flops) and flops >= 0):
        return f"its record says {flops} FLOPs"
    for name, value in fields.get("roles", {}).items():
        if not _is_finite(value):
            return f"the role {name} of its record is no number"
    return None


def _outcome_fault(trial: TrialModel, read: dict[str, Any]) -> Fault | None:
    try:
        outcome = TrialOutcome.from_dict(read[OUTCOME])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return Fault(f"its outcome cannot be read ({type(error).__name__} {error})", True)
    state = trial.state.name
    odd = _odd_field(outcome)
    if odd:
        return Fault(f"the {odd} of its outcome is of another kind", True)
    if isinstance(outcome, Completed) != (state == "COMPLETE"):
        return Fault(f"its outcome is {outcome.status}, but its state {state.lower()}", True)
    if read.get("outcome", outcome.status) != outcome.status:
        return Fault(f"its outcome is {outcome.status}, and {read['outcome']} beside it", True)
    charged = flops_so_far(read[RECORD].get("flops", 0.0), outcome)
    if "flops" in read[RECORD] and not _same(read.get("flops", charged), charged):
        return Fault(f"its FLOPs are {read['flops']}, and {charged} by its own record", True)
    if not isinstance(outcome, Completed):
        return None
    values = {row.objective: row for row in trial.values}
    if set(values) != {0, 1}:
        return Fault(f"it has the values {sorted(values)} instead of a loss and FLOPs", True)
    loss, flops = (
        TrialValueModel.stored_repr_to_value(values[i].value, values[i].value_type) for i in (0, 1)
    )
    if not _same(loss, outcome.loss):
        return Fault(f"its loss is {loss}, and {outcome.loss} in its own outcome", True)
    if "flops" in read[RECORD] and not _same(flops, charged):
        return Fault(f"its FLOPs are {flops}, and {charged} by its own record", True)
    return None


def _odd_field(outcome: TrialOutcome) -> str:
    """Name of a field that is not of its own type; empty where all are."""
    numbers = {"progress": outcome.progress, "seconds": outcome.seconds}
    numbers |= {"peak_memory_bytes": outcome.peak_memory_bytes or 0}
    if isinstance(outcome, Completed):
        numbers |= {"loss": outcome.loss, "loss_of_laws": outcome.law_loss}
    if not isinstance(outcome.metrics, dict):
        return "metrics"
    metrics = {f"metric {name}": value for name, value in outcome.metrics.items() if value is not None}
    if outcome.energy is not None:
        numbers |= {"energy": outcome.energy.joules, "CO2": outcome.energy.co2_grams}
    texts = {name: getattr(outcome, name) for name in ("device", "message", "precision", "recomputation")}
    if outcome.energy is not None:
        texts["source of energy"] = outcome.energy.source
    wrong = [name for name, value in metrics.items() if not isinstance(value, _NUMBER)]
    wrong += [name for name, value in numbers.items() if not _is_finite(value)]
    wrong += [name for name, value in texts.items() if not isinstance(value, str)]
    return wrong[0] if wrong else ""


def _is_finite(value: Any) -> bool:
    return isinstance(value, _NUMBER) and math.isfinite(value)


def _same(first: Any, second: float) -> bool:
    return isinstance(first, _NUMBER) and math.isclose(first, second, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
