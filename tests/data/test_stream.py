"""A streamed text: its blocks are the same whoever makes them, and a run goes on at the same document."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from carbs_scaling.data.stream import TokenStream, open_stream
from carbs_scaling.data.streamed_windows import StreamedWindows
from carbs_scaling.data.token_files import prepare_text
from carbs_scaling.data.windows import training_windows, validation_windows
from carbs_scaling.errors import ConfigError, DataError


def write_rows(folder: Path, files: int = 3, documents: int = 60) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    texts = []
    for file in range(files):
        part = [f"Document {file}.{i}. " * (5 + i % 7) for i in range(documents)]
        part[3] = " "  # counts as a document, and gives no token
        (folder / f"{file}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in part))
        texts += [text for text in part if text.strip()]
    return texts


@pytest.fixture
def streamed(tmp_path, data_config):
    """A streamed text of three files in blocks of 1,000 bytes, and its documents."""
    texts = write_rows(tmp_path / "text")
    config = data_config(
        paths=[str(tmp_path / "text/*.jsonl")], streaming=True, block_tokens=1000, max_validation_bytes=500
    )
    return config, texts


def all_ids(stream: TokenStream) -> bytes:
    parts = []
    while (file := stream.block(len(parts))) is not None:
        parts.append(file.read_bytes())
    return b"".join(parts)


def test_every_document_is_streamed_once_or_held_out(streamed):
    config, texts = streamed
    text = prepare_text(config)
    train = all_ids(open_stream(text.train_path)).decode().split("\0")[:-1]
    held = validation_windows(text, 10)._ids.tobytes().decode().split("\0")[:-1]
    left = [t for t in texts if t not in train]
    assert held == left[: len(held)]  # the first of those that their hash holds out
    assert 500 <= sum(map(len, held)) < 700
    assert 0.03 < len(left) / len(texts) < 0.2
    assert train == [t for t in texts if t not in left]
    blocks = open_stream(text.train_path)
    assert {blocks.block(i).stat().st_size for i in range(blocks.end()[0] - 1)} == {1000}
    assert prepare_text(config) == text


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
def test_a_block_is_the_same_from_any_place_before_it(streamed, tokenizer):
    config, _ = streamed
    if tokenizer == "bpe":
        config = replace(config, tokenizer="bpe", vocabulary_size=300)
    folder = Path(prepare_text(config).train_path)
    stream = TokenStream(folder)
    whole = all_ids(stream)
    files = [stream.block(number) for number in range(stream.end()[0])]
    content = [file.read_bytes() for file in files]
    for number in (len(files) - 1, 2, 5):
        for file in files[number:]:
            file.unlink(missing_ok=True)
        assert TokenStream(folder).block(number).read_bytes() == content[number]
    # Where nothing but the place of block 5 is known, as after `restore`.
    for file in [*folder.glob("places/*"), *folder.glob("blocks/*"), folder / "end.json"]:
        if file.stem != f"{5:09d}" or file.parent.name == "blocks":
            file.unlink(missing_ok=True)
    again = TokenStream(folder)
    assert again.block(5).read_bytes() == content[5]
    assert again.place(5).document > 0
    assert all_ids(again) == whole


def test_blocks_used_longest_ago_are_dropped_and_made_again(streamed):
    config, _ = streamed
    text = prepare_text(replace(config, cached_blocks=3))
    stream = TokenStream(Path(text.train_path))
    first = stream.block(0).read_bytes()
    whole = all_ids(stream)
    assert len(list(Path(text.train_path).glob("blocks/*.bin"))) == 3
    assert stream.block(0).read_bytes() == first
    assert all_ids(stream) == whole


def test_max_bytes_ends_a_stream_before_the_document_that_is_too_much(streamed):
    config, texts = streamed
    text = prepare_text(replace(config, max_bytes=5000))
    train = all_ids(open_stream(text.train_path)).decode().split("\0")[:-1]
    assert train == [t for t in texts if t in train][: len(train)]
    assert 4800 < sum(map(len, train)) <= 5000
    assert text.sha256 != prepare_text(config).sha256


def order(windows: StreamedWindows, steps: int, batch_size: int, done: int = 0) -> list[int]:
    return [int(i) for batch in windows.order(batch_size, steps, seed=3, done=done) for i in batch]


def test_an_epoch_reads_every_window_once_block_by_block(streamed):
    config, _ = streamed
    windows = training_windows(prepare_text(config), 30)
    assert windows.repeats(10**6) == 1.0  # nobody has seen the end
    read = order(windows, steps=300, batch_size=7)
    blocks, last_tokens = windows._stream.end()
    total = (blocks - 1) * 33 + (last_tokens - 1) // 30
    assert sorted(read[:total]) == sorted(set(read))
    assert [i // 33 for i in read[:total]] == sorted(i // 33 for i in read[:total])
    assert read[:total] != read[total : 2 * total]
    assert windows.repeats(len(read)) == len(read) / total
    assert order(windows, steps=2100, batch_size=1) == read  # whatever the batch
    for done in (1, 4, total // 7, total // 7 + 1, 299):
        assert order(windows, 300, 7, done) == read[7 * done :]
    ids = windows.read(np.array([0, 33, 32, 65]))
    whole = np.frombuffer(all_ids(windows._stream), dtype=np.uint8)
    assert [int(row[0]) for row in ids] == [int(whole[i]) for i in (0, 1000, 960, 1960)]
    assert ids.shape == (4, 31)


def test_a_checkpoint_goes_on_at_the_same_document_without_the_cache(streamed, tmp_path):
    config, _ = streamed
    text = prepare_text(config)
    windows = training_windows(text, 30)
    unbroken = [windows.read(batch) for batch in windows.order(8, 60, seed=3)]
    place = json.loads(json.dumps(windows.place(8 * 20)))
    assert place["block"] == 4
    assert place["document"] > 10

    elsewhere = prepare_text(replace(config, cache_directory=str(tmp_path / "cache2")))
    assert elsewhere.sha256 == text.sha256
    other = training_windows(elsewhere, 30)
    other.restore(place)
    rest = [other.read(batch) for batch in other.order(8, 60, seed=3, done=20)]
    assert all((a == b).all() for a, b in zip(rest, unbroken[20:], strict=True))
    made = sorted(file.stem for file in Path(elsewhere.train_path).glob("blocks/*.bin"))
    assert f"{2:09d}" not in made  # what was trained on before was not read again


def test_what_cannot_be_streamed_is_refused(streamed, data_config, tmp_path):
    config, _ = streamed
    with pytest.raises(ConfigError, match=r"data\.streaming=true needs data\.validation_paths"):
        prepare_text(replace(config, max_validation_bytes=None))
    with pytest.raises(DataError, match=r"raise it, or lower model\.sequence_length"):
        training_windows(prepare_text(config), 1000)
    (tmp_path / "held.txt").write_text("held out")
    with pytest.raises(DataError, match="no text beside what is held out"):
        prepare_text(
            replace(config, paths=[str(tmp_path / "held.txt")], validation_paths=[str(tmp_path / "held.txt")])
        )
