"""From the bytes of a post to batches that can be stored: inflate, split, decode, check. Pure: no database, no clock.

Whatever arrives, the outcome is a batch, a rejection that names the field, or an error of the whole post; never an
exception of some other kind. Limits are those of `Limits`; nothing is allocated past them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec

from wattmill_api.errors import TooLarge, Undecodable
from wattmill_api.store.ingest import ParsedBatch
from wattmill_collector.wire import EngineReading, Reading, Receipt, Rejection, WireError, decode_header, decode_reading

_CHUNK = 256 * 1024
_ODD = (b"\\", b"\t", b"\r", b"\n", b" :")
_CONTAINERS = frozenset({dict, list})
_AHEAD_US = 5 * 60 * 1_000_000  # a clock further ahead than this is wrong, not early


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """The largest post that is read."""

    compressed_bytes: int = 4 * 1024**2
    inflated_bytes: int = 32 * 1024**2
    ratio: int = 100
    ratio_from_bytes: int = 1024**2
    readings: int = 10_000
    batches: int = 10_000
    digits: int = 40


LIMITS = Limits()


@dataclasses.dataclass(frozen=True, slots=True)
class Post:
    """One post, line by line: each is a batch to store or the receipt that refuses it."""

    lines: tuple[ParsedBatch | Receipt, ...]

    @property
    def batches(self) -> list[ParsedBatch]:
        return [line for line in self.lines if isinstance(line, ParsedBatch)]

    @property
    def readings(self) -> int:
        return sum(len(batch.readings) for batch in self.batches)


def parse_post(body: bytes, *, gzipped: bool, now_us: int, oldest_us: int, limits: Limits = LIMITS) -> Post:
    """Everything of one post. Errors: Undecodable, TooLarge; trouble of one line is in its receipt.

    `oldest_us`: readings before it would be dropped by retention at once, so they are refused instead.
    """
    if gzipped:
        body = inflate(body, limits)
    elif len(body) > limits.inflated_bytes:
        raise _too_large("body", f"has more than {limits.inflated_bytes} bytes")
    lines = split(body)
    if not lines:
        raise _undecodable("has no batch in it: send one JSON object a line")
    if len(lines) > limits.batches:
        raise _too_large("body", f"has more than {limits.batches} batches; send them in several posts")
    parsed: list[ParsedBatch | Receipt] = []
    readings = 0
    for line in lines:
        result = parse_line(line, now_us=now_us, oldest_us=oldest_us, digits=limits.digits)
        if isinstance(result, ParsedBatch):
            readings += len(result.readings)
            if readings > limits.readings:
                raise _too_large("readings", f"are more than {limits.readings} in one post; send them in several")
        parsed.append(result)
    return Post(tuple(parsed))


def _undecodable(reason: str) -> Undecodable:
    return Undecodable(f"body: {reason}", faults=[{"field": "body", "reason": reason}])


def _too_large(field: str, reason: str) -> TooLarge:
    return TooLarge(f"{field}: {reason}", faults=[{"field": field, "reason": reason}])


def inflate(body: bytes, limits: Limits = LIMITS) -> bytes:
    """The contents of one or more gzip members, one behind the other. Errors: Undecodable, TooLarge."""
    out = bytearray()
    rest = body
    while rest:
        member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        pending = rest
        while not member.eof:
            try:
                out += member.decompress(pending, _CHUNK)
            except zlib.error as error:
                raise _undecodable("is not gzip, though Content-Encoding says so") from error
            _check_size(len(out), len(body), limits)
            if not member.eof and not member.unconsumed_tail and len(pending) == 0:
                raise _undecodable("ends in the middle of a gzip member")
            pending = member.unconsumed_tail
        rest = member.unused_data
    return bytes(out)


def _check_size(inflated: int, compressed: int, limits: Limits) -> None:
    if inflated > limits.inflated_bytes:
        raise _too_large("body", f"inflates to more than {limits.inflated_bytes} bytes")
    if inflated > limits.ratio_from_bytes and inflated > limits.ratio * compressed:
        raise _too_large("body", f"inflates to more than {limits.ratio} times its size")


def split(body: bytes) -> list[bytes]:
    """The lines of a post without their line ends. A body that is one JSON object over several lines is one line."""
    lines = [line for line in (raw.rstrip(b"\r") for raw in body.split(b"\n")) if line.strip()]
    if len(lines) > 1 and not _is_object(lines[0]):
        whole = body.strip()
        if _is_object(whole):
            return [whole]
    return lines


def _is_object(text: bytes) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _sha256(line: bytes) -> bytes:
    """The hash, in pieces below 2 KiB: for larger ones hashlib gives the interpreter lock away, and gets it back only
    when the other threads of a busy service let it, milliseconds later and for every line."""
    digest = hashlib.sha256()
    for start in range(0, len(line), 2047):
        digest.update(line[start : start + 2047])
    return digest.digest()


def parse_line(line: bytes, *, now_us: int, oldest_us: int, digits: int = LIMITS.digits) -> ParsedBatch | Receipt:
    """One line: a batch with its good readings and why others were refused, or the receipt that refuses it all."""
    sha256 = _sha256(line)
    document: Any = None
    try:
        document, faults = decode_json(line, digits)
        for fault in faults:
            if fault.index < 0:
                raise WireError(fault.field, fault.reason)
        stream, sequence, time_us, node, wires = decode_header(document)
    except WireError as error:
        return _refused(document, sha256, error)
    late = _time_trouble(time_us, now_us, oldest_us)
    if late is not None:
        return ParsedBatch(stream, sequence, time_us, node, (), sha256, (late,))
    readings: list[tuple[int, Reading]] = []
    faulty = {fault.index: fault for fault in faults}
    rejections: list[Rejection] = []
    for index, wire in enumerate(wires):
        if index in faulty:
            rejections.append(faulty[index])
            continue
        try:
            reading = decode_reading(wire, f"readings[{index}]")
            if isinstance(reading, EngineReading):
                _check_shares(reading, f"readings[{index}]")
            readings.append((index, reading))
        except WireError as error:
            rejections.append(Rejection(index, storable(error.field), storable(error.reason)))
    return ParsedBatch(stream, sequence, time_us, node, readings, sha256, rejections)


def _check_shares(reading: EngineReading, place: str) -> None:
    """Parts of boards say nothing unless it is clear of which."""
    if reading.accelerator_shares_ppm and len(reading.accelerator_shares_ppm) != len(reading.accelerators):
        raise WireError(f"{place}.accelerator_shares_ppm", "must be empty or have one entry for each of accelerators")


def _time_trouble(time_us: int, now_us: int, oldest_us: int) -> Rejection | None:
    if time_us > now_us + _AHEAD_US:
        return Rejection(-1, "time_us", "lies more than 5 minutes in the future; set the clock of this node")
    if time_us < oldest_us:
        return Rejection(-1, "time_us", "is older than raw samples are kept")
    return None


def _refused(document: Any, sha256: bytes, error: WireError) -> Receipt:
    """The receipt of a line that can't be stored at all, with as much of its identity as can be read."""
    stream, sequence = "", 0
    if isinstance(document, dict):
        if isinstance(document.get("stream"), str):
            stream = storable(document["stream"][:64])
        if type(document.get("sequence")) is int and 0 <= document["sequence"] < 2**63:
            sequence = document["sequence"]
    rejection = Rejection(-1, storable(error.field), storable(error.reason))
    return Receipt(stream=stream, sequence=sequence, sha256=sha256.hex(), status="rejected", rejected=(rejection,))


