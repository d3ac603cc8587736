"""Clusters of this machine, started once for the tests that need them."""

import importlib.util
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.executors.engines import ray_cluster, require_slurm
from tests.executors.slurm_cluster import slurm_cluster


@pytest.fixture(scope="session")
def slurm():
    """Environment variables of a real Slurm."""
    require_slurm()
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short, for sockets; open to the user `munge`
    folder.chmod(0o755)
    try:
        with slurm_cluster(folder / "cluster") as environment:
            yield environment
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def ray_nodes():
    """Two nodes of Ray."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("needs Ray: pip install 'carbs-scaling[ray]'")
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    try:
        with ray_cluster(folder / "ray") as nodes:
            yield nodes
    finally:
        shutil.rmtree(folder, ignore_errors=True)
