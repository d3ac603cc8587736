"""What the replay of stopping reads off a loss curve."""

import json
import math
import sys
from pathlib import Path

import pytest

from carbs_scaling.stop_rule import StopRule

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from stopping_replay import stopped_at

RULE = StopRule((0.25, 0.5, 0.75), (math.inf, 3.0, 2.5), 2.0)


@pytest.mark.parametrize(
    ("losses", "share"),
    [
        ((9, 9, 2, 2, 2, 2, 2, 2), 1.0),  # the first part never stops
        ((4, 4, 3.5, 3.5, 1, 1, 1, 1), 0.5),
        ((4, 4, 2.9, 2.9, 2.4, 2.7, 2, 2), 0.75),  # the mean of the part counts
        ((4, 4, 2.9, 2.9, 2.2, 2.7, 9, 9), 1.0),  # the last part has no rule
    ],
)
def test_a_run_ends_where_the_mean_of_a_part_is_above_the_rule(losses, share, tmp_path):
    curve = tmp_path / "curve.jsonl"
    points = [
        {"progress": (i + 1) / 8, "step": 10 * (i + 1), "train_loss": loss} for i, loss in enumerate(losses)
    ]
    curve.write_text("\n".join(map(json.dumps, points)))
    assert stopped_at(RULE, curve) == share
    assert stopped_at(None, curve) == 1.0
