"""A refused command leaves every file as it was, and nothing that refuses the right command afterwards."""

from pathlib import Path

import pytest

from carbs_scaling.errors import ConfigError
from carbs_scaling.ledger.study import Study
from tests.command_line import carbs_scaling
from tests.toy_task import ToyTask, search, toy_config


def content(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, with what a file holds."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


REFUSED = [
    ["search", "executor.device=cuda"],
    ["search", "executor=in_process", "executor.device=cuda"],
    ["search", "executor.device=cuda", "study.directory=new/deeper"],
    ["search", "budget.flops=1e6"],
    ["search", "budget.hours=0"],
    ["search", "budget.hours=-1"],
    ["search", "budget.gpu_hours=1", "executor.device=cpu"],
    ["search", "budget.trials=0"],
    ["search", "space.width=50"],
    ["search", "space.width=[16,33]"],
    ["search", "sampler=magic"],
    ["search", "executor.workers=0"],
    ["search", "study.name=old", "sampler=sobol"],
    ["search", "task=command", "task.command=no_such_program_anywhere", "space.x={low: 0, high: 1}"],
    ["search", "task=command", "task.command=python {y}", "space.x={low: 0, high: 1}"],
    ["search", "task=function", "task.function=no_such_module:train", "space.x={low: 0, high: 1}"],
    ["recommend", "study.name=none", "target.flops=1e18"],
    ["fit", "study.name=none"],
    ["front", "study.name=none"],
]


@pytest.mark.parametrize("arguments", REFUSED, ids=" ".join)
def test_a_refused_command_leaves_everything_as_it_was(tmp_path, monkeypatch, arguments):
    monkeypatch.setenv("CARBS_SCALING_CACHE", str(tmp_path.parent / "cache"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    ledger = tmp_path / "studies" / "old" / "study.db"
    ledger.parent.mkdir(parents=True)
    ledger.write_bytes(b"garbage" * 1000)  # a study that no search may touch
    before = content(tmp_path)
    result = carbs_scaling(*arguments, cwd=tmp_path)
    assert result.returncode in (1, 2), result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert content(tmp_path) == before


def test_a_device_that_is_not_there_is_refused_before_a_text_is_prepared(tmp_path, monkeypatch):
    monkeypatch.setenv("CARBS_SCALING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert carbs_scaling("search", "executor.device=cuda", cwd=tmp_path).returncode == 2
    assert list(tmp_path.iterdir()) == []


class NotHere(ToyTask):
    """A task that is refused in its first trial."""

    def run(self, point, context):
        raise ConfigError("not on this machine")


def test_a_search_that_is_refused_by_its_first_trial_can_be_begun_in_another_way(tmp_path, monkeypatch):
    config = toy_config(tmp_path / "studies", "mine", "in_process", "random", trials=2)
    with pytest.raises(ConfigError, match="not on this machine"):
        search(config, NotHere())
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(ToyTask, "identity", lambda self: {"parabola": {"width": 3}})
    assert len(search(config).records()) == 2


def test_what_was_trained_is_kept_when_a_later_search_is_refused(tmp_path):
    first = toy_config(tmp_path, "mine", "in_process", "random", trials=2)
    search(first)
    with pytest.raises(ConfigError):
        search(toy_config(tmp_path, "mine", "in_process", "random", trials=3), NotHere())
    records = Study.load(first.study).records()
    assert [record.completed for record in records] == [True, True, False]
    assert (first.study.folder / "search.log").exists()
