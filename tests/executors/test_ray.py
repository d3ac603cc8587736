"""Ray's own: a node that is lost takes its trial along, not the search."""

import time
from pathlib import Path

import pytest

from carbs_scaling.errors import ConfigError
from carbs_scaling.executors.ray import RayExecutor
from carbs_scaling.trial import Completed
from tests.executors.engines import end_node, engine_config
from tests.executors.jobs import FirstAttempt, attempts

pytestmark = pytest.mark.slow


def node_of(process, nodes):
    """The node that a process was started by."""
    while process > 1:
        for node in nodes:
            if node.pid == process:
                return node
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return None


def test_trials_of_a_lost_node_are_begun_again_on_another(request, tmp_path):
    config = engine_config("ray", request.getfixturevalue, workers=2)
    nodes = request.getfixturevalue("ray_nodes").nodes
    executor = RayExecutor(config, tmp_path / "executor")
    try:
        logs = [tmp_path / "first", tmp_path / "second"]
        for number, log in enumerate(logs):
            executor.submit(number, FirstAttempt("wait", log))
        deadline = time.monotonic() + 120
        while not all(attempts(log) for log in logs) and time.monotonic() < deadline:
            assert executor.wait(0.2) == []
        # One trial on each node, of one processor each; the node that joined is lost.
        (lost,) = [n for n, log in enumerate(logs) if node_of(attempts(log)[0], nodes) is nodes[1]]
        end_node(nodes[1])
        outcomes = {}
        while lost not in outcomes and time.monotonic() < deadline:
            # The other trial ends, and leaves its place to the one that was lost.
            outcomes |= dict(executor.wait(0.2))
            if executor._running.get(lost) and executor._running[lost].failed and executor.free == 0:
                (executor._running[1 - lost].folder / "stop").touch()
        assert outcomes.get(lost) == Completed(loss=7.0)
    finally:
        executor.close()


def test_what_no_node_can_run_is_refused(request, tmp_path):
    config = engine_config("ray", request.getfixturevalue, cpus_per_trial=64)
    with pytest.raises(ConfigError, match="a trial needs"):
        RayExecutor(config, tmp_path)
