"""Whatever a name, a database, a backup, a table or an outcome holds: one clear line, and nothing is changed.

`CARBS_SCALING_HOSTILE_EXAMPLES=500` tries more of each.
"""

import json
import os
import shutil
import sqlite3

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carbs_scaling.config import StudyConfig
from carbs_scaling.errors import CarbsScalingError
from carbs_scaling.ledger.backup import back_up, restore
from carbs_scaling.ledger.checking import check_ledger
from carbs_scaling.ledger.imported import read_rows
from carbs_scaling.ledger.kept import FOLDER, KeptOutcomes
from carbs_scaling.ledger.other_studies import reader_of
from carbs_scaling.ledger.study import Study
from carbs_scaling.names import require_name
from carbs_scaling.report.front import front_rows, write_front
from tests.toy_task import ToyTask, search, toy_config

hostile = settings(
    max_examples=int(os.environ.get("CARBS_SCALING_HOSTILE_EXAMPLES", "8")),
    deadline=None,
    derandomize="CARBS_SCALING_HOSTILE_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    config = toy_config(tmp_path_factory.mktemp("hostile"), "toy", "in_process", "random", flops=4e5)
    search(config)
    return config.study


def copy_of(study, tmp_path, content=None):
    place = StudyConfig("toy", str(tmp_path), None, 0)
    place.folder.mkdir(exist_ok=True)
    for file in place.folder.iterdir():
        file.unlink()
    whole = (study.folder / "study.db").read_bytes()
    (place.folder / "study.db").write_bytes(whole if content is None else content(whole))
    return place


def one_line_or_fine(action):
    """Runs it; what it raises is one line for people. Gives what it returned."""
    try:
        return action()
    except CarbsScalingError as error:
        said = str(error)
    assert said
    assert "\n" not in said.strip()
    return None


@hostile
@given(st.text(max_size=300))
def test_names_of_studies(tmp_path_factory, name):
    if one_line_or_fine(lambda: require_name("study.name", name, "study.directory") or name) is None:
        return
    folder = tmp_path_factory.mktemp("names")
    place = StudyConfig(name, str(folder), None, 0)
    assert place.folder.resolve().parent == folder.resolve()
    one_line_or_fine(lambda: Study.load(place))
    assert list(folder.iterdir()) == []


@hostile
@given(st.data())
def test_databases_cut_short_and_garbled(study, tmp_path, data):
    def garbled(whole):
        cut = data.draw(st.integers(0, len(whole)), label="length")
        content = bytearray(whole[:cut])
        for _ in range(data.draw(st.integers(0, 5), label="holes")):
            at = data.draw(st.integers(0, max(len(content) - 1, 0)), label="hole")
            filling = data.draw(st.binary(max_size=64), label="filling")
            content[at : at + len(filling)] = filling[: max(len(content) - at, 0)]
        return bytes(content)

    place = copy_of(study, tmp_path, garbled)
    before = (place.folder / "study.db").read_bytes()
    loaded = one_line_or_fine(lambda: Study.load(place))
    if loaded is not None:
        one_line_or_fine(loaded.records)
    one_line_or_fine(lambda: check_ledger(place, mend=False))
    one_line_or_fine(lambda: back_up(place, tmp_path / "x.zip"))
    (tmp_path / "x.zip").unlink(missing_ok=True)
    assert (place.folder / "study.db").read_bytes() == before


@hostile
@given(
    st.sampled_from(["record", "outcome_record", "outcome", "flops"]),
    st.sampled_from(["all", "a field"]),
    JSON | st.binary(max_size=20),
)
def test_values_of_one_trial(study, tmp_path, key, part, value):
    """It is left out or harmless; all others are read as they were; `check` names and mends it."""
    place = copy_of(study, tmp_path)
    before = {record.number: record for record in Study.load(place).records()}
    with sqlite3.connect(place.folder / "study.db") as connection:
        row = "key = ? AND trial_id = (SELECT trial_id FROM trials WHERE number = 1)"
        select = f"SELECT value_json FROM trial_user_attributes WHERE {row}"
        content = json.loads(connection.execute(select, (key,)).fetchone()[0])
        if isinstance(value, bytes):
            changed = value.decode("latin-1")
        elif part == "a field" and isinstance(content, dict):
            changed = json.dumps({**content, sorted(content)[len(content) // 2]: value})
        else:
            changed = json.dumps(value)
        change = f"UPDATE trial_user_attributes SET value_json = ? WHERE {row}"
        connection.execute(change, (changed, key))
    connection.close()
    after = {record.number: record for record in Study.load(place).records()}
    assert {n: r for n, r in after.items() if n != 1} == {n: r for n, r in before.items() if n != 1}
    assert front_rows(list(after.values())) is not None
    check_ledger(place, mend=True)
    assert check_ledger(place, mend=False).wrong == 0


@hostile
@given(
    st.lists(st.dictionaries(st.sampled_from(["samples", "step_length", "loss", "flops"]), JSON), max_size=4)
)
def test_rows_to_import(tmp_path, rows):
    path = tmp_path / "runs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))

    def read():
        return reader_of(ToyTask()).runs(read_rows(str(path)), "runs.jsonl", {})

    found = one_line_or_fine(read)
    for run in found[0] if found else []:
        assert ToyTask().space["samples"].low > 0
        assert run.flops >= 0


@hostile
@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_outcomes_on_disk(study, tmp_path, content):
    records = Study.load(study).records()
    (tmp_path / FOLDER).mkdir(exist_ok=True)
    (tmp_path / FOLDER / "00001.json").write_bytes(content)
    kept = KeptOutcomes(tmp_path)
    kept.find(records)
    assert kept.waiting == []
    assert not list((tmp_path / FOLDER).glob("*.json"))


@hostile
@given(st.data())
def test_backups_cut_short_and_garbled(study, tmp_path, data):
    file = tmp_path / "whole.zip"
    if not file.exists():
        back_up(study, file)
    content = bytearray(file.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    filling = data.draw(st.binary(max_size=40))
    content[at : at + len(filling)] = filling
    (tmp_path / "bad.zip").write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    place = StudyConfig("toy", str(tmp_path / "new"), None, 0)
    restored = one_line_or_fine(lambda: restore(tmp_path / "bad.zip", "again", place))
    if restored is not None:  # what was changed says nothing, such as a date of the archive
        assert Study.load(restored[0]).records() == Study.load(study).records()
        shutil.rmtree(tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("packing", [12, 97, None])
def test_backups_with_a_packing_or_a_place_that_cannot_be(study, tmp_path, packing):
    back_up(study, tmp_path / "whole.zip")
    content = bytearray((tmp_path / "whole.zip").read_bytes())
    if packing is None:  # where the list of files begins, far beyond the file's end
        end = content.rindex(b"PK\x05\x06")
        content[end + 16 : end + 20] = b"\xff\xff\xff\x7f"
    else:  # of the first file, by the list and by its own head
        entry = content.index(b"PK\x01\x02")
        content[entry + 10 : entry + 12] = content[8:10] = packing.to_bytes(2, "little")
    (tmp_path / "bad.zip").write_bytes(bytes(content))
    place = StudyConfig("toy", str(tmp_path / "new"), None, 0)
    with pytest.raises(CarbsScalingError, match="no whole backup"):
        restore(tmp_path / "bad.zip", "again", place)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("huge", ["1" + "0" * 400, "[" * 100_000])
def test_numbers_and_depths_beyond_all_bounds(study, tmp_path, huge):
    path, kept = tmp_path / "runs.jsonl", KeptOutcomes(tmp_path)
    path.write_text(f'{{"samples": {huge}, "step_length": 0.1, "loss": {huge}}}')
    found = one_line_or_fine(lambda: reader_of(ToyTask()).runs(read_rows(str(path)), "runs.jsonl", {}))
    assert not (found and found[0])
    records = Study.load(study).records()
    whole = {"number": records[0].number, "seed": records[0].seed, "point": records[0].point}
    text = json.dumps({**whole, "outcome": {"status": "completed", "loss": 0}})
    (tmp_path / FOLDER / "00001.json").write_text(text.replace('"loss": 0', f'"loss": {huge}'))
    kept.find(records)
    assert kept.waiting == []


@hostile
@given(st.text(max_size=20), st.sampled_from(["=", "+", "-", "@", "\t", "\r"]))
def test_no_text_becomes_a_formula_of_a_spreadsheet(tmp_path, text, start):
    path = tmp_path / "front.csv"
    write_front([{"trial": 1, f"{start}name": f"{start}{text}", "loss": -1.5}], "csv", path)
    import pandas as pd

    frame = pd.read_csv(path, keep_default_na=False)
    assert list(frame.columns)[1] == f"'{start}name".replace("\r", " ")
    assert str(frame.iloc[0, 1]).startswith("'")
    assert frame["loss"][0] == -1.5
