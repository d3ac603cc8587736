"""Labelled examples: digits, GLUE's files, tables, image folders, and what is wrong with broken ones."""

import json

import numpy as np
import pytest

from carbs_scaling.data.example_encoding import InputForm, TextEncoder
from carbs_scaling.data.examples import Examples, prepare_examples
from carbs_scaling.data.examples_config import ExamplesConfig
from carbs_scaling.data.stdlib_lines import KINDS, LINES_A_KIND, stdlib_lines
from carbs_scaling.errors import CarbsScalingError

TEXTS = InputForm(16)


def config(**changes):
    fields = {
        "source": "files", "paths": [], "validation_paths": [], "name": None, "subset": None,
        "split": "train", "validation_split": None, "revision": None, "text_column": None,
        "pair_column": None, "image_column": "image", "label_column": None, "max_examples": None,
        "tokenizer": "bytes", "validation_fraction": 0.2, "cache_directory": None,
    }  # fmt: skip
    return ExamplesConfig(**fields | changes)


def test_digits_are_the_embedded_images():
    pytest.importorskip("sklearn", reason="digits are scikit-learn's")
    form = InputForm(17, image_size=8, channels=1)
    found = prepare_examples(config(source="digits"), form)
    assert found.train_examples + found.validation_examples == 1797
    assert found.classes == tuple("0123456789")
    rows = Examples(found, "train").read(np.arange(3))
    assert rows.shape == (3, 65)
    assert rows[:, :-1].min() == -1
    assert rows[:, :-1].max() == 1
    assert prepare_examples(config(source="digits"), form) == found


def test_lines_of_the_library_are_the_embedded_texts():
    lines = stdlib_lines()
    assert lines["sentence"].is_unique
    assert set(lines["label"].value_counts().items()) == {(kind, LINES_A_KIND) for kind in KINDS}
    # What a kind is known by without reading the line is gone.
    assert not lines[lines["label"] != "code"]["sentence"].str.contains(r'^[#"]|["\s]$').any()
    code = set(lines[lines["label"] == "code"]["sentence"])
    assert any(line.startswith("def ") for line in code)
    assert not any(line.startswith("#") for line in code)


def glue(folder, pairs=False, dev=True):
    """Rows as GLUE writes them, a quotation mark among them that is never closed."""
    folder.mkdir(exist_ok=True)
    head = "index\tquestion\tsentence\tlabel" if pairs else "sentence\tlabel"
    for name, count in (("train", 20), ("dev", 6)) if dev else (("train", 40),):
        lines = [
            f'{i}\twhat is {i}\t{i} is "it\tentailment' if pairs else f'line {i} said "so\t{i % 2}'
            for i in range(count)
        ]
        lines[1] = lines[1].replace("entailment", "not_entailment")
        (folder / f"{name}.tsv").write_text("\n".join([head, *lines]) + "\n")
    return str(folder)


def test_a_glue_folder_has_its_own_held_out_examples(tmp_path):
    found = prepare_examples(config(paths=[glue(tmp_path / "SST-2")]), TEXTS)
    assert (found.train_examples, found.validation_examples, found.classes) == (20, 6, ("0", "1"))
    row = Examples(found, "train").read(np.array([3]))[0]
    assert bytes(row[:16].tolist()).rstrip(b"\0") == b'line 3 said "so'
    assert row[-1] == 1
    shared = prepare_examples(config(paths=[glue(tmp_path / "one", dev=False)]), TEXTS)
    assert shared.train_examples + shared.validation_examples == 40
    assert shared.validation_examples > 0


def test_only_the_file_of_cola_has_no_line_of_names(tmp_path):
    (tmp_path / "cola.tsv").write_text("".join(f"gj04\t{i % 2}\t\tsentence {i}\n" for i in range(40)))
    names = "id\treview\tstars\tday\n"
    (tmp_path / "own.tsv").write_text(names + "".join(f"{i}\tfilm {i}\t{i % 3}\tMo\n" for i in range(40)))
    for name, classes, changes in (
        ("cola", ("0", "1"), {}),
        ("own", ("0", "1", "2"), {"text_column": "review", "label_column": "stars"}),
    ):
        found = prepare_examples(config(paths=[str(tmp_path / f"{name}.tsv")], **changes), TEXTS)
        assert found.classes == classes
        assert found.train_examples + found.validation_examples == 40


