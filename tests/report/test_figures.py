import re
from dataclasses import replace

import pytest

from carbs_scaling.report import html
from carbs_scaling.report.figures import draw_front_png, spread_out
from carbs_scaling.report.front import completed_records, front_law, front_records
from carbs_scaling.report.html import drawn_runs, trial_text, write_front_html
from carbs_scaling.trial import Status

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(params=["none", "running", "diverged", "one", "same size", "three", "many"])
def records(request, make_record, random_records):
    """Studies of every age."""
    return {
        "none": [],
        "running": [make_record(0, status=None)],
        "diverged": [make_record(n, status=Status.DIVERGED, flops=10.0 ** (9 + n)) for n in range(3)],
        "one": [make_record(0, loss=2.0)],
        "same size": [make_record(n, loss=3.0 - n / 10, flops=1e9 * (n + 1)) for n in range(5)],
        "three": random_records(3, seed=1),
        "many": random_records(150),
    }[request.param]


@pytest.mark.filterwarnings("error")
def test_a_study_of_any_age_can_be_drawn(records, tmp_path):
    path = draw_front_png(records, tmp_path / "front.png", "study", front_law(records), "bits/byte")
    assert path.read_bytes().startswith(PNG_SIGNATURE)
    page = write_front_html(records, tmp_path / "front.html", "study", front_law(records)).read_text()
    assert ("no completed run yet" in page) == (not front_records(records))


def test_the_page_loads_nothing_from_elsewhere_and_escapes_what_it_shows(random_records, tmp_path):
    path = write_front_html(random_records(30), tmp_path / "front.html", "<b>study</b>", law_lines=["1 < 2"])
    page = path.read_text()
    assert "<h1>&lt;b&gt;study&lt;/b&gt;</h1>" in page
    assert "<p>1 &lt; 2</p>" in page
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", page)
    assert len(re.findall(r"<tr>", page)) == 1 + len(front_records(random_records(30)))


def test_the_pointer_shows_the_point_or_why_there_is_no_loss(make_record):
    text = trial_text(make_record(7, loss=2.0), "nats/token")
    for part in ("trial 7", "2.0000 nats/token", "lr 1.3e-2", "N 24.6k", "width 32", "warmup_fraction 0.1"):
        assert part in text
    assert "on cpu" in text
    failed = make_record(8, status=Status.OUT_OF_MEMORY, message="tried to take <9 GiB>")
    assert "out of memory: tried to take &lt;9 GiB&gt;" in trial_text(failed, "nats/token")


@pytest.mark.filterwarnings("error")
def test_runs_without_parameters_and_losses_below_zero_can_be_drawn(make_record, tmp_path):
    records = [
        replace(make_record(n, loss=0.5 - n, flops=10.0 ** (9 + n)), roles={}, point={"x": n / 3})
        for n in range(4)
    ]
    assert draw_front_png(records, tmp_path / "front.png", "study").read_bytes().startswith(PNG_SIGNATURE)
    assert "x 0.333" in write_front_html(records, tmp_path / "front.html", "study").read_text()


def test_labels_keep_their_distance_and_both_ends(random_records):
    front = front_records(random_records(150))
    labelled = spread_out(front, 5)
    assert labelled[0] is front[0]
    assert labelled[-1] is front[-1]
    assert len(labelled) <= 6


def test_of_many_runs_the_front_and_evenly_spaced_others_are_drawn(random_records, monkeypatch):
    completed = completed_records(random_records(150))
    front = front_records(completed)
    monkeypatch.setattr(html, "MOST_DRAWN", 10)
    drawn = drawn_runs(completed)
    assert {record.number for record in front} <= {record.number for record in drawn}
    assert 5 <= len(drawn) - len(front) <= 10
    figure = html.front_figure(completed, None, "loss")
    assert figure.data[0].name == f"run ({len(drawn)} of {len(completed)})"
    assert len(figure.data[0].x) == len(drawn)
