"""What must not change while a study lives, and what changed where it did."""

import json
from collections.abc import Mapping
from typing import Any

from carbs_scaling.task import Task


def study_identity(task: Task, seed: int) -> dict[str, Any]:
    """The task's identity and what every study has, as plain JSON values.

    Where trials run, and how much may be spent, is not in it: that may change.
    """
    common = {
        "task": task.name,
        "metric": task.metric,
        "flops_convention": task.flops_convention,
        "seed": seed,
    }
    identity: dict[str, Any] = json.loads(json.dumps({**task.identity(), **common}))
    return identity


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two nested mappings, as `key: before -> now`."""
    old, new = flatten(before), flatten(now)
    absent = "(not there)"
    return [
        f"{key}: {old.get(key, absent)} -> {new.get(key, absent)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, absent) != new.get(key, absent)
    ]


def flatten(values: Mapping[str, Any], separator: str = ".", prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level: `{"a": {"b": 1}}` as `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, separator, f"{prefix}{key}{separator}")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
