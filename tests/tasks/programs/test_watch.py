"""The loss curve of a program's run, and how far it says that it is."""

import json

import pytest

from carbs_scaling.tasks.programs.readings import OutputSource
from carbs_scaling.tasks.programs.watch import Curve

LINES = "{'loss': '3.9', 'num_tokens': '250'}", "{'loss': '3.1', 'num_tokens': '1e+03'}"


@pytest.mark.parametrize(
    ("tokens", "steps", "points"),
    [
        (1000.0, 40.0, [(0.25, 10), (1.0, 40)]),
        (None, 40.0, [(None, None)] * 2),
        (1000.0, None, [(None, None)] * 2),
    ],
)
def test_tokens_say_how_far_a_run_is_where_steps_are_not_printed(tmp_path, tokens, steps, points):
    source = OutputSource(
        "task.curve.pattern", r"'loss': '(?P<loss>[^']+)', 'num_tokens': '(?P<tokens>[^']+)'"
    )
    assert source.has_steps
    curve = Curve(str(tmp_path / "curve"), steps, tokens)
    for line in LINES:
        for reading in source.line(line):
            curve.add(reading, held_out=False)
    curve.close()
    written = [json.loads(line) for line in (tmp_path / "curve").read_text().splitlines()]
    assert [point["train_loss"] for point in written] == [3.9, 3.1]
    assert [(point.get("progress"), point.get("step")) for point in written] == points
    assert curve.progress == points[-1][0]


def test_a_pattern_of_the_loss_alone_tells_no_progress():
    assert not OutputSource("task.metric.pattern", r"loss (\S+)").has_steps
