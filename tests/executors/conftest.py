"""A cluster of this machine, started once for the tests that need it."""

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.executors.engines import require_slurm
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
