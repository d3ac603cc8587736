"""`compare` as a person uses it, and its figures against areas worked out by hand."""

import io
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from optuna.samplers import RandomSampler
from rich.console import Console

from carbs_scaling.commands import compare as verb
from carbs_scaling.config import StudyConfig
from carbs_scaling.errors import CarbsScalingError
from carbs_scaling.ledger.study import Study
from carbs_scaling.report.compare import Spending, compare, reference_corner
from carbs_scaling.report.compare_figure import draw_comparison_png
from carbs_scaling.report.compare_table import comparison_report, comparison_rows
from carbs_scaling.trial import Completed
from tests.toy_task import ToyTask


def test_repeats_count_by_their_mean_so_far():
    flops, loss = np.array([10.0, 100.0, 100.0]), np.array([4.0, 2.0, 3.0])
    study = Spending("again", "-", 210.0, flops, loss, recipe=np.array([0, 1, 1]))
    assert study.mean_loss(2).tolist() == [4.0, 2.0]
    assert study.mean_loss().tolist() == [4.0, 2.5, 2.5]
    (row,) = compare([study])
    assert row.lowest_loss == 2.5
    assert row.front_points == 2


def test_regrets_are_missing_areas_and_match_is_when_the_first_ones_area_was_reached():
    # Corner: (log10 FLOPs, loss) = (2.1, 4).
    first = Spending("first", "carbs", 200.0, np.array([10.0, 90.0, 100.0]), np.array([4.0, np.nan, 3.0]))
    other = Spending("other", "grid", 200.0, np.array([10.0, 100.0, 90.0]), np.array([3.5, 2.0, np.nan]))
    assert reference_corner([first, other]) == pytest.approx((2.1, 4.0))
    joint = 0.5 * 1.0 + 2.0 * 0.1  # 3.5 from 10 to 100 FLOPs, 2 from there on
    one, two = compare([first, other])
    assert one.regrets == pytest.approx((1, 1, 1, 1 - 0.1 / joint))  # one run costs 100 and is 1 below 4
    at_start = 1 - 0.5 * 1.1 / joint
    assert two.regrets == pytest.approx((at_start, at_start, at_start, 0))
    assert (one.flops_to_match, two.flops_to_match) == (200.0, 10.0)
    assert compare([other, first])[1].flops_to_match is None
    assert (two.trials, two.front_points, two.lowest_loss, two.spent_flops) == (3, 2, 2.0, 200.0)


def test_joules_are_saved_up_to_the_front_that_both_reached():
    flops = np.array([10.0, 100.0, 100.0])
    search = Spending("mine", "carbs", 210.0, flops, np.array([4.0, 3.0, 2.0]), joules=np.array([1.0, 7, 8]))
    grid = Spending("grid", "grid", 210.0, flops, np.array([4.0, 3.9, 3.0]), joules=np.array([1.0, 9, 11]))
    mine, other = compare([search, grid])
    assert (mine.joules, mine.joules_saved) == (16, 0)
    assert (other.joules, other.joules_saved) == (21, 21 - 8)  # all that the grid reached took 1 + 7 of ours
    assert compare([grid, search])[1].joules_saved == 8 - 21
    grid = replace(grid, joules=np.array([1.0, 9, np.nan]))
    assert [(row.joules, row.joules_saved) for row in compare([search, grid])] == [(16, 0), (None, None)]


def test_a_study_has_no_regret_at_marks_that_it_did_not_spend():
    whole = Spending(
        "whole", "-", 100.0, np.array([10.0, 89.0]), np.array([4.0, 3.0])
    )  # 1 left: it has ended
    half = Spending("half", "-", 50.0, np.array([10.0, 40.0]), np.array([4.0, 3.5]))
    rows = compare([whole, half])
    assert None not in rows[0].regrets
    assert [regret is None for regret in rows[1].regrets] == [False, False, False, True]


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["studies/mine", "studies/grid"], ["mine", "grid"]),
        (["/a/x/default", "/a/y/default", "/b/z"], ["x/default", "y/default", "b/z"]),
        (["/a/x", "/a/x"], []),
    ],
)
def test_studies_are_told_apart_by_as_little_of_their_paths_as_does_it(folders, names):
    assert verb.shortest_names([Path(folder) for folder in folders]) == names


def test_before_a_run_completed_there_is_no_regret():
    late = Spending("late", "-", 100.0, np.array([50.0, 50.0]), np.array([np.nan, 3.0]))
    early = Spending("early", "-", 100.0, np.array([5.0, 50.0]), np.array([4.0, 2.0]))
    assert compare([late, early])[0].regrets[:3] == (None, None, None)


def spendings():
    """Two samplers of two seeds; what each run reached is worked out by hand."""
    flops = np.array([10.0, 90.0, 100.0])
    made = (("ours", 0, (4.0, 3.0, 2.0)), ("ours", 1, (4.0, 2.0, 3.0)),
            ("grid", 0, (4.0, 3.9, 3.0)), ("grid", 1, (4.0, np.nan, 3.8)))  # fmt: skip
    return [
        Spending(f"{name}-{seed}", name, 200.0, flops, np.array(loss), wall_seconds=3600.0 * (1 + seed))
        for name, seed, loss in made
    ]


