"""Somebody's own program that goes on from what a shorter run left in its folder."""

import sys

import pytest

from carbs_scaling.commands.search import build_task, load_search
from carbs_scaling.errors import ConfigError
from carbs_scaling.space.projection import NOT_RUN_YET
from carbs_scaling.task import TrialContext
from carbs_scaling.trial import Completed, ParentLost
from tests.own_program import written

# Tokens that it and the runs before it have seen are its state.
SCRIPT = """
import pathlib, sys
folder, tokens = pathlib.Path(sys.argv[1]), float(sys.argv[2])
before = float((pathlib.Path(sys.argv[4]) / "state").read_text()) if "--from" in sys.argv else 0.0
(folder / "state").write_text(str(tokens))
print(f"step 1 loss {2 + before / tokens}")
"""
SETTINGS = (
    *("task=command", "trials=continued", "task.roles.params=1000", "task.continued.share=0.5"),
    r"task.metric.pattern=step (?P<step>\d+) loss (?P<loss>\S+)",
    "space.learning_rate={low: 1e-3, high: 1, log: true}",
    "space.tokens={low: 1e3, high: 1e5, log: true}",
)


@pytest.fixture
def build(composed, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    command = f"task.command='{sys.executable}' {script} {{folder}} {{tokens}} --from {{parent_folder}}"

    def task(*overrides):
        return build_task(*load_search(composed(*written(*SETTINGS, command, *overrides))))

    return task


def test_a_run_goes_on_from_the_longest_shorter_run_of_its_other_values(build, tmp_path):
    task = build("task.continued.dimension=tokens")
    points = {i: {"learning_rate": 0.1, "tokens": 1000.0 * (i + 1)} for i in range(3)}
    points[3] = {"learning_rate": 0.2, "tokens": 3500.0}
    for number in (0, 1, 3):
        assert task.run(points[number], TrialContext(number, 1, "cpu", None, str(tmp_path))).loss == 2.0
    longer = {"learning_rate": 0.1, "tokens": 4000.0}
    assert task.parent(longer, points) is None  # nobody has looked yet
    not_run_yet = {NOT_RUN_YET: points[1]}
    assert task.price(longer, not_run_yet) == task.flops(longer) - 0.5 * task.flops(points[1])
    task.keep_trunks([0, 1, 2, 3], [], str(tmp_path))
    assert task.parent(longer, points) == 1
    assert task.price(longer, points) == task.flops(longer) - 0.5 * task.flops(points[1])
    assert task.parent(points[0], points) is None
    outcome = task.run(longer, TrialContext(4, 1, "cpu", None, str(tmp_path), 1))
    assert isinstance(outcome, Completed)
    assert outcome.loss == 2.5
    assert isinstance(task.run(longer, TrialContext(5, 1, "cpu", None, str(tmp_path), 2)), ParentLost)


def test_without_a_dimension_to_differ_in_it_is_refused(build):
    with pytest.raises(ConfigError, match="dimension=None"):
        build()
    with pytest.raises(ConfigError, match=r"task\.keep"):
        build("task.continued.dimension=tokens", "task.keep=none")