def storable(text: str) -> str:
    """Text out of a request, made safe to store and to answer: no NUL, no half surrogate pair."""
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()


def decode_json(line: bytes, digits: int = LIMITS.digits) -> tuple[Any, list[Rejection]]:
    """Strict JSON, and what is wrong inside it: NaN, duplicate keys, numbers of absurd length, each by its field.

    What stands in a reading is wrong with that reading alone; index -1 is all else. Errors: WireError when the line
    can't be parsed at all.

    A key given twice would let two readers of one batch disagree about what it says. msgspec does not see it, so keys
    are counted as written: without escapes, `":` ends a key and nothing else, unless there is space between the two.
    Whatever is odd goes to the slow decoder.
    """
    try:
        document = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _decode_odd(line, digits)
    if any(map(line.__contains__, _ODD)) or line.count(b'":') != _keys(document):
        return _decode_odd(line, digits)
    return document, []


def _keys(document: Any) -> int:
    """How many keys all objects of a document have."""
    count, unseen = 0, [document]
    while unseen:
        value = unseen.pop()
        if type(value) is dict:
            count += len(value)
            unseen += [v for v in value.values() if type(v) in _CONTAINERS]
        elif type(value) is list:
            unseen += [v for v in value if type(v) in _CONTAINERS]
    return count


