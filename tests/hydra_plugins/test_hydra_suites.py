"""Hydra's own tests for launchers and sweepers (`hydra.test_utils.launcher_common_tests`), on our sweeper.

Hydra runs these suites on sweepers that make a grid; so ours is given as many trials as there are
combinations, and its jobs, which it chooses in an order of its own, are looked at in that of a grid. With
that, all tests of `LauncherTestSuite`, `BatchedSweeperTestSuite` and `IntegrationTestSuite` apply.
"""

import optuna
import pytest
from hydra.test_utils.launcher_common_tests import (
    BatchedSweeperTestSuite,
    IntegrationTestSuite,
    LauncherTestSuite,
)
from hydra.test_utils.test_utils import SweepTaskFunction
from hydra.version import VersionBase, __compat_version__

OURS = ["hydra/sweeper=carbs_scaling", "hydra.sweeper.sampler=random"]
pytestmark = pytest.mark.filterwarnings(
    "ignore::optuna.exceptions.ExperimentalWarning",
    "ignore:.*Future Hydra versions will no longer change working directory:UserWarning",  # of their apps
)


@pytest.fixture(autouse=True)
def quiet():
    """Optuna as it was."""
    before = optuna.logging.get_verbosity()
    yield
    optuna.logging.set_verbosity(before)


@pytest.fixture(autouse=True)
def apps_of_no_version(monkeypatch):
    """Their apps name no version of Hydra; a command that ran in this process would have left ours."""
    monkeypatch.setattr(VersionBase.instance(), "version_base", __compat_version__)


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """A folder for the logs of the jobs, which other processes of the tests would write as well."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def in_the_order_of_a_grid(monkeypatch):
    """Jobs sorted, in batches as large as they were."""
    entered = SweepTaskFunction.__enter__

    def enter(self):
        sweep = entered(self)
        jobs = sorted((job for batch in sweep.returns for job in batch), key=lambda job: list(job.overrides))
        size = len(sweep.returns[0])
        sweep.returns = [jobs[start : start + size] for start in range(0, len(jobs), size)]
        return sweep

    monkeypatch.setattr(SweepTaskFunction, "__enter__", enter)


@pytest.mark.parametrize("launcher_name", ["basic"])
@pytest.mark.parametrize("overrides", [[*OURS, "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2"]])
class TestLauncher(LauncherTestSuite):
    pass


@pytest.mark.parametrize("launcher_name", ["basic"])
@pytest.mark.parametrize("overrides", [[*OURS, "hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=2"]])
class TestBatches(BatchedSweeperTestSuite):
    pass


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task_launcher_cfg", "extra_flags"), [({}, ["-m", "hydra/launcher=basic", OURS[0]])]
)
class TestIntegration(IntegrationTestSuite):
    pass
