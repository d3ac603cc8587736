"""A task that the package has never heard of: searched, broken, resumed, shown and compared."""

import csv
import subprocess
import sys
import time
from pathlib import Path

import pytest

from carbs_scaling.commands import compare, front
from carbs_scaling.config import StudyConfig
from carbs_scaling.errors import ConfigError, StudyError
from carbs_scaling.ledger.study import Study, spent_flops
from carbs_scaling.trial import Status
from tests.toy_task import BUDGET_FLOPS, ToyTask, ledger, search, toy_config


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """A folder with a study `unbroken` of the search, and one of random points."""
    folder = tmp_path_factory.mktemp("studies")
    search(toy_config(folder, "unbroken", "in_process"))
    search(toy_config(folder, "random", "in_process", sampler="random"))
    return folder


def test_the_budget_is_spent_and_no_trial_costs_more_than_its_share(studies):
    records = Study.load(StudyConfig("unbroken", str(studies), None, 0)).records()
    assert 0.9 * BUDGET_FLOPS < spent_flops(records) <= BUDGET_FLOPS
    assert all(record.flops <= 0.15 * BUDGET_FLOPS for record in records)
    assert records[0].provenance["sampler"] == "carbs"
    assert records[0].details["shape"] == "parabola"
    assert all(record.outcome.energy.source == "estimated: 6 W a busy core" for record in records)
    for record in records:
        if record.status is Status.DIVERGED:
            assert record.flops == 0.5 * ToyTask().flops(record.point)


class Interrupted(Exception):
    """Stands for the power cut."""


def test_a_search_in_process_that_is_broken_off_ends_as_the_unbroken_one(studies, tmp_path, monkeypatch):
    closed, moments = Study.tell, iter([(2, False), (1, True), (3, False), (0, True)])
    left, after = next(moments)

    def tell(self, number, outcome):
        """Dies before the write at one moment, after it at the next."""
        nonlocal left, after
        left -= 1
        if left < 0:
            if after:
                closed(self, number, outcome)
            left, after = next(moments, (10**6, False))
            raise Interrupted
        return closed(self, number, outcome)

    monkeypatch.setattr(Study, "tell", tell)
    breaks = 0
    while True:
        try:
            study = search(toy_config(tmp_path, "broken", "in_process"))
            break
        except Interrupted:
            breaks += 1
    assert breaks == 4
    assert ledger(study) == ledger(Study.load(StudyConfig("unbroken", str(studies), None, 0)))


@pytest.mark.slow
def test_a_search_with_a_worker_process_that_is_killed_ends_as_the_unbroken_one(studies, tmp_path):
    command = [sys.executable, "-m", "tests.toy_task", str(tmp_path), "killed", "processes", "0.2"]
    for wanted in (2, 6):
        coordinator = subprocess.Popen(command, cwd=Path(__file__).parent.parent)
        deadline = time.monotonic() + 120
        while ended_trials(tmp_path) < wanted and time.monotonic() < deadline:
            time.sleep(0.05)
        coordinator.kill()
        coordinator.wait()
        assert ended_trials(tmp_path) >= wanted
    study = search(toy_config(tmp_path, "killed", "processes"))
    assert ledger(study) == ledger(Study.load(StudyConfig("unbroken", str(studies), None, 0)))


def ended_trials(folder: Path) -> int:
    try:
        study = Study.load(StudyConfig("killed", str(folder), None, 0))
    except StudyError:
        return 0
    return sum(not record.running for record in study.records())


def test_two_workers_keep_to_the_budget(tmp_path):
    records = search(toy_config(tmp_path, "two", "processes", sampler="random", workers=2)).records()
    assert 0.9 * BUDGET_FLOPS < spent_flops(records) <= BUDGET_FLOPS


def test_the_front_shows_dimensions_details_and_the_unit_of_the_loss(composed, studies, capsys):
    named = (f"study.directory={studies}", "study.name=unbroken")
    front.run(composed(*named, verb="front"))
    said = capsys.readouterr().out
    for word in ("metres", "samples", "lr", "reach", "height"):
        assert word in said
    page = (studies / "unbroken" / "front.html").read_text()
    assert "step_length" in page
    assert "parabola" in page
    assert (studies / "unbroken" / "front.png").read_bytes().startswith(b"\x89PNG")
    front.run(composed(*named, "format=csv", "plots=false", verb="front"))
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert {"loss", "samples", "step_length", "reach", "shape", "height", "sampler"} <= set(rows[0])


def test_studies_are_compared(composed, studies, capsys):
    compare.run(composed(f"study.directory={studies}", "studies=[unbroken,random]", verb="compare"))
    said = capsys.readouterr().out
    assert "loss, metres" in said
    assert (studies / "compare-unbroken-random.png").exists()


def test_another_seed_or_task_is_refused_and_leaves_the_ledger_as_it_was(studies):
    before = ledger(Study.load(StudyConfig("random", str(studies), None, 0)))
    with pytest.raises(StudyError, match="seed: 0 -> 1"):
        search(toy_config(studies, "random", "in_process", sampler="random", seed=1))
    with pytest.raises(StudyError, match="metric: metres -> feet"):
        search(toy_config(studies, "random", "in_process", sampler="random"), ToyTask(metric="feet"))
    assert ledger(Study.load(StudyConfig("random", str(studies), None, 0))) == before


def test_a_refused_search_leaves_nothing_behind(tmp_path):
    with pytest.raises(ConfigError, match="budget"):
        search(toy_config(tmp_path, "poor", "in_process", flops=10.0))
    with pytest.raises(ConfigError, match="not an option"):
        search(toy_config(tmp_path, "odd", "in_process", magic=1))
    assert list(tmp_path.iterdir()) == []
