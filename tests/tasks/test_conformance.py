"""What every task must do, for those of the package and a toy of the tests."""

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import create_trial

from carbs_scaling.commands.search import build_task, load_search
from carbs_scaling.space.encoding import Encoding
from carbs_scaling.task import Job, TrialContext
from carbs_scaling.tasks import TASKS
from carbs_scaling.trial import Completed, TrialOutcome, flops_so_far
from tests.own_program import written
from tests.small_models import sums, trained_folder
from tests.toy_task import ToyTask

ROOT = Path(__file__).resolve().parents[2]
ROLES = {"params", "tokens", "learning_rate", "batch_tokens"}
# Overrides that make the cheapest run of a task of the package take about a second.
SMALL = {
    "pretraining": (
        *("space.width={low: 16, high: 48}", "space.depth={low: 1, high: 2}"),
        *("space.tokens_per_parameter={low: 0.5, high: 4}", "model.sequence_length=32"),
        *("objective.validation_tokens=512", "budget.flops=1e10"),
    ),
    "classification": ("budget.flops=4e8", "space.epochs={low: 0.2, high: 2}", "data.max_examples=200"),
    "finetuning": (
        *("model.path=MODEL", "data.paths=[ROWS]", "model.sequence_length=32", "budget.flops=2e9"),
        *("space.epochs={low: 2, high: 4, log: true}", "space.learning_rate={low: 1e-3, high: 1e-2}"),
    ),
    "command": (
        f"task.command='{sys.executable}' tests/own_program.py {{learning_rate}} {{tokens}}",
        *("task.metric.pattern=step (?P<step>\\d+) loss (?P<loss>\\S+)", "task.roles.params=1000"),
        *(
            "space.learning_rate={low: 1e-3, high: 1, log: true}",
            "space.tokens={low: 1e3, high: 1e5, log: true}",
        ),
        "space.optimizer=[adam, sgd]",
        "space.momentum={low: 0.5, high: 0.99, when: {optimizer: sgd}}",
    ),
    "function": (
        "task.function=tests.own_program:train",
        "space.learning_rate={low: 1e-3, high: 1, log: true}",
        "space.width={low: 16, high: 128, log: true, multiple_of: 16}",
        *("task.shape.architecture=gpt2", "task.shape.depth=2", "task.shape.head_size=16"),
        *("task.shape.vocabulary_size=256", "task.shape.sequence_length=32", "task.roles.tokens=20 * params"),
    ),
}


@pytest.fixture(params=("toy", *TASKS.names))
def task(request, pretraining, composed, monkeypatch, tmp_path):
    """Each task once, small."""
    if request.param == "toy":
        return ToyTask()
    assert request.param in SMALL, "give the new task a small configuration here"
    if request.param == "pretraining":
        return pretraining(*SMALL[request.param])
    monkeypatch.chdir(ROOT)
    if request.param == "finetuning":
        places = {"MODEL": trained_folder(tmp_path, (16, 1, 16, 256, 32)), "ROWS": sums(tmp_path)}
        small = [
            t.replace("MODEL", places["MODEL"]).replace("ROWS", places["ROWS"]) for t in SMALL["finetuning"]
        ]
        return build_task(*load_search(composed(f"task={request.param}", *small)))
    return build_task(*load_search(composed(f"task={request.param}", *written(*SMALL[request.param]))))


@pytest.fixture
def points(task):
    """Legal points all over the space."""
    encoding = Encoding(task.space)
    rng = np.random.default_rng(0)
    return [task.project(encoding.point(knobs)) for knobs in rng.random((40, encoding.knobs))]


def test_projection_is_idempotent_and_inside_the_space(task, points):
    for point in points:
        again = task.project(point)
        assert again.keys() == point.keys()
        for name, value in point.items():
            same = pytest.approx(value, rel=1e-12) if isinstance(value, float) else value
            assert again[name] == same
        # Raises where a value is outside of its distribution.
        create_trial(params=point, distributions=task.space, values=[1.0, 1.0])


def test_flops_are_positive_and_roles_are_known_ones(task, points):
    for point in points:
        assert task.flops(point) > 0
        assert set(task.roles(point)) <= ROLES
        assert isinstance(task.allowed(point), bool)


def test_what_the_ledger_keeps_is_plain_json(task, points):
    for values in (task.identity(), dict(task.provenance()), task.details(points[0])):
        assert json.loads(json.dumps(values)) == values
    assert all(isinstance(text, str) and text for text in (task.name, task.metric))


def test_the_same_seed_gives_the_same_loss_in_a_pickled_copy(task, points, tmp_path):
    point = min(points, key=task.flops)
    context = TrialContext(number=3, seed=7, device="cpu", curve_path=str(tmp_path / "curve.jsonl"))
    job = Job(task, point, context)
    first, second = job(), pickle.loads(pickle.dumps(job))()
    assert isinstance(first, Completed)
    assert isinstance(second, Completed)
    assert first.loss == second.loss
    assert flops_so_far(task.flops(point), first) == task.flops(point)
    assert TrialOutcome.from_dict(json.loads(json.dumps(first.to_dict()))) == first
