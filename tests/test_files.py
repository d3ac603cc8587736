import pytest

from carbs_scaling.errors import CarbsScalingError
from carbs_scaling.files import write_atomically


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "made" / "front.csv"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [file.name for file in path.parent.iterdir()] == ["front.csv"]
    assert path.stat().st_mode & 0o400


def test_a_failed_write_keeps_the_old_file_and_says_why_in_one_line(tmp_path, monkeypatch):
    path = tmp_path / "front.csv"
    write_atomically(path, b"old")

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(CarbsScalingError, match=r"^cannot write .*front.csv: No space left on device$"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["front.csv"]


def test_a_folder_that_is_a_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(CarbsScalingError, match=r"^cannot write [^\n]*$"):
        write_atomically(tmp_path / "taken" / "front.csv", b"new")
