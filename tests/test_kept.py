"""What a search has begun is kept where it fails; what was refused before is taken back."""

import pytest

from carbs_scaling.errors import CarbsScalingError
from carbs_scaling.ledger.study import Study
from tests.toy_task import ToyTask, search, toy_config


def test_the_ledger_of_a_first_trial_that_failed_is_kept(tmp_path, monkeypatch):
    """A full disk hours into the first trial must not take its ledger and its checkpoints away."""

    def full(self, number, outcome):
        (tmp_path / "kept" / "checkpoints").mkdir(exist_ok=True)
        raise CarbsScalingError("the disk is full")

    monkeypatch.setattr(Study, "tell", full)
    with pytest.raises(CarbsScalingError, match="disk is full"):
        search(toy_config(tmp_path, "kept", "in_process"))
    assert (tmp_path / "kept" / "checkpoints").is_dir()
    assert (tmp_path / "kept" / "study.db").is_file()
    monkeypatch.undo()
    records = search(toy_config(tmp_path, "kept", "in_process")).records()
    assert records[0].number == 0
    assert not any(record.running for record in records)


def test_a_learning_rate_that_follows_from_a_law_is_no_role(tmp_path):
    """It stands in the details, so that people see it, and no law of rates is fitted to it."""
    from carbs_scaling.laws.runs.reading import records_frame

    class ByLaw(ToyTask):
        def roles(self, point):
            return {"params": 1e6, "tokens": point["samples"]}

        def details(self, point):
            return {"learning_rate": 1e-3, "width": 64, "depth": 2}

    records = search(toy_config(tmp_path, "by-law", "in_process", sampler="random"), ByLaw()).records()
    assert not {"learning_rate", "width", "depth"} & set(records_frame(records).columns)
