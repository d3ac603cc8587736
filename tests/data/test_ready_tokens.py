"""Token files that exist already are used where they lie, with the ids that they hold."""

from pathlib import Path

import numpy as np
import pytest

from carbs_scaling.data.prepared import map_ids
from carbs_scaling.data.token_files import prepare_text
from carbs_scaling.data.windows import training_windows, validation_windows
from carbs_scaling.errors import ConfigError, DataError

IDS = np.random.default_rng(0).integers(300, size=5000)


def write(file: Path, dtype: str, ids=IDS) -> str:
    if file.suffix == ".npy":
        np.save(file, ids.astype(dtype))
    else:
        ids.astype(dtype).tofile(file)
    return str(file)


@pytest.fixture
def tokens_config(data_config):
    return lambda *paths, **changes: data_config(paths=list(paths), **{"tokenizer": "none", **changes})


@pytest.mark.parametrize(("name", "dtype"), [("a.bin", "uint16"), ("a.bin", "uint32"), ("a.npy", "int64")])
def test_one_file_is_read_where_it_lies(tmp_path, tokens_config, name, dtype):
    text = prepare_text(tokens_config(write(tmp_path / name, dtype)))
    assert text.train_path == str(tmp_path / name)
    assert text.vocabulary_size == 300
    assert (text.train_tokens, text.validation_tokens) == (4500, 500)
    windows = training_windows(text, 9)
    assert windows.read(np.array([0, 498])).flatten().tolist() == [*IDS[:10], *IDS[4482:4492]]
    with pytest.raises(IndexError):
        windows.read(np.array([500]))  # the next ids are held out
    assert validation_windows(text, 499).read(np.array([0])).flatten().tolist() == IDS[4500:].tolist()
    assert text.bytes_per_token is None


def test_ids_say_what_a_text_is_and_not_how_they_are_stored(tmp_path, tokens_config):
    paths = [write(tmp_path / name, dtype) for name, dtype in (("a.bin", "uint16"), ("b.npy", "int32"))]
    (tmp_path / "c").mkdir()
    parts = [write(tmp_path / "c" / f"{i}.bin", "uint16", part) for i, part in enumerate(np.split(IDS, 5))]
    # As llm.c writes: a header of 256 integers.
    header = np.zeros(256, dtype=np.int32)
    header[:3] = 20240520, 1, len(IDS)
    (tmp_path / "d.bin").write_bytes(header.tobytes() + IDS.astype(np.uint16).tobytes())
    texts = [
        prepare_text(tokens_config(*some))
        for some in ([paths[0]], [paths[1]], parts, [str(tmp_path / "d.bin")])
    ]
    assert len({text.sha256 for text in texts}) == 1
    for text in texts:
        assert map_ids(text.train_path, 4500, text.ids_dtype).tolist() == IDS[:4500].tolist()
        assert prepare_text(tokens_config(*parts)).validation_tokens == 500


def test_a_validation_file_and_a_tokenizer(tmp_path, tokens_config):
    text = bytes(range(32, 127)) * 20
    train = write(tmp_path / "train.bin", "uint16", np.frombuffer(text, np.uint8))
    held = write(tmp_path / "val.bin", "uint16", np.frombuffer(text[:95] + b"\0", np.uint8))
    prepared = prepare_text(tokens_config(train, validation_paths=[held], tokenizer="bytes"))
    assert (prepared.train_path, prepared.validation_path) == (train, held)
    assert (prepared.train_tokens, prepared.validation_tokens) == (1900, 96)
    assert prepared.bytes_per_token == 95 / 96
    assert prepared.vocabulary_size == 256


def test_what_cannot_be_is_refused(tmp_path, tokens_config):
    file = write(tmp_path / "a.bin", "uint16")
    (tmp_path / "b.txt").write_text("text")
    (tmp_path / "c.npy").write_bytes(b"\x93NUMPY\x01\x00 broken")
    (tmp_path / "d.bin").write_bytes(b"")
    with pytest.raises(DataError, match=r"holds the token 299, but data\.tokenizer has 256"):
        prepare_text(tokens_config(file, tokenizer="bytes"))
    with pytest.raises(DataError, match="beside text"):
        prepare_text(tokens_config(file, str(tmp_path / "b.txt")))
    with pytest.raises(DataError, match=r"c\.npy"):
        prepare_text(tokens_config(str(tmp_path / "c.npy")))
    with pytest.raises(DataError, match=r"d\.bin holds no tokens"):
        prepare_text(tokens_config(str(tmp_path / "d.bin")))
    with pytest.raises(ConfigError, match=r"without data\.streaming"):
        prepare_text(tokens_config(file, streaming=True))
    (tmp_path / "e.txt").write_text("other text")
    with pytest.raises(ConfigError, match="text needs a tokenizer"):
        prepare_text(tokens_config(str(tmp_path / "b.txt"), validation_paths=[str(tmp_path / "e.txt")]))
