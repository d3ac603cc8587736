"""`report`: one page that asks nothing of the network, of any study."""

import re
import subprocess
from dataclasses import dataclass, field

import numpy as np
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import RandomSampler

from carbs_scaling.commands import report
from carbs_scaling.config import StudyConfig
from carbs_scaling.errors import CarbsScalingError, StudyError
from carbs_scaling.ledger.study import Study
from carbs_scaling.report import browser
from carbs_scaling.trial import Completed, Diverged
from tests.toy_task import ToyTask

EVIL = "<script>alert(1)</script>"


def log_range(low, high):
    return FloatDistribution(low, high, log=True)


@dataclass
class Runs(ToyTask):
    """Runs of a law, without training."""

    metric: str = EVIL
    space: dict = field(
        default_factory=lambda: {
            "params": log_range(1e5, 1e7),
            "tokens": log_range(1e6, 1e9),
            "learning_rate": log_range(1e-4, 1e-1),
            "batch_tokens": log_range(1e3, 1e5),
        }
    )

    def flops(self, point):
        return 6 * point["params"] * point["tokens"]

    def roles(self, point):
        return dict(point)

    def details(self, point):
        return {}

    def loss(self, point):
        off = np.log(point["learning_rate"] / (0.5 * point["params"] ** -0.3)) ** 2
        off += 0.3 * np.log(point["batch_tokens"] / (0.1 * point["tokens"] ** 0.6)) ** 2
        return 1 + (20 * point["params"] ** -0.25 + 60 * point["tokens"] ** -0.3) * (1 + 0.03 * off)


def study_of(folder, task, count):
    place = StudyConfig("shown", str(folder), None, 0)
    place.folder.mkdir()
    study = Study.begin(place, task, 1e17, RandomSampler(seed=0))
    for _ in range(count):
        record = study.ask(task, {"sampler": EVIL})
        study.tell(
            record.number,
            task.run(record.point, None) if not isinstance(task, Runs) else _outcome(task, record),
        )
    return place


def _outcome(task, record):
    if record.number % 20 == 7:
        return Diverged(progress=0.5, message=EVIL)
    return Completed(loss=float(task.loss(record.point)))


needs_browser = pytest.mark.skipif(
    not any(map(browser.shutil.which, browser.BROWSERS)), reason="needs Chromium or Chrome"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return study_of(tmp_path_factory.mktemp("report"), Runs(), 45)


def written(composed, place, *overrides):
    report.run(composed(f"study.directory={place.directory}", "study.name=shown", *overrides, verb="report"))
    return place.folder / "report.html"


def test_the_page_has_every_part_and_needs_no_network(composed, place, capsys):
    page = written(composed, place).read_text()
    assert "report.html" in capsys.readouterr().out
    for title in ("The front", "The law", "The valley of the learning rate", "Best learning rate by size",
                  "Best batch by size", "What to train next", "All runs", "Budget over time", "Failures",
                  "How to reproduce it"):  # fmt: skip
        assert f"<h2>{title}</h2>" in page
    assert len(page) < 7e6
    own = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", own)
    assert page.count('<script type="application/json"') >= 7
    assert "the law" in own


def test_what_a_study_holds_is_escaped(composed, place):
    page = written(composed, place).read_text()
    assert EVIL not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_the_target_is_the_one_that_was_asked_for(composed, place):
    assert "1.00e+20 FLOPs (6 N D)" in written(composed, place, "target_flops=1e20").read_text().replace(
        "1.00e20", "1.00e+20"
    )


def test_a_study_without_a_law_has_the_rest(composed, tmp_path):
    class Task(ToyTask):
        def run(self, point, context):
            return Completed(loss=point["step_length"])

    page = written(composed, study_of(tmp_path, Task(), 5)).read_text()
    assert "These runs give none" in page
    assert "<h2>All runs</h2>" in page
    assert "What to train next" not in page


def test_nothing_to_report_is_one_line(composed, tmp_path):
    place = StudyConfig("shown", str(tmp_path), None, 0)
    place.folder.mkdir()
    task = ToyTask()
    Study.begin(place, task, 1e6, RandomSampler(seed=0)).ask(task, {})
    with pytest.raises(StudyError, match="no completed run yet"):
        written(composed, place)


def test_without_a_browser_pdf_and_png_are_one_line(composed, place, monkeypatch):
    monkeypatch.setattr(browser, "BROWSERS", ())
    with pytest.raises(CarbsScalingError, match="install one, or write format=html"):
        written(composed, place, "format=pdf")
    assert not list(place.folder.glob("*.pdf*"))


@needs_browser
def test_figures_are_drawn_as_they_come_into_sight(composed, place, tmp_path):
    page = written(composed, place)
    command = [
        browser.find_browser(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path}", "--window-size=1280,900", "--dump-dom",
    ]  # fmt: skip

    def drawn(address):
        done = subprocess.run([*command, address], capture_output=True, text=True, timeout=180, check=True)
        return len(re.findall(r'class="[^"]*js-plotly-plot', done.stdout))

    figures = page.read_text().count('<script type="application/json"')
    assert 1 <= drawn(page.as_uri()) < figures
    assert drawn(f"{page.as_uri()}#whole") == figures


@needs_browser
def test_a_page_is_printed(composed, place, monkeypatch):
    monkeypatch.setattr(browser, "DRAWING_MILLISECONDS", 2000)
    written(composed, place, "format=pdf")
    assert (place.folder / "report.pdf").read_bytes().startswith(b"%PDF")
    written(composed, place, "format=png", "width=390")
    assert (place.folder / "report.png").read_bytes().startswith(b"\x89PNG")
    assert not list(place.folder.glob(".report*"))
