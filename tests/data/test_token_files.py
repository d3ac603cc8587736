"""Text to token files: cache, formats, and one line for everything that can be wrong."""

import errno
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from carbs_scaling.data import token_files as data
from carbs_scaling.data.token_files import CACHE_VARIABLE, cache_folder, prepare_text
from carbs_scaling.data.windows import training_windows
from carbs_scaling.errors import DataError


def write_files(folder: Path, count: int = 80) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    texts = [f"Document {i}. " * (i + 1) for i in range(count)]
    for i, text in enumerate(texts):
        (folder / f"{i:03}.txt").write_text(text)
    return texts


def read_documents(path: str) -> list[str]:
    """The documents of a byte token file, whose ends are byte 0."""
    return Path(path).read_bytes().decode().split("\0")[:-1]


def refusal(config) -> str:
    with pytest.raises(DataError) as caught:
        prepare_text(config)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_every_document_lies_on_one_side_once(tmp_path, data_config):
    texts = write_files(tmp_path / "text")
    (tmp_path / "text" / "copy.md").write_text(texts[3])
    text = prepare_text(data_config())
    train, validation = read_documents(text.train_path), read_documents(text.validation_path)
    assert train
    assert validation
    assert sorted(train + validation) == sorted(texts)
    assert text.train_tokens == sum(map(len, train)) + len(train)
    assert text.validation_tokens == sum(map(len, validation)) + len(validation)
    assert text.bytes_per_token == sum(map(len, validation)) / text.validation_tokens


def test_hash_is_that_of_the_content_wherever_it_lies(tmp_path, data_config):
    write_files(tmp_path / "text")
    first = prepare_text(data_config())
    shutil.copytree(tmp_path / "text", tmp_path / "elsewhere")
    moved = data_config(paths=[str(tmp_path / "elsewhere/*.txt")], cache_directory=str(tmp_path / "cache2"))
    assert prepare_text(moved).sha256 == first.sha256
    assert prepare_text(data_config(validation_fraction=0.2)).sha256 != first.sha256
    (tmp_path / "text" / "000.txt").write_text("Another text.")
    assert prepare_text(data_config()).sha256 != first.sha256


def test_second_use_reads_no_text(tmp_path, data_config, monkeypatch):
    write_files(tmp_path / "text")
    for file in (tmp_path / "text").iterdir():
        os.utime(file, (1e9, 1e9))
    first = prepare_text(data_config())
    monkeypatch.setattr(data, "_build", lambda *_: pytest.fail("built again"))
    assert prepare_text(data_config()) == first


def test_a_fresh_file_changed_within_a_clock_tick_is_seen(tmp_path, data_config):
    write_files(tmp_path / "text")
    file = tmp_path / "text" / "000.txt"
    written = time.time() + 3600.0  # fresh however slowly this machine runs
    os.utime(file, (written, written))
    first = prepare_text(data_config())
    file.write_text("document 0. ")
    os.utime(file, (written, written))
    assert prepare_text(data_config()).sha256 != first.sha256


@pytest.mark.parametrize("damage", ["shorter", "missing", "meta"])
def test_a_damaged_cache_is_built_again(tmp_path, data_config, damage):
    write_files(tmp_path / "text")
    for file in (tmp_path / "text").iterdir():
        os.utime(file, (1e9, 1e9))
    first = prepare_text(data_config())
    train = Path(first.train_path)
    content = train.read_bytes()
    if damage == "shorter":
        train.write_bytes(content[:-1])
    elif damage == "missing":
        train.unlink()
    else:
        (train.parent / "meta.json").write_text("{")
    assert prepare_text(data_config()) == first
    assert train.read_bytes() == content
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == sorted([first.sha256, "requests"])


def test_one_large_file_is_split_too(tmp_path, data_config):
    (tmp_path / "text").mkdir()
    lines = [f"Line {i} of a long book.\n" + "\n" * (i % 7 == 0) for i in range(80_000)]
    (tmp_path / "text" / "book.txt").write_text("".join(lines))
    text = prepare_text(data_config())
    assert "pieces" in text.description
    share = text.validation_tokens / (text.train_tokens + text.validation_tokens)
    assert 0.08 < share <= 0.11
    train, validation = read_documents(text.train_path), read_documents(text.validation_path)
    assert sorted("".join(train + validation)) == sorted("".join(lines))
    assert set(train).isdisjoint(validation)


