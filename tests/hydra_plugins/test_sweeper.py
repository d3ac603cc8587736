"""The search as a Hydra sweeper: found, light, resumable, and priced by the app's own configuration."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from carbs_scaling.config import StudyConfig
from carbs_scaling.ledger.study import Study, spent_flops
from hydra_plugins.carbs_scaling_sweeper._search import distribution_of

APP = Path(__file__).parent / "app" / "app.py"
ROOT = Path(__file__).resolve().parents[2]
SPACE = [
    "width=int(tag(log, interval(8, 64)))",
    "opt.learning_rate=tag(log, interval(0.001, 0.5))",
    "opt=adam,sgd",
]
FLOPS = [
    *("tokens=tag(log, interval(1e4, 1e5))", "hydra.sweeper.budget_flops=5e9"),
    'hydra.sweeper.flops="6 * 12 * ${width} ** 2 * ${tokens}"',
    'hydra.sweeper.roles={params: "12 * ${width} ** 2", tokens: "${tokens}"}',
    'hydra.sweeper.roles.learning_rate="${opt.learning_rate}"',
]


def app(folder: Path, *overrides: str, **environment: str) -> subprocess.CompletedProcess[str]:
    sweeper = ["hydra/sweeper=carbs_scaling", "hydra.sweeper.sampler=random", "hydra.sweep.dir=sweep"]
    return subprocess.run(
        [sys.executable, str(APP), "-m", *sweeper, *SPACE, *overrides],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )


def records(folder: Path, name: str):
    return Study.load(StudyConfig(name, str(folder / "studies"), None, 0)).records()


def test_hydra_finds_it_and_it_is_light():
    assert "CarbsScalingSweeper" in [found.__name__ for found in Plugins.instance().discover(Sweeper)]
    module = "hydra_plugins.carbs_scaling_sweeper.carbs_scaling_sweeper"
    code = f"import sys, {module}; print('torch' in sys.modules, 'optuna' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    ("text", "distribution"),
    [
        ("x=interval(0,1)", FloatDistribution(0.0, 1.0)),
        ("x=interval(0.,1)", FloatDistribution(0.0, 1.0)),
        ("x=tag(log, interval(1e-4, 1))", FloatDistribution(1e-4, 1.0, log=True)),
        ("x=int(interval(1, 9))", IntDistribution(1, 9)),
        ("x=range(1, 8, 2)", IntDistribution(1, 7, step=2)),
        ("x=range(0.0, 1.0, step=0.25)", FloatDistribution(0.0, 0.75, step=0.25)),
        ("x=choice(1, 2.5, true, a)", CategoricalDistribution([1, 2.5, True, "a"])),
        ("x='a b',c", CategoricalDistribution(["a b", "c"])),
    ],
)
def test_sweeps_are_dimensions(text, distribution):
    (override,) = OverridesParser.create().parse_overrides([text])
    assert distribution_of(override)[0] == distribution


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_was(tmp_path):
    named = ["hydra.sweeper.study_name=killed", "hydra.sweeper.n_trials=6"]
    assert app(tmp_path, *named, KILL_AT_JOB="3").returncode == 9
    assert [record.running for record in records(tmp_path, "killed")] == [False] * 3 + [True]
    again = app(tmp_path, *named)
    assert again.returncode == 0, again.stderr
    done = records(tmp_path, "killed")
    assert [record.completed for record in done] == [True] * 6
    assert {record.point["opt"] for record in done} == {"adam", "sgd"}
    written = OmegaConf.load(tmp_path / "sweep" / "optimization_results.yaml")
    assert written.name == "carbs_scaling"
    assert written.best_value == min(record.loss for record in done)
    assert set(written.best_params) == {"width", "opt.learning_rate", "opt"}


@pytest.mark.slow
def test_flops_and_roles_are_of_the_job_and_a_broken_job_is_counted(tmp_path):
    result = app(
        tmp_path, *FLOPS, "hydra.sweeper.study_name=costs", "hydra.sweeper.max_failure_rate=1", "fails_at=8"
    )
    assert result.returncode == 0, result.stderr
    done = records(tmp_path, "costs")
    assert 0 < spent_flops(done) <= 5e9
    for record in done:
        assert record.roles["params"] == 12 * record.point["width"] ** 2
        assert record.flops == pytest.approx(6 * record.roles["params"] * record.point["tokens"])
        assert record.roles["learning_rate"] == record.point["opt.learning_rate"]
        assert record.completed == (record.point["width"] != 8)


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("hydra_plugins.hydra_joblib_launcher") is None, reason="needs hydra-joblib-launcher"
)
def test_jobs_of_a_batch_run_at_once_with_joblib_and_go_on_after_a_kill(tmp_path):
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.n_jobs=2"]
    named = ["hydra.sweeper.study_name=joblib", "hydra.sweeper.n_trials=4"]
    assert app(tmp_path, *launcher, *named, KILL_AT_JOB="3").returncode != 0
    assert [record.running for record in records(tmp_path, "joblib")] == [False, False, True, True]
    result = app(tmp_path, *launcher, *named)
    assert result.returncode == 0, result.stderr
    assert [record.completed for record in records(tmp_path, "joblib")] == [True] * 4
