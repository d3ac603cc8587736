"""Configurations of every executor, and a Ray cluster; what is not installed is skipped with its reason."""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from carbs_scaling.executors import EXECUTORS
from tests.executors.slurm_cluster import NO_SLURM, can_start, free_ports

ROOT = Path(__file__).parents[2]
# `slurm local` is submitit's executor of this machine.
CASES = ("in_process", "processes", "ray", "slurm", "slurm local")
OWN: dict[str, dict[str, Any]] = {
    "in_process": {},
    "processes": {"trials_per_worker": None, "gpus_per_trial": 1, "trial_minutes": None},
    "ray": {
        "address": None,
        "cpus_per_trial": 1,
        "gpus_per_trial": None,
        "resources": {},
        "trial_minutes": None,
    },
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
    if name == "ray":
        own["address"] = fixture("ray_nodes").address
        fixture("monkeypatch").setenv("RAY_AUTH_MODE", "disabled")  # as the nodes have it
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


@dataclass
class RayNodes:
    """Two nodes of one CPU each on this machine."""

    address: str
    nodes: list[subprocess.Popen[bytes]]


@contextlib.contextmanager
def ray_cluster(folder: Path) -> Iterator[RayNodes]:
    """Starts the nodes; they end with the body."""
    (port,) = free_ports(1)
    common = ["--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats", "--block"]
    address = f"127.0.0.1:{port}"
    head = ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}"]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "RAY_AUTH_MODE": "disabled",  # these nodes live on 127.0.0.1 alone
    }
    nodes: list[subprocess.Popen[bytes]] = []
    try:
        for own in (head, [f"--address={address}"]):
            start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--node-ip-address=127.0.0.1"]
            log = (folder.parent / f"node{len(nodes)}.log").open("w")
            nodes.append(
                subprocess.Popen(
                    [*start, *own, *common], stdout=log, stderr=log, env=environment, start_new_session=True
                )
            )
            log.close()
        yield RayNodes(address, nodes)
    finally:
        for node in reversed(nodes):
            end_node(node)


def end_node(node: subprocess.Popen[bytes]) -> None:
    """Kills a node with all its processes, as a machine that is switched off."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(node.pid, signal.SIGKILL)
    node.wait()


def require_slurm() -> None:
    """Skips a test where there is no Slurm."""
    if not can_start():
        pytest.skip(NO_SLURM)