class _Unusable:
    """Stands where a line has a number that is none."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason


class _Ambiguous(dict[str, Any]):
    """An object that gave `key` more than once; such keys are left out, for nobody knows which one was meant."""

    key: str


def _decode_odd(line: bytes, digits: int) -> tuple[Any, list[Rejection]]:
    """The standard library's decoder, ten times slower, can say what is wrong with a line."""

    def integer(text: str) -> int | _Unusable:
        return int(text) if len(text) <= digits else _Unusable("must be an integer of at most 64 bits")

    try:
        document = json.loads(
            line.decode(),
            object_pairs_hook=_object,
            parse_int=integer,
            parse_float=_real,
            parse_constant=_constant,
        )
    except UnicodeDecodeError as error:
        raise WireError("batch", f"must be UTF-8; byte {error.start} is not") from None
    except RecursionError:
        raise WireError("batch", "is nested too deeply") from None
    except ValueError as error:
        raise WireError("batch", f"must be JSON: {error}") from None
    return document, list(_faults(document))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    decoded = dict(pairs)
    if len(decoded) == len(pairs):
        return decoded
    counts = Counter(key for key, _ in pairs)
    ambiguous = _Ambiguous((key, value) for key, value in decoded.items() if counts[key] == 1)
    ambiguous.key = next(key for key, count in counts.items() if count > 1)
    return ambiguous


def _real(text: str) -> float | _Unusable:
    value = float(text)
    return value if math.isfinite(value) else _Unusable("is larger than any number that can be stored")


def _constant(text: str) -> _Unusable:
    return _Unusable(f"is {text}, which is not a number; leave out what is not known")


def _faults(document: Any) -> Iterator[Rejection]:
    """What is wrong inside a decoded document: the first fault of its header, its node and each of its readings."""
    header = document if isinstance(document, dict) else {}
    readings = header.get("readings")
    parts: list[tuple[int, str, Any]] = [(-1, "", document), (-1, "node", header.get("node"))]
    parts += [(i, f"readings[{i}]", r) for i, r in enumerate(readings if isinstance(readings, list) else ())]
    for index, place, part in parts:
        dot = f"{place}." if place else ""
        if isinstance(part, _Ambiguous):
            yield Rejection(index, storable(f"{dot}{part.key[:64]}"), "is given twice in one object")
            continue
        fields = part.items() if isinstance(part, dict) else [(None, part)]
        for name, value in fields:
            if part is header and name in ("node", "readings"):
                continue
            reason = _fault(value)
            if reason:
                yield Rejection(index, storable(place or "batch" if name is None else f"{dot}{name[:64]}"), reason)
                break


def _fault(value: Any) -> str:
    """Why a value can't be used, however deep in it the reason lies; "" when it can."""
    unseen = [value]
    while unseen:
        value = unseen.pop()
        if isinstance(value, _Unusable):
            return value.reason
        if isinstance(value, _Ambiguous):
            return f"has the key {storable(value.key[:64])!r} twice in one object"
        if isinstance(value, dict):
            unseen += value.values()
        elif isinstance(value, list):
            unseen += value
    return ""
