"""Reach: each rule on laws drawn from a known one, and edges of a space by hand."""

from dataclasses import replace

import numpy as np
import pytest

from carbs_scaling import fit_law
from carbs_scaling.laws.recommend.advice import advise
from carbs_scaling.laws.recommend.reach import Range, edge_lines, prior_loss_width
from carbs_scaling.laws.support import convex_hull, hull_factor, way_beyond
from carbs_scaling.report.laws import advice_dict, training_arguments
from carbs_scaling.verb_config import TargetConfig

LARGEST = (6e8, 1.6e10)  # of the drawn runs
TARGET = TargetConfig(None, None, None, sequence_length=1024, head_size=64, devices=1, sequences_per_device=4)


def reach(law, params, tokens):
    return advise(law, params=params, tokens=tokens).reach


def test_ten_times_the_largest_run_is_not_refused(law):
    for n, d in ((1, 1), (10, 1), (10, 10)):
        assert reach(law, n * LARGEST[0], d * LARGEST[1]).line == ""


def test_a_target_far_beyond_says_how_far_and_what_search_would_reach_it(law):
    found = reach(law, 1e4 * LARGEST[0], 1e4 * LARGEST[1])
    assert "6 N D is 1e+08 times" in found.line
    assert "N lies 1e+04 and D 1e+04 times beyond the runs" in found.line
    assert found.search_flops == pytest.approx(law.support.total_flops * 1e8 / 100)
    assert "\n" not in found.line
    # Such a search has its dearest run a hundredth of the target: within ten times of N and D.
    share = law.support.largest_run_flops / law.support.total_flops
    assert found.search_flops * share == pytest.approx(6 * 1e8 * np.prod(LARGEST) / 100)


def test_a_hull_is_left_also_inside_of_the_box(runs):
    """Runs along D = 20 N: a large model of few tokens lies inside both ranges and far from every run."""
    sizes = np.geomspace(1e6, 1e9, 4)
    hull = convex_hull(np.log(np.column_stack([sizes, 20 * sizes])))
    assert hull_factor(hull, 1e8, 2e9) == pytest.approx(1.0, abs=1e-6)
    # From (ln 1e9, ln 2e7) the line is ln(1e3) away in D, and half of that in both.
    assert hull_factor(hull, 1e9, 2e7) == pytest.approx(np.sqrt(1e3), rel=1e-3)


def test_a_hull_holds_its_points_and_its_corners_are_among_them():
    points = np.random.default_rng(0).normal(size=(40, 2))
    hull = convex_hull(points)
    assert {tuple(p) for p in hull} < {tuple(p) for p in points}
    assert all(hull_factor(hull, *np.exp(p)) == pytest.approx(1.0, abs=1e-6) for p in points)
    assert hull_factor(hull, np.exp(points[:, 0].max() + 1), np.exp(points[:, 1].mean())) >= np.e - 1e-6
    assert convex_hull(np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])) == ((0.0, 0.0), (2.0, 2.0))


def test_the_way_to_a_hull_is_the_shortest():
    square = convex_hull(np.array([[0.0, 0.0], [0.0, 2.0], [2.0, 0.0], [2.0, 2.0], [1.0, 1.0]]))
    for point, way in (((1, 1), 0), ((3, 1), 1), ((3, 3), np.sqrt(2)), ((-1, 5), np.hypot(1, 3))):
        assert way_beyond(square, np.array(point, dtype=float)) == pytest.approx(way, abs=1e-9)
    line = convex_hull(np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]))
    assert way_beyond(line, np.array([2.0, 0.0])) == pytest.approx(np.sqrt(2))


def test_an_empty_corner_of_the_ranges_is_doubted_and_told(runs, truth):
    """Runs near D = 20 N: a large model of few tokens lies in both ranges, and no run is near it."""
    near = runs[np.abs(np.log(runs.tokens / (20 * runs.params))) < 1.5]
    law = fit_law(near, check=False)
    inside, corner = law.recommend(2e8, 4e9), law.recommend(6e8, 1e9)
    assert corner.extrapolation == (1.0, 1.0)
    assert corner.from_hull > 1.5
    told = [note for note in corner.notes if "no run is near both" in note]
    assert len(told) == 1
    assert not any("no run is near both" in note for note in inside.notes)
    wide, narrow = (np.ptp(recipe.interval("loss")) for recipe in (corner, inside))
    assert wide > narrow