def test_pairs_have_types_and_are_cut_evenly(tmp_path):
    found = prepare_examples(config(paths=[glue(tmp_path / "QNLI", pairs=True)]), InputForm(24))
    assert found.classes == ("entailment", "not_entailment")
    row = Examples(found, "train").read(np.array([7]))[0]
    assert bytes(row[:24].tolist()).rstrip(b"\0") == b'what is 7\x007 is "it'
    assert row[24:48].tolist() == [0] * 10 + [1] * 8 + [0] * 6
    long = TextEncoder("bytes", InputForm(8))([["aaaaaaaaaa"], ["bbbbbbbb"]], ["a", "b"])[0]
    assert bytes(long[:8].tolist()) == b"aaa\0bbb\0"


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_any_columns_of_a_table(tmp_path, suffix):
    import pandas as pd

    frame = pd.DataFrame({"review": ["good", "bad, really"] * 20, "stars": [5, 1] * 20})
    file = tmp_path / f"rows.{suffix}"
    if suffix == "csv":
        frame.to_csv(file, index=False)
    elif suffix == "jsonl":
        file.write_text("\n".join(json.dumps(row) for row in frame.to_dict("records")))
    else:
        frame.to_parquet(file)
    asked = config(
        paths=[str(file)], validation_paths=[str(file)], text_column="review", label_column="stars"
    )
    found = prepare_examples(asked, TEXTS)
    assert found.classes == ("1", "5")
    assert found.train_examples == found.validation_examples == 40


def image_folder(folder, broken=False):
    from PIL import Image

    for name, grey in (("dark", 20), ("light", 230)):
        (folder / name).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (12, 9), (grey + i, grey, grey)).save(folder / name / f"{i}.png")
    if broken:
        (folder / "dark" / "10.png").write_bytes(b"no image")
    return str(folder)


def test_a_folder_of_images_has_a_class_a_folder(tmp_path):
    pytest.importorskip("PIL", reason="images are read by pillow")
    form = InputForm(5, image_size=4, channels=1)
    found = prepare_examples(config(source="dataset", name=image_folder(tmp_path / "images")), form)
    assert found.classes == ("dark", "light")
    assert found.train_examples + found.validation_examples == 20
    rows = Examples(found, "train").read(np.arange(found.train_examples))
    assert set(rows[rows[:, -1] == 0][:, :16].flatten().sign().tolist()) == {-1}
    with pytest.raises(CarbsScalingError, match=r"cannot|image") as error:
        prepare_examples(config(source="dataset", name=image_folder(tmp_path / "broken", broken=True)), form)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "changes", "said"),
    [
        ("sentence\tlabel\na\t1\nb\t1\n", {}, "all examples are of one class, '1'"),
        ("sentence\tlabel\na\t1\nb\t\n", {}, "row 2 has no label"),
        (
            "sentence\tscore\na\t1\nb\t0\n",
            {},
            "data.label_column=... must name the column of labels; there are sentence, score",
        ),
        ("words\tlabel\na\t1\nb\t0\n", {}, "data.text_column=... must name a column"),
        ("sentence\tlabel\na\t1\nb\t0\n", {"text_column": "body"}, "no column 'body'"),
        ("sentence\tlabel\na\t1.25\nb\t0.5\n", {}, "is a measurement"),
        ("sentence\tlabel\na\t1\nb\t0\tc\td\n", {}, "cannot read"),
        ("sentence\tlabel\n", {}, "no rows"),
        ("a\tb\tc\td\n1\t2\t3\t4\n", {}, "must name the column of labels; there are a, b, c, d"),
    ],
)
def test_a_broken_table_is_refused_in_one_line(tmp_path, content, changes, said):
    file = tmp_path / "rows.tsv"
    file.write_text(content)
    with pytest.raises(CarbsScalingError) as error:
        prepare_examples(config(paths=[str(file)], **changes), TEXTS)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_training_file_and_a_missing_file_are_refused(tmp_path):
    for path, said in ((tmp_path, "has no file train.tsv"), (tmp_path / "a.csv", "there is no file")):
        with pytest.raises(CarbsScalingError, match=said):
            prepare_examples(config(paths=[str(path)]), TEXTS)
