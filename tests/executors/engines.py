"""Configurations of every executor; what is not installed is skipped with its reason."""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from carbs_scaling.executors import EXECUTORS
from tests.executors.slurm_cluster import NO_SLURM, can_start

ROOT = Path(__file__).parents[2]
# `slurm local` is submitit's executor of this machine.
CASES = ("in_process", "processes", "slurm", "slurm local")
OWN: dict[str, dict[str, Any]] = {
    "in_process": {},
    "processes": {"trials_per_worker": None, "gpus_per_trial": 1, "trial_minutes": None},
    "slurm": {
        "partition": None,
        "account": None,
        "nodes": 1,
        "gpus_per_trial": 1,
        "cpus_per_trial": 1,
        "memory": None,
        "time_minutes": 60,
        "signal_seconds": 60,
        "requeues": 2,
        "trial_minutes": None,
        "setup": [],
        "parameters": {},
        "local": False,
    },
}


def engine_config(case: str, fixture: Callable[[str], Any], **options: Any) -> Any:
    """The configuration of one of `CASES`; skips the test where it cannot run here.

    Args:
        fixture: `request.getfixturevalue`, for the clusters.
        options: other values than the usual ones.
    """
    name, *local = case.split()
    own = {"workers": 1, "device": "cpu", "memory_bytes": None, "retries": 1, **OWN[name], **options}
    if name == "slurm":
        own["local"] = bool(local)
        importable(fixture("monkeypatch"))
        if importlib.util.find_spec("submitit") is None:
            pytest.skip("needs submitit: pip install 'carbs-scaling[slurm]'")
        if not local:
            for variable, value in fixture("slurm").items():
                fixture("monkeypatch").setenv(variable, value)
    return EXECUTORS.load(name).config_type(name=name, **own)


def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has new processes import the tests, and this checkout."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


def require_slurm() -> None:
    """Skips a test where there is no Slurm."""
    if not can_start():
        pytest.skip(NO_SLURM)
