"""A whole study as one file, and back into either database; nothing is overwritten."""

import dataclasses
import json
import zipfile

import pytest

from carbs_scaling.commands import backup, restore
from carbs_scaling.config import StudyConfig
from carbs_scaling.errors import CarbsScalingError, StudyError
from carbs_scaling.ledger.checking import check_ledger
from carbs_scaling.ledger.study import Study
from tests import postgresql
from tests.toy_task import ledger, search, toy_config

FEW = {"flops": 4e5, "sampler": "random"}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    config = toy_config(tmp_path_factory.mktemp("studies"), "toy", "in_process", **FEW)
    search(config)
    (config.study.folder / "curves" / "00000.jsonl").write_text('{"progress": 1.0}\n')
    return config


@pytest.fixture
def file(config, composed, tmp_path, capsys):
    path = tmp_path / "toy.zip"
    named = (f"study.directory={config.study.directory}", "study.name=toy")
    backup.run(composed(*named, f"output={path}", verb="backup"))
    assert str(path) in capsys.readouterr().out
    return path


def restored(composed, file, folder, *overrides):
    restore.run(composed(f"input={file}", f"study.directory={folder}", *overrides, verb="restore"))


def test_a_restored_study_is_the_same_and_goes_on(config, composed, file, tmp_path):
    restored(composed, file, tmp_path / "new" / "deep", "rename=again")
    place = StudyConfig("again", str(tmp_path / "new" / "deep"), None, 0)
    study = Study.load(place)
    assert ledger(study) == ledger(Study.load(config.study))
    assert study.identity == Study.load(config.study).identity
    assert study.endings() == Study.load(config.study).endings()
    assert (place.folder / "curves" / "00000.jsonl").read_text() == '{"progress": 1.0}\n'
    assert check_ledger(place, mend=False).wrong == 0
    more = toy_config(tmp_path / "new" / "deep", "again", "in_process", **{**FEW, "flops": 6e5})
    assert ledger(search(more))[: len(study.records())] == ledger(study)[: len(study.records())]
    assert [path.name for path in (tmp_path / "new" / "deep").iterdir()] == ["again"]


def test_nothing_is_overwritten(config, composed, file, tmp_path):
    content = file.read_bytes()
    named = (f"study.directory={config.study.directory}", "study.name=toy", f"output={file}")
    again = composed(*named, verb="backup")
    with pytest.raises(CarbsScalingError, match="is there already"):
        backup.run(again)
    assert file.read_bytes() == content
    with pytest.raises(StudyError, match="is not overwritten"):
        restored(composed, file, config.study.directory)
    url = f"study.storage=sqlite:///{tmp_path}/shared.db"
    restored(composed, file, tmp_path / "a", url)
    with pytest.raises(StudyError, match="holds study 'toy' already"):
        restored(composed, file, tmp_path / "b", url)
    assert not (tmp_path / "b").exists()


def test_a_study_moves_to_postgresql_and_back(config, composed, file, tmp_path):
    if postgresql.why_not():
        pytest.skip(postgresql.why_not())
    server = postgresql.Server()
    try:
        place = dataclasses.replace(config.study, directory=str(tmp_path / "server"), storage=server.url())
        restored(composed, file, place.directory, f"study.storage={place.storage}")
        assert ledger(Study.load(place)) == ledger(Study.load(config.study))
        named = (f"study.directory={place.directory}", "study.name=toy", f"study.storage={place.storage}")
        backup.run(composed(*named, f"output={tmp_path}/from-server.zip", verb="backup"))
    finally:
        server.remove()
    restored(composed, tmp_path / "from-server.zip", tmp_path / "back")
    assert ledger(Study.load(StudyConfig("toy", str(tmp_path / "back"), None, 0))) == ledger(
        Study.load(config.study)
    )


def changed(file, how):
    """The archive with one entry changed or added."""
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    entries |= how(entries)
    other = file.with_name("changed.zip")
    with zipfile.ZipFile(other, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return other


@pytest.mark.parametrize(
    "how",
    [
        lambda e: {"files/../../outside": b"x"},
        lambda e: {"files//etc/outside": b"x"},
        lambda e: {"files/study.db": b"x"},
        lambda e: {"ledger.jsonl": e["ledger.jsonl"][:-200]},
        lambda e: {"ledger.jsonl": b"\n".join(e["ledger.jsonl"].splitlines()[:-3]) + b"\n"},
        lambda e: {"ledger.jsonl": b'{"table": "alembic_version", "row": {}}\n'},
        lambda e: {"study.json": b"{}"},
        lambda e: {"study.json": json.dumps({**json.loads(e["study.json"]), "name": "../x"}).encode()},
    ],
)
def test_what_is_no_whole_backup_is_one_line_and_leaves_nothing(composed, file, tmp_path, how):
    with pytest.raises(CarbsScalingError) as error:
        restored(composed, changed(file, how), tmp_path / "new")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "outside").exists()


def test_a_file_cut_short_is_one_line(composed, file, tmp_path):
    content = file.read_bytes()
    for part in (0, 10, len(content) // 2, len(content) - 30):
        file.write_bytes(content[:part])
        with pytest.raises(CarbsScalingError, match="is no whole backup"):
            restored(composed, file, tmp_path / "new")
    middle = len(content) // 3
    file.write_bytes(content[:middle] + bytes(64) + content[middle + 64 :])
    with pytest.raises(CarbsScalingError):
        restored(composed, file, tmp_path / "new")
    assert not (tmp_path / "new").exists()