def test_seeds_of_a_sampler_are_a_mean_and_a_deviation_and_what_some_never_reach_is_told():
    compared = compare(spendings(), by_sampler=True)
    ours, grid = comparison_rows(compared, by_sampler=True)
    assert (ours["sampler"], ours["studies"], grid["studies"]) == ("ours", 2, 2)
    assert (ours["hours"], ours["hours_sd"]) == pytest.approx((1.5, 0.5**0.5))
    assert (grid["lowest_loss"], grid["lowest_loss_sd"]) == pytest.approx((3.4, 0.4 * 2**0.5))
    # The mean of ours is between its two: the second seed reached it with its second run, the first never.
    assert (ours["flops_to_match_first"], ours["flops_to_match_first_reached"]) == (100.0, 1)
    assert grid["flops_to_match_first"] is None
    assert (ours["trials_to_95"], ours["trials_to_95_reached"]) == (2.0, 1)
    out = Console(file=io.StringIO(), width=100)
    out.print(comparison_report(compared, "nats", by_sampler=True))
    said = out.file.getvalue()
    assert "never" in said
    assert "(1/2)" in said
    assert "±" in said


def test_a_picture_has_a_line_a_sampler_and_a_name_of_its_own(tmp_path):
    path = draw_comparison_png(spendings(), tmp_path / "x.png", "nats", by_sampler=True)
    assert path.read_bytes().startswith(b"\x89PNG")
    many = [f"study-{number}" for number in range(40)]
    names = {verb.picture_path(tmp_path, chosen).name for chosen in (["a", "b"], ["b", "a"], many, many[:39])}
    assert len(names) == 4
    assert max(map(len, names)) < 100


@dataclass
class Sized(ToyTask):
    """The toy with what tells two studies of it apart."""

    text: str = "a"
    comparable_by: tuple[str, ...] = ("data.sha256",)

    def identity(self):
        return {"data": {"sha256": self.text}}


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """A folder with studies of one text (`one`, `two`), of another (`text`), in bits (`bits`), and empty."""
    folder = tmp_path_factory.mktemp("compare")
    for seed, name in enumerate(("one", "two", "text", "bits", "empty")):
        place = StudyConfig(name, str(folder), None, 0)
        place.folder.mkdir()
        task = Sized(metric="bits" if name == "bits" else "nats", text="b" if name == "text" else "a")
        ledger = Study.begin(place, task, 1e15, RandomSampler(seed=seed))
        for _ in range(0 if name == "empty" else 6):
            record = ledger.ask(task, {"sampler": "random"} if name != "one" else {})
            ledger.tell(record.number, Completed(loss=2 + 30 * record.point["samples"] ** -0.3))
    return folder


def test_it_writes_a_table_a_picture_and_values(composed, studies, capsys):
    named = (f"study.directory={studies}", "studies=[one,two]")
    verb.run(composed(*named, verb="compare"))
    said = capsys.readouterr().out
    assert "hypervolume regret" in said
    assert (studies / "compare-one-two.png").read_bytes().startswith(b"\x89PNG")
    verb.run(composed(f"study.directory={studies}", "studies=[two,one]", "format=json", verb="compare"))
    assert (studies / "compare-two-one.png").exists()
    capsys.readouterr()
    verb.run(composed(*named, "format=json", "plots=false", verb="compare"))
    one, two = json.loads(capsys.readouterr().out)
    assert (one["study"], one["sampler"], two["sampler"]) == ("one", "-", "random")
    assert one["trials"] == 6
    paths = f"studies=[{studies}/one,{studies}/two]"
    verb.run(composed(paths, "format=csv", f"output={studies}/x.csv", verb="compare"))
    assert (studies / "x.csv").read_text().startswith("study,sampler,trials,spent_flops,")
    assert (studies / "x.png").exists()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["studies=[one]"], "two studies or more"),
        (["studies=one"], "two studies or more"),
        (["studies=[one,one]"], "names one twice"),
        (["studies=[one,none]"], "no study 'none'"),
        (["studies=[nothing*]"], r"no study fits nothing\*"),
        (["studies=[one,two]", "by=seed"], "study, sampler"),
        (["studies=[one,text]"], r"one and text differ in data.sha256 \(a, b\)"),
        (["studies=[one,bits]"], r"metric \(nats, bits\)"),
        (["studies=[one,empty]"], "study 'empty' holds no trial yet"),
        (["studies=[one,two]", "format=xml"], "table, csv, json"),
        (["studies=[one,two]", "output=x.csv"], "needs format"),
    ],
)
def test_each_mistake_is_one_line(composed, studies, overrides, said):
    config = composed(f"study.directory={studies}", *overrides, verb="compare")
    with pytest.raises(CarbsScalingError, match=said) as error:
        verb.run(config)
    assert "\n" not in str(error.value)
