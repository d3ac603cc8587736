import json

from carbs_scaling.ledger.curves import TAIL_BYTES, last_point, read_curve


def write_points(path, count, ending=""):
    lines = [
        json.dumps({"step": step, "tokens": 128 * step, "train_loss": 5 / step})
        for step in range(1, count + 1)
    ]
    path.write_text("\n".join(lines) + "\n" + ending)


def test_the_tail_gives_what_the_whole_file_ends_with(tmp_path):
    path = tmp_path / "curve.jsonl"
    write_points(path, 1000)
    assert path.stat().st_size > 5 * TAIL_BYTES
    assert last_point(path) == read_curve(path)[-1]
    assert [point["step"] for point in read_curve(path)] == list(range(1, 1001))


def test_a_line_that_is_still_being_written_is_passed_over(tmp_path):
    path = tmp_path / "curve.jsonl"
    for ending in ('{"step": 11, "tra', "1", "\n", '{"step": 11, "name": "\xe4'):
        write_points(path, 10, ending)
        assert last_point(path)["step"] == 10
        assert len(read_curve(path)) == 10


def test_no_file_and_an_empty_one_have_no_points(tmp_path):
    assert last_point(tmp_path / "none") is None
    assert read_curve(tmp_path / "none") == []
    (tmp_path / "empty").touch()
    assert last_point(tmp_path / "empty") is None