def test_an_interval_wider_than_the_prior_alone_is_out_of_reach(law):
    n, d = 8 * LARGEST[0], 8 * LARGEST[1]
    alone = prior_loss_width(law, n, d)
    low, high = law.recommend(n, d).interval("loss")
    assert high - low < alone < 10
    # As many nats for each neper of N: nothing is left of what the runs said. A high floor keeps it above 0.
    unsure = replace(law, drift=alone / 2, theta=(np.log(50.0), *law.theta[1:]))
    assert "of the prior alone" in reach(unsure, n, d).line


def test_a_loss_interval_that_reaches_zero_is_out_of_reach(law):
    assert "reaches 0" in reach(replace(law, drift=2.0), 8 * LARGEST[0], LARGEST[1]).line


def test_a_shape_never_tried_is_out_of_reach(runs):
    depth = np.full(len(runs), 4)
    shaped = fit_law(runs.assign(depth=depth, width=np.sqrt(runs.params / 12 / depth)), check=False)
    low, high = shaped.support.aspects
    assert low == pytest.approx(np.sqrt(2e7 / 48) / 4)
    assert advise(shaped, 2e8, 4e9).reach.line == ""
    assert advise(shaped, 6e9, 1.6e10).reach.line == ""  # ten times the N at the one depth that was tried
    tall = replace(shaped, support=replace(shaped.support, shape=(np.log(high * 8), 0.0, 0.1)))
    assert "was never tried" in advise(tall, 2e8, 4e9).reach.line


def test_every_answer_carries_the_statement_and_only_where_it_is_due(law):
    near, far = advise(law, 6e9, 1.6e11), advise(law, 6e12, 1.6e14)
    for answer in (lambda a: advice_dict(law, a, TARGET), lambda a: training_arguments(a, TARGET)):
        assert "out_of_reach" not in answer(near)
        assert next(iter(answer(far))) == "out_of_reach"
        assert answer(far)["out_of_reach"] == far.reach.line


def test_a_rate_outside_all_that_were_tried_is_reported(law):
    """The best rate falls with N: far enough up no run had one so low."""
    assert not any("best learning rate" in note for note in law.recommend(2e8, 4e9).notes)
    notes = [note for note in law.recommend(6e11, 4e9).notes if "best learning rate" in note]
    assert len(notes) == 1
    assert "space.learning_rate.low" in notes[0]


def test_edges_of_a_space():
    ranges = {
        "width": Range(16, 128, log=True, whole=True),
        "depth": Range(1, 6, log=True, whole=True),
        "learning_rate": Range(1e-3, 1e-1, log=True, whole=False),
        "decay": Range(0.0, 1.0, log=False, whole=False),
        "fixed": Range(3, 3, log=False, whole=True),
        "heads": Range(64, 512, log=True, whole=True, multiple=64),
        "wide": Range(96, 512, log=True, whole=True, multiple=32),
        "batch": Range(4, 32, log=True, whole=True, listed=True),
    }
    front = [
        {"width": w, "depth": 1, "learning_rate": r, "decay": 0.99, "heads": 64, "wide": 96, "batch": 32}
        for w, r in zip([16, 32, 128, 128], [0.02, 0.00101, 0.001, 0.03], strict=True)
    ]
    lines = edge_lines(front, ranges)
    assert lines == [
        "2 of 4 front points have the largest width: open it by space.width.high=256",
        "4 of 4 front points have the smallest depth: 1, and there is none smaller",
        "2 of 4 front points have the smallest learning_rate: open it by space.learning_rate.low=0.0005",
        "4 of 4 front points have the largest decay: open it by space.decay.high=2",
        "4 of 4 front points have the smallest heads: 64, and there is none smaller",
        "4 of 4 front points have the smallest wide: open it by space.wide.low=32",
        "4 of 4 front points have the largest batch: add a larger value to space.batch",
    ]
    assert edge_lines([], ranges) == []
