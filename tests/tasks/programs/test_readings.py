"""Values are read of every kind of file, and nothing that a program leaves leads out of its folder."""

import contextlib
import json
import os
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carbs_scaling.errors import ConfigError
from carbs_scaling.tasks.programs.readings import SourceConfig, build_source


def source(file=None, *, format=None, name="loss", pattern=None):
    return build_source("task.metric", SourceConfig(file, format, name, "step", pattern))


def event_file(*events: tuple[int, str, float]) -> bytes:
    """What TensorBoard's writer leaves: a record each, with an event of step and one scalar."""

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    data = b""
    for step, tag, value in events:
        scalar = field(1, tag.encode()) + bytes([2 << 3 | 5]) + struct.pack("<f", value)
        event = (
            bytes([1 << 3 | 1]) + struct.pack("<d", 0.0) + bytes([2 << 3, step]) + field(5, field(1, scalar))
        )
        data += struct.pack("<Q", len(event)) + b"\0\0\0\0" + event + b"\0\0\0\0"
    return data


CONTENTS = {
    "m.json": b'{"loss": 2.5, "step": 7, "accuracy": 0.5}',
    "m.jsonl": b'{"loss": 9, "step": 1}\nnot json\n{"loss": 2.5, "step": 7}',
    "m.csv": b"step,train_loss,loss\n1,9.5,9\n7,,2.5\n",
    "events.out.tfevents.1": event_file((1, "loss", 9.0), (3, "other", 1.0), (7, "loss", 2.5)),
}


@pytest.mark.parametrize("file", CONTENTS)
def test_the_last_value_and_its_step(tmp_path, file):
    (tmp_path / file).write_bytes(CONTENTS[file])
    reading = source(
        "." if "tfevents" in file else file, format="tensorboard" if "tfe" in file else None
    ).last(tmp_path)[-1]
    assert (reading.value, reading.step) == (2.5, 7)
    if file == "m.json":
        assert reading.others["accuracy"] == 0.5


def test_a_file_is_read_while_it_grows(tmp_path):
    for file in ("m.jsonl", "events.out.tfevents.1"):
        content, path = CONTENTS[file], tmp_path / file
        reader = source(file) if file == "m.jsonl" else source(".", format="tensorboard")
        found = []
        for end in range(0, len(content) + 1, 7):
            path.write_bytes(content[:end])
            found += reader.poll(tmp_path)
        path.write_bytes(content)
        assert [r.value for r in [*found, *reader.last(tmp_path)]] == [9, 2.5]


def test_a_pattern_reads_steps_and_what_stands_beside(tmp_path):
    pattern = r"step (?P<step>\d+): train loss (?P<train_loss>\S+), val loss (?P<loss>\S+)"
    (reading,) = source(pattern=pattern).line("step 100: train loss 2.1, val loss 2.3")
    assert (reading.value, reading.step, reading.beside) == (2.3, 100, {"train_loss": 2.1})
    assert source(pattern=pattern).line("step 100: train loss -, val loss -") == []
    reader = source(pattern=r"loss: (\S+)")
    assert [reader.line(f"loss: {text}")[0].value for text in ("2.5,", "2.5;", "\x1b[1m2.5\x1b[0m")] == [
        2.5
    ] * 3
    assert reader.line("loss: 2,5 nats") == []
    assert reader.unread == "2,5"
    with pytest.raises(ConfigError, match="repeats"):
        source(pattern=r"(a|aa)+$").line("a" * 4000 + "b")


def test_links_pipes_and_paths_lead_nowhere(tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_bytes(CONTENTS["m.json"])
    inside = tmp_path / "trial"
    (inside / "real").mkdir(parents=True)
    (inside / "m.json").symlink_to(secret)
    (inside / "linked").symlink_to(tmp_path)
    os.mkfifo(inside / "pipe.json")
    (tmp_path / "events.out.tfevents.1").write_bytes(CONTENTS["events.out.tfevents.1"])
    for file in ("m.json", "linked/secret.json", "pipe.json", "real", "none/m.json"):
        assert source(file, format="json").last(inside) == []
    for folder in (".", "linked"):
        assert source(folder, format="tensorboard").last(inside) == []
    for path in ("../secret.json", "/etc/passwd", "a/../../secret.json", "", "a\0b"):
        with pytest.raises(ConfigError, match="inside the trial's folder"):
            source(path, format="json")


DEEP = b"[" * 20_000
BROKEN = [
    DEEP,
    b'{"loss": ' + b"9" * 5000 + b"}",
    b'{"loss": 1e999}',
    b'{"loss": {"a": []}}',
    b'"' * 99,
    b"\xff\xfe\n",
]
BROKEN += [struct.pack("<Q", 2**63), struct.pack("<Q", 30) + b"\x12" * 64, *CONTENTS.values()]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(BROKEN) | st.binary(max_size=40), max_size=4).map(b"".join),
    st.sampled_from([*CONTENTS]),
)
def test_whatever_a_program_writes_is_a_number_or_nothing(tmp_path, content, file):
    (tmp_path / file).write_bytes(content)
    reader = source("." if "tfevents" in file else file, format="tensorboard" if "tfe" in file else None)
    for reading in [*reader.poll(tmp_path), *reader.last(tmp_path)]:
        assert isinstance(reading.value, float)
        json.dumps(reading.others, allow_nan=False)


PATTERN_PARTS = [
    "(",
    ")",
    "*",
    "+",
    "?",
    "{9999}",
    "[",
    "]",
    "\\",
    "|",
    "(?P<loss>",
    "a",
    ".",
    "(a+)+",
    "(?R)",
    "^",
    "$",
]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(PATTERN_PARTS), max_size=8).map("".join),
    st.sampled_from(["a" * 60 + "b", "1.5", "é" * 99]),
)
def test_any_pattern_ends_in_time_or_is_refused_in_one_line(pattern, text):
    with contextlib.suppress(ConfigError):
        assert all(isinstance(reading.value, float) for reading in source(pattern=pattern).line(text))
