"""HPACK (RFC 7541): the headers of HTTP/2, as far as one request needs them written and its answer read.

Reading is complete: static and dynamic table, Huffman coding, changes of the table's size. Writing uses the static
table and plain literals only, so that it keeps no state.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

TABLE_BYTES = 4096  # SETTINGS_HEADER_TABLE_SIZE, which this client leaves at its default
ENTRY_BYTES = 32  # what an entry counts beside its name and value
Header = tuple[bytes, bytes]

# RFC 7541, appendix A: name and value of the entries 1 to 61.
_STATIC = """
:authority|:method GET|:method POST|:path /|:path /index.html|:scheme http|:scheme https|:status 200|:status 204|
:status 206|:status 304|:status 400|:status 404|:status 500|accept-charset|accept-encoding gzip, deflate|
accept-language|accept-ranges|accept|access-control-allow-origin|age|allow|authorization|cache-control|
content-disposition|content-encoding|content-language|content-length|content-location|content-range|content-type|
cookie|date|etag|expect|expires|from|host|if-match|if-modified-since|if-none-match|if-range|if-unmodified-since|
last-modified|link|location|max-forwards|proxy-authenticate|proxy-authorization|range|referer|refresh|retry-after|
server|set-cookie|strict-transport-security|transfer-encoding|user-agent|vary|via|www-authenticate
"""
STATIC: tuple[Header, ...] = tuple(
    (name.encode(), value.encode())
    for name, _, value in (entry.partition(" ") for entry in _STATIC.replace("\n", "").split("|"))
)

# RFC 7541, appendix B: the lengths in bits of the codes of the bytes 0 to 255 and of the end of text. The code is
# canonical, so the lengths are all of it.
_LENGTHS = """
    13 23 28 28 28 28 28 28 28 24 30 28 28 30 28 28 28 28 28 28 28 28 30 28 28 28 28 28 28 28 28 28 6 10 10 12
    13 6 8 11 10 10 8 11 8 6 6 6 5 5 5 6 6 6 6 6 6 6 7 8 15 6 12 10 13 6 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7
    7 7 8 7 8 13 19 13 14 6 15 5 6 5 6 5 6 6 6 5 7 7 6 6 6 5 6 7 6 5 5 6 7 7 7 7 7 15 11 14 13 28 20 22 20 20 22
    22 22 23 22 23 23 23 23 23 24 23 24 24 22 23 24 23 23 23 23 21 22 23 22 23 23 24 22 21 20 22 22 23 23 21 23
    22 22 24 21 22 23 23 21 21 22 21 23 22 23 23 20 22 22 22 23 22 22 23 26 26 20 19 22 23 22 25 26 26 26 27 27
    26 24 25 19 21 26 27 27 26 27 24 21 21 26 26 28 27 27 27 20 24 20 21 22 21 21 23 22 22 25 25 24 24 26 23 26
    27 26 26 27 27 27 27 27 28 27 27 27 27 27 26 30
"""
END_OF_TEXT = 256


class Decoder:
    """The reading side of one connection; header blocks must be given to it in the order of their arrival."""

    def __init__(self) -> None:
        self._dynamic: list[Header] = []  # newest first
        self._size = 0
        self._limit = TABLE_BYTES

    def decode(self, block: bytes) -> list[Header]:
        """The headers of one block. Errors: ValueError when it is not HPACK."""
        found: list[Header] = []
        at = 0
        try:
            while at < len(block):
                first = block[at]
                if first & 0x80:
                    index, at = _integer(block, at, 7)
                    found.append(self._entry(index))
                elif first & 0xE0 == 0x20:
                    limit, at = _integer(block, at, 5)
                    if limit > TABLE_BYTES:
                        raise ValueError(f"a header table of {limit} bytes was not agreed on")
                    self._limit = limit
                    self._evict()
                else:
                    kept = bool(first & 0x40)
                    index, at = _integer(block, at, 6 if kept else 4)
                    name, at = (self._entry(index)[0], at) if index else _text(block, at)
                    value, at = _text(block, at)
                    found.append((name, value))
                    if kept:
                        self._dynamic.insert(0, (name, value))
                        self._size += len(name) + len(value) + ENTRY_BYTES
                        self._evict()
        except IndexError:
            raise ValueError("a header block ends too early") from None
        return found

    def _entry(self, index: int) -> Header:
        if index == 0 or index > len(STATIC) + len(self._dynamic):
            raise ValueError(f"there is no header {index} in the table")
        return STATIC[index - 1] if index <= len(STATIC) else self._dynamic[index - len(STATIC) - 1]

    def _evict(self) -> None:
        while self._size > self._limit:
            name, value = self._dynamic.pop()
            self._size -= len(name) + len(value) + ENTRY_BYTES


def encode(headers: Iterable[tuple[str, str]]) -> bytes:
    """One header block. Names in lower case; texts of less than 127 bytes."""
    block = bytearray()
    for name, value in headers:
        header = (name.encode(), value.encode())
        if header in STATIC:
            block.append(0x80 | STATIC.index(header) + 1)
            continue
        block.append(0)  # a literal that nobody has to remember, with its name
        for part in header:
            block.append(len(part))
            block += part
    return bytes(block)


def _integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    full = (1 << bits) - 1
    value = block[at] & full
    at += 1
    if value < full:
        return value, at
    for shift in range(0, 35, 7):
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number in a header block does not end")


def _text(block: bytes, at: int) -> tuple[bytes, int]:
    coded = bool(block[at] & 0x80)
    length, at = _integer(block, at, 7)
    raw = block[at : at + length]
    if len(raw) < length:
        raise ValueError("a text of a header block ends too early")
    return (huffman(raw) if coded else raw), at + length


def huffman(coded: bytes) -> bytes:
    """The text behind a Huffman-coded one. Errors: ValueError."""
    symbols = _symbols()
    found = bytearray()
    code = length = 0
    for byte in coded:
        for bit in range(7, -1, -1):
            code, length = code << 1 | byte >> bit & 1, length + 1
            symbol = symbols.get((length, code))
            if symbol is not None:
                if symbol == END_OF_TEXT:
                    raise ValueError("a coded text contains its end")
                found.append(symbol)
                code = length = 0
    if length > 7 or code != (1 << length) - 1:
        raise ValueError("a coded text is filled up with something else than ones")
    return bytes(found)


@functools.cache
def _symbols() -> dict[tuple[int, int], int]:
    """(length in bits, code) → byte: codes count up within a length, and shorter codes come first."""
    lengths = [int(word) for word in _LENGTHS.split()]
    symbols: dict[tuple[int, int], int] = {}
    code = previous = 0
    for symbol in sorted(range(len(lengths)), key=lambda one: (lengths[one], one)):
        code <<= lengths[symbol] - previous
        previous = lengths[symbol]
        symbols[previous, code] = symbol
        code += 1
    return symbols