def test_max_bytes_caps_the_text(tmp_path, data_config):
    write_files(tmp_path / "text")
    text = prepare_text(data_config(max_bytes=5000))
    documents = read_documents(text.train_path) + read_documents(text.validation_path)
    assert sum(map(len, documents)) == 5000


def test_tables_give_the_same_tokens_as_each_other(tmp_path, data_config):
    rows = [{"id": i, "body": f"Row {i}. " * 20} for i in range(60)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a [1].parquet")
    names = ("a.jsonl", "a.json", "a [1].parquet")
    texts = [prepare_text(data_config(paths=[str(tmp_path / name)], text_column="body")) for name in names]
    assert len({text.sha256 for text in texts}) == 1
    documents = read_documents(texts[0].train_path) + read_documents(texts[0].validation_path)
    assert sorted(documents) == sorted(row["body"] for row in rows)


@pytest.fixture
def tokenizer_folder(tmp_path) -> str:
    """A tokenizer of words, trained here and saved as `save_pretrained` does."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "<eos>"])
    tokenizer.train_from_iterator([f"Document {i}." for i in range(100)], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<eos>")
    fast.save_pretrained(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


def test_a_saved_tokenizer(tmp_path, data_config, tokenizer_folder):
    from transformers import AutoTokenizer

    texts = write_files(tmp_path / "text")
    text = prepare_text(data_config(tokenizer=tokenizer_folder))
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    assert text.vocabulary_size == len(tokenizer)
    dtype = np.uint8 if text.vocabulary_size <= 256 else np.uint16
    ids = np.fromfile(text.train_path, dtype=dtype)
    assert len(ids) == text.train_tokens
    assert ids[-1] == tokenizer.eos_token_id
    decoded = [tokenizer.decode(part[:-1]) for part in np.split(ids, np.flatnonzero(ids == ids[-1]) + 1)[:-1]]
    train = [t for t in texts if tokenizer.decode(tokenizer.encode(t)) in decoded]
    assert len(train) == len(decoded)
    assert text.bytes_per_token > 1
    assert text.sha256 != prepare_text(data_config()).sha256


def test_a_validation_set_of_its_own_is_held_out_and_never_trained_on(tmp_path, data_config):
    texts = write_files(tmp_path / "text")
    held = [texts[5], "Only held out. " * 9, texts[7]]
    (tmp_path / "held.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in held))
    text = prepare_text(data_config(validation_paths=[str(tmp_path / "held.jsonl")]))
    assert read_documents(text.validation_path) == held
    assert read_documents(text.train_path) == [t for t in texts if t not in held]
    capped = prepare_text(
        data_config(validation_paths=[str(tmp_path / "held.jsonl")], max_validation_bytes=100)
    )
    assert read_documents(capped.validation_path) == [texts[5], held[1][: 100 - len(texts[5])]]
    assert len({text.sha256, capped.sha256, prepare_text(data_config()).sha256}) == 3
    (tmp_path / "empty.txt").write_text(" ")
    assert "empty.txt holds no text" in refusal(data_config(validation_paths=[str(tmp_path / "empty.txt")]))


def test_a_bpe_made_from_the_text(tmp_path, data_config):
    from carbs_scaling.training.saved_model import load_tokenizer

    texts = [text + "<|endoftext|> löst" for text in write_files(tmp_path / "text")]
    for number, text in enumerate(texts):
        (tmp_path / "text" / f"{number:03}.txt").write_text(text)
    text = prepare_text(data_config(tokenizer="bpe", vocabulary_size=300))
    assert 270 <= text.vocabulary_size <= 300
    assert text.bytes_per_token > 2
    tokenizer = load_tokenizer(text.tokenizer)  # as it is saved with a model
    documents = []
    for path in (text.train_path, text.validation_path):
        ids = np.fromfile(path, dtype=np.uint16)
        ends = np.flatnonzero(ids == tokenizer.eos_token_id) + 1
        assert ends[-1] == len(ids)
        documents += [tokenizer.decode(part[:-1]) for part in np.split(ids, ends)[:-1]]
    assert sorted(documents) == sorted(texts)  # what spells the end of a text in a document does not end it
    elsewhere = data_config(tokenizer="bpe", vocabulary_size=300, cache_directory=str(tmp_path / "cache2"))
    assert prepare_text(elsewhere).sha256 == text.sha256


def test_standard_library(data_config):
    text = prepare_text(data_config(source="stdlib"))
    assert text.description.startswith("standard library of Python 3.")
    assert text.train_tokens > 1e6
    assert 0.09 < text.validation_tokens / (text.train_tokens + text.validation_tokens) < 0.11


def test_cache_folder_is_the_first_one_named(data_config, monkeypatch, tmp_path):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "b"))
    assert cache_folder(data_config(cache_directory=str(tmp_path / "a"))) == tmp_path / "a"
    assert cache_folder(data_config(cache_directory=None)) == tmp_path / "b"
    monkeypatch.delenv(CACHE_VARIABLE)
    assert cache_folder(data_config(cache_directory=None)) == Path("~/.cache/carbs_scaling").expanduser()


def test_missing_files_are_named(tmp_path, data_config):
    assert "there is no file nowhere.txt" in refusal(data_config(paths=["nowhere.txt"]))
    assert "no file matches the pattern" in refusal(data_config(paths=[str(tmp_path / "*.txt")]))
    (tmp_path / "empty").mkdir()
    assert "holds no files" in refusal(data_config(paths=[str(tmp_path / "empty")]))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "holds no text"),
        ("a.txt", b" \n\n ", "holds no text"),
        ("a.txt", b"one short document", "too few to train on"),
        ("a.txt", b"caf\xe9", "is not UTF-8 text"),
        ("a.txt", b"\0\1\2", "is a binary file"),
        ("a.jsonl", b'{"text": "x"}\n{"text": ', "cannot read"),
        ("a.jsonl", b'{"body": "x", "id": 1}\n', "no column 'text': set data.text_column to one of body, id"),
        ("a.jsonl", b'{"text": 3}\n', "holds int, not text"),
        ("a.json", b"not json", "cannot read"),
        ("a.parquet", b"PAR1 but no more", "cannot read"),
        ("a.parquet", b"", "cannot read"),
    ],
)
def test_unusable_files_are_refused_in_one_line(tmp_path, data_config, name, content, message):
    (tmp_path / name).write_bytes(content)
    said = refusal(data_config(paths=[str(tmp_path / name)]))
    assert message in said
    assert name in said
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == []


def test_unknown_tokenizer(tmp_path, data_config, monkeypatch):
    write_files(tmp_path / "text")
    monkeypatch.setattr("carbs_scaling.data.hub.hub_in_reach", lambda: False)
    assert "cannot load the tokenizer 'no/such'" in refusal(data_config(tokenizer="no/such"))


def test_hub_out_of_reach_is_said_at_once(data_config, monkeypatch):
    monkeypatch.setattr("carbs_scaling.data.hub.hub_in_reach", lambda: False)
    for streaming in (False, True):
        said = refusal(
            data_config(
                source="hub",
                name="allenai/c4",
                subset="en",
                streaming=streaming,
                max_validation_bytes=1000,
            )
        )
        assert "cannot be reached for allenai/c4 en" in said


@pytest.mark.network
def test_hub_data_set(data_config):
    from carbs_scaling.data.hub import hub_in_reach

    if not hub_in_reach():
        pytest.skip("the data set hub is out of reach")
    config = data_config(
        source="hub",
        name="roneneldan/TinyStories",
        streaming=True,
        validation_split="validation",
        max_validation_bytes=10_000,
    )
    text = prepare_text(config)
    assert text.validation_tokens >= 10_000
    assert training_windows(text, 64).read(np.arange(4)).shape == (4, 65)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "no space left for the token files"),
        (errno.EROFS, "cannot write the token files"),
        (errno.EACCES, "cannot write the token files"),
    ],
)
def test_a_full_or_read_only_cache_says_how_to_change_it(tmp_path, data_config, monkeypatch, code, message):
    write_files(tmp_path / "text")

    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(data, "_write_tokens", fail)
    said = refusal(data_config())
    assert message in said
    assert str(tmp_path / "cache") in said
    assert "data.cache_directory=" in said
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_folder_that_is_a_file(tmp_path, data_config):
    write_files(tmp_path / "text")
    (tmp_path / "cache").write_text("")
    assert "data.cache_directory=" in refusal(data_config())
