"""The file format of the spool: records in segments. Bytes in, records out; no file is opened here.

A segment is a file `<generation>-<first sequence>-<stream>.segment` of records, one behind the other:

    header: magic 4s, version B, 3 bytes 0, length I, readings I, sequence Q, time_us q, sha256 32s, payload CRC I,
             CRC I
    payload: one gzip member, the batch line with its line end

The payload is shipped as it stands. The header has a CRC of its own, so that a record with a damaged payload still says
which sequence was lost; the reader looks for the next magic behind any damage, so that one bad byte loses one record.
The SHA-256 is that of the line: a receipt is checked without inflating anything.
"""

from __future__ import annotations

import dataclasses
import gzip
import re
import struct
import zlib
from collections.abc import Iterator

MAGIC = b"\xabWM\x01"  # 0xab begins no gzip member and no UTF-8 character
VERSION = 1
_HEADER = struct.Struct(">4sB3xIIQq32sI")
_CRC = struct.Struct(">I")
HEADER_BYTES = _HEADER.size + _CRC.size
MAX_PAYLOAD_BYTES = 32 << 20
_NAME = re.compile(r"(\d{6})-(\d{19})-([0-9a-f]{32})\.segment")


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """One batch as it lies in the spool; `member` is the gzip member of its line and line end."""

    stream: str
    sequence: int
    time_us: int
    readings: int
    sha256: str
    member: bytes

    def line(self) -> bytes:
        """The batch line, without its line end."""
        return gzip.decompress(self.member).removesuffix(b"\n")


@dataclasses.dataclass(frozen=True, slots=True)
class Damage:
    """Bytes that are no record; `sequence` is known when the header survived."""

    offset: int
    sequence: int | None


def segment_name(generation: int, first_sequence: int, stream: str) -> str:
    return f"{generation:06d}-{first_sequence:019d}-{stream}.segment"


def parse_name(name: str) -> tuple[int, int, str] | None:
    """(generation, first sequence, stream) of a segment's name, None for any other name."""
    found = _NAME.fullmatch(name)
    return (int(found[1]), int(found[2]), found[3]) if found else None


def pack_member(line: bytes) -> bytes:
    """The gzip member of a line and its line end: level 1, no name, no time, so that equal lines are equal bytes."""
    return gzip.compress(line + b"\n", compresslevel=1, mtime=0)


def pack_record(record: Record) -> bytes:
    header = _HEADER.pack(
        MAGIC,
        VERSION,
        len(record.member),
        record.readings,
        record.sequence,
        record.time_us,
        bytes.fromhex(record.sha256),
        zlib.crc32(record.member),
    )
    return b"".join((header, _CRC.pack(zlib.crc32(header)), record.member))


def read_records(data: bytes, stream: str, offset: int = 0) -> Iterator[tuple[int, int, Record] | Damage]:
    """Every record that is whole, as (start, end, record), and every stretch that is not, in file order.

    `offset` is where in `data` to begin. Never raises on any content.
    """
    size = len(data)
    while offset < size:
        header = _header_at(data, offset)
        if header is not None:
            length, readings, sequence, time_us, digest, payload_crc = header
            begin = offset + HEADER_BYTES
            end = begin + length
            member = data[begin:end]
            if end <= size and zlib.crc32(member) == payload_crc:
                yield offset, end, Record(stream, sequence, time_us, readings, digest.hex(), member)
                offset = end
                continue
            yield Damage(offset, sequence)
        else:
            yield Damage(offset, None)
        offset = _next_header(data, offset + 1)


def first_time_us(data: bytes) -> int | None:
    """When the first record was taken, from the first bytes of a segment; None if its header is damaged."""
    header = _header_at(data, 0)
    return header[3] if header else None


def _header_at(data: bytes, offset: int) -> tuple[int, int, int, int, bytes, int] | None:
    if data[offset : offset + 4] != MAGIC or len(data) - offset < HEADER_BYTES:
        return None
    (crc,) = _CRC.unpack_from(data, offset + _HEADER.size)
    if zlib.crc32(data[offset : offset + _HEADER.size]) != crc:
        return None
    _, version, length, readings, sequence, time_us, digest, payload_crc = _HEADER.unpack_from(data, offset)
    if version != VERSION or length > MAX_PAYLOAD_BYTES:
        return None
    return length, readings, sequence, time_us, digest, payload_crc


def _next_header(data: bytes, offset: int) -> int:
    while (offset := data.find(MAGIC, offset)) >= 0:
        if _header_at(data, offset) is not None:
            return offset
        offset += 1
    return len(data)
