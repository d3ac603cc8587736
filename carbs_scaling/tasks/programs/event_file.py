"""Scalars of TensorBoard's event files, read without TensorBoard.

A file is a row of TFRecords: length (8 bytes), its checksum (4), an `Event` message, its checksum (4). Of the
message's protocol-buffer fields, those of scalars are read:
https://github.com/tensorflow/tensorboard/tree/master/tensorboard/compat/proto (event, summary, tensor).
"""

import struct
from collections.abc import Iterator

LONGEST_RECORD = 1 << 20  # bytes; a scalar takes some tens
HEAD, CHECKSUM = 12, 4
EVENT_STEP, EVENT_SUMMARY = 2, 5
SUMMARY_VALUE = 1
VALUE_TAG, VALUE_SIMPLE, VALUE_TENSOR = 1, 2, 8
TENSOR_TYPE, TENSOR_CONTENT, TENSOR_FLOATS, TENSOR_DOUBLES = 1, 4, 5, 6
FLOAT, DOUBLE = 1, 2  # tensor types


class BrokenRecord(ValueError):
    """Bytes that are no event file."""


def records(data: bytes) -> tuple[list[bytes], int]:
    """The whole records at the start of `data`, and how many bytes they take.

    Raises:
        BrokenRecord: a record of an impossible length.
    """
    found, at = [], 0
    while at + HEAD <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        if length > LONGEST_RECORD:
            raise BrokenRecord(f"a record of {length} bytes")
        end = at + HEAD + length + CHECKSUM
        if end > len(data):
            break
        found.append(data[at + HEAD : at + HEAD + length])
        at = end
    return found, at


def scalars(record: bytes) -> tuple[int, dict[str, float]]:
    """The step of an event, and its scalars by tag.

    Raises:
        BrokenRecord: no event.
    """
    step, values = 0, {}
    for number, content in _fields(record):
        if number == EVENT_STEP and isinstance(content, int):
            step = content
        elif number == EVENT_SUMMARY and isinstance(content, bytes):
            for inner, value in _fields(content):
                if inner == SUMMARY_VALUE and isinstance(value, bytes):
                    tag, scalar = _tagged(value)
                    if scalar is not None:
                        values[tag] = scalar
    return step, values


def _tagged(message: bytes) -> tuple[str, float | None]:
    tag, scalar = "", None
    for number, content in _fields(message):
        if number == VALUE_TAG and isinstance(content, bytes):
            tag = content.decode("utf-8", errors="replace")
        elif number == VALUE_SIMPLE and isinstance(content, bytes) and len(content) == 4:
            scalar = struct.unpack("<f", content)[0]
        elif number == VALUE_TENSOR and isinstance(content, bytes):
            scalar = _tensor(content)
    return tag, scalar


def _tensor(message: bytes) -> float | None:
    """The number of a tensor that holds one."""
    kind, content = FLOAT, b""
    for number, value in _fields(message):
        if number == TENSOR_TYPE and isinstance(value, int):
            kind = value
        elif number in (TENSOR_CONTENT, TENSOR_FLOATS, TENSOR_DOUBLES) and isinstance(value, bytes):
            content = value
    if kind == FLOAT and len(content) == 4:
        return float(struct.unpack("<f", content)[0])
    if kind == DOUBLE and len(content) == 8:
        return float(struct.unpack("<d", content)[0])
    return None


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and contents of the fields of a message: varints as whole numbers, all others as bytes."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == 2:
            length, at = _varint(message, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise BrokenRecord(f"a field of wire type {wire}")
        if at + length > len(message):
            raise BrokenRecord("a field that is cut short")
        yield number, message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise BrokenRecord("a whole number that does not end")
