"""Points of a person's own: run first, recorded as such, once; and counted by the sampler."""

import pytest

from carbs_scaling.errors import ConfigError
from carbs_scaling.report.live import SearchDisplay
from carbs_scaling.search import build_sampler
from carbs_scaling.space.first_points import FIRST, first_points, not_yet_run
from tests.toy_task import ToyTask, search, toy_config

OWN = [{"step_length": 0.25}, {"step_length": 0.5, "samples": 600}]


def test_a_persons_points_are_run_first_and_only_once(tmp_path):
    config = toy_config(tmp_path, "toy", "in_process", sampler="random", flops=4e5, first=OWN)
    records = search(config).records()
    assert [FIRST in record.provenance for record in records[:3]] == [True, True, False]
    assert [record.point["step_length"] for record in records[:2]] == [0.25, 0.5]
    assert records[1].point["samples"] == 600
    low, high = (getattr(ToyTask().space["samples"], end) for end in ("low", "high"))
    assert low < records[0].point["samples"] < high
    assert all(record.completed for record in records[:2])
    # The same command again goes on, with proposals; the points are not run again.
    more = search(toy_config(tmp_path, "toy", "in_process", sampler="random", flops=6e5, first=OWN)).records()
    assert len(more) > len(records)
    assert sum(FIRST in record.provenance for record in more) == 2


def test_the_sampler_counts_them_as_runs_of_its_design(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(SearchDisplay, "trial_started", lambda self, record, doing: said.append(doing))
    own = [{"step_length": 0.25, "samples": 600}, {"step_length": 0.5, "samples": 600}]
    search(toy_config(tmp_path, "toy", "in_process", trials=4, startup_trials=4, first=own))
    assert said == ["your point 1 of 2", "your point 2 of 2", "design run 3 of 4", "design run 4 of 4"]


def test_a_point_is_done_as_often_as_it_was_asked_for():
    points = [("a", {"x": 1}), ("a", {"x": 1}), ("b", {"x": 2})]
    assert not_yet_run(points, [{FIRST: "a"}, {}]) == points[1:]


@pytest.mark.parametrize(
    ("point", "said"),
    [
        ({"rate": 1}, r"first\[0\]: rate is no dimension; there are "),
        ({"step_length": 1e9}, r"first\[0\]: step_length=1000000000.0 is not in space.step_length \("),
        ({"step_length": "much"}, r"step_length=much is not in"),
        ({"samples": 10**9}, "is not in space.samples"),
    ],
)
def test_what_cannot_be_run_is_one_line(tmp_path, point, said):
    config = toy_config(tmp_path, "toy", "in_process", sampler="random", first=[point])
    with pytest.raises(ConfigError, match=said):
        search(config)
    assert not list(tmp_path.iterdir())


def test_points_that_the_budget_does_not_pay_for_are_refused(tmp_path):
    space = build_sampler(toy_config(tmp_path, "toy", "in_process", sampler="random"), ToyTask()).space
    with pytest.raises(ConfigError, match=r"budget.flops=1.0e0 has less"):
        first_points(space, OWN, 1.0)
