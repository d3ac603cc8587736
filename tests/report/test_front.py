import json
import math

import pandas as pd
import pytest

from carbs_scaling.errors import CarbsScalingError
from carbs_scaling.report.front import COLUMNS, front_law, front_rows, write_front
from carbs_scaling.trial import Status


def brute_force_front(records):
    completed = [record for record in records if record.completed]
    beaten = {
        a.number
        for a in completed
        for b in completed
        if b.flops <= a.flops and b.loss <= a.loss and (b.flops < a.flops or b.loss < a.loss)
    }
    return [r.number for r in sorted(completed, key=lambda r: r.flops) if r.number not in beaten]


@pytest.mark.parametrize("seed", range(5))
def test_rows_are_the_front_by_brute_force(random_records, seed):
    records = random_records(80, seed)
    assert [row["trial"] for row in front_rows(records)] == brute_force_front(records)


def test_a_row_says_all_that_is_known(make_record):
    record = make_record(7, loss=2.0, flops=1e10)
    (row,) = front_rows([record, make_record(8, status=None), make_record(9, status=Status.DIVERGED)])
    assert list(row)[: len(COLUMNS)] == list(COLUMNS)
    assert row["flops"] == 1e10
    assert row["loss"] == row["nats_per_token"] == 2.0
    assert row["bits_per_byte"] == pytest.approx(2.0 / math.log(2))
    assert (row["params"], row["width"], row["depth"]) == (24576, 32, 2)
    assert (row["batch_tokens"], row["tokens"], row["learning_rate"]) == (1024, 102400, 1.3e-2)
    assert row["text_sha256"] == "ab" * 32
    assert row["versions_torch"] == "2.9"
    assert row["flops_6N"] == 6 * 24576 * 102400
    assert (row["seed"], row["steps"]) == (7, 100)


def test_repeats_count_once_by_their_mean(make_record):
    lucky, unlucky = make_record(1, loss=1.9, flops=1e10), make_record(5, loss=2.3, flops=1e10)
    (row,) = front_rows([lucky, unlucky])
    assert (row["trial"], row["runs"]) == (1, 2)
    assert row["loss"] == pytest.approx(2.1)
    assert row["bits_per_byte"] == pytest.approx(2.1 / math.log(2))
    cheaper = make_record(6, loss=2.0, flops=9e9)
    assert [row["trial"] for row in front_rows([lucky, unlucky, cheaper])] == [6]


def test_formats_round_trip(random_records, tmp_path):
    rows = front_rows(random_records(50))
    for name in ("csv", "json", "parquet"):
        write_front(rows, name, tmp_path / f"front.{name}")
    assert json.loads((tmp_path / "front.json").read_text()) == rows
    assert {row["peak_memory_bytes"] for row in rows} == {None, 2**20}
    assert f",{2**20}," in (tmp_path / "front.csv").read_text()  # a gap does not turn integers into floats
    frame = pd.DataFrame(rows)
    from_csv = pd.read_csv(tmp_path / "front.csv", dtype={"versions_torch": str})
    for read in (from_csv, pd.read_parquet(tmp_path / "front.parquet")):
        assert list(read.columns) == list(rows[0])
        pd.testing.assert_frame_equal(read, frame, check_dtype=False)


def test_csv_and_json_go_to_standard_output_and_parquet_does_not(random_records, capsys):
    rows = front_rows(random_records(20))
    write_front(rows, "csv", None)
    assert capsys.readouterr().out.startswith("trial,flops,loss,")
    write_front(rows, "json", None)
    assert json.loads(capsys.readouterr().out) == rows
    with pytest.raises(CarbsScalingError, match="output=FILE"):
        write_front(rows, "parquet", None)


def test_an_empty_front_is_an_empty_table_in_every_format(make_record, tmp_path):
    rows = front_rows([make_record(0, status=Status.DIVERGED)])
    assert rows == []
    assert front_law([]) is None
    for name in ("csv", "json", "parquet"):
        write_front(rows, name, tmp_path / name)
    assert pd.read_csv(tmp_path / "csv").empty
    assert list(pd.read_parquet(tmp_path / "parquet").columns) == list(COLUMNS)
    assert json.loads((tmp_path / "json").read_text()) == []
