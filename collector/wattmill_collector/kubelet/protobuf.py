"""Reads protobuf messages field by field, without a schema: as much of the encoding as one small answer needs.

Does not write messages, and does not check that a field has the type that its reader expects: `text` and `fields` do.
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
LONGEST_VARINT = 10


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) in the order of the message: an integer, or bytes for texts and messages.

    Fixed-width values are bytes too. Errors: ValueError when the message is not protobuf.
    """
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == BYTES:
            length, at = _varint(message, at)
        elif kind in (FIXED64, FIXED32):
            length = 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"field {number} has the unknown wire type {kind}")
        if at + length > end:
            raise ValueError(f"field {number} ends beyond its message")
        yield number, message[at : at + length]
        at += length


def message(value: int | memoryview) -> memoryview:
    """A field that must be a message or bytes. Errors: ValueError."""
    if isinstance(value, int):
        raise ValueError("a number stands where a message should")
    return value


def text(value: int | memoryview) -> str:
    """A field that must be a text. Errors: ValueError."""
    return str(message(value), "utf-8")


def _varint(buffer: memoryview, at: int) -> tuple[int, int]:
    """Seven bits a byte, lowest first; the highest bit says that more follow."""
    value = 0
    for shift, byte in enumerate(buffer[at : at + LONGEST_VARINT]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, at + shift + 1
    raise ValueError("a number does not end")
