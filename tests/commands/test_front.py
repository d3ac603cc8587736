"""`front` as a person uses it, where there is no front."""

import pytest
from optuna.samplers import RandomSampler

from carbs_scaling.commands import front
from carbs_scaling.config import StudyConfig
from carbs_scaling.errors import StudyError
from carbs_scaling.ledger.study import Study
from carbs_scaling.trial import Diverged
from tests.toy_task import ToyTask


@pytest.mark.parametrize("ended", [0, 1])
@pytest.mark.parametrize("format", ["table", "csv"])
def test_without_a_completed_run_there_is_one_line_and_no_file(composed, tmp_path, format, ended):
    place = StudyConfig("none", str(tmp_path), None, 0)
    place.folder.mkdir()
    task = ToyTask()
    study = Study.begin(place, task, 1e15, RandomSampler(seed=0))
    for _ in range(2):
        record = study.ask(task, {})
    if ended:
        study.tell(record.number, Diverged(progress=0.5))
    before = set(place.folder.iterdir())
    said = rf"no completed run yet, so no front \({ended} of its trials ended, {2 - ended} are open\)"
    with pytest.raises(StudyError, match=said):
        front.run(
            composed(f"study.directory={tmp_path}", "study.name=none", f"format={format}", verb="front")
        )
    assert set(place.folder.iterdir()) == before
