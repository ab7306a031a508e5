"""Batches for tests of the spool and the shipper, and a service that keeps a batch ledger."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import json
import random
from collections.abc import Callable, Sequence

from wattmill_collector.spool import Spool
from wattmill_collector.spool.journal import Drop
from wattmill_collector.spool.segment import Record
from wattmill_collector.wire import body_hash


def encode(number: int, padding: int = 0) -> Callable[[str, int, Sequence[Drop]], bytes]:
    """An encoder of a batch that says `number`; padding bytes of it can't be compressed."""

    def line(stream: str, sequence: int, drops: Sequence[Drop]) -> bytes:
        readings: list[dict[str, object]] = [{"kind": "test", "number": number}]
        document = {
            "stream": stream,
            "sequence": sequence,
            "readings": readings,
            "drops": [[d.stream, d.first_sequence, d.last_sequence, d.reason, d.count] for d in drops],
            "padding": random.Random(number).randbytes(padding).hex(),
        }
        return json.dumps(document, separators=(",", ":")).encode()

    return line


def number_of(record: Record) -> int:
    return int(json.loads(record.line())["readings"][0]["number"])


def everything(spool: Spool) -> list[Record]:
    """All batches that wait, oldest first."""
    return spool.read_oldest(limit_bytes=1 << 40, limit_batches=1 << 40, limit_readings=1 << 40)


def waiting(spool: Spool) -> list[int]:
    """The numbers of all batches that wait, oldest first."""
    return [number_of(record) for record in everything(spool)]


def acknowledge(spool: Spool, records: Sequence[Record]) -> None:
    spool.acknowledge((record.stream, record.sequence) for record in records)


@functools.lru_cache(10_000)
def drops_of(line: bytes) -> list[tuple[str, int, int, str, int]]:
    return [(name, first, last, reason, n) for name, first, last, reason, n in json.loads(line)["drops"]]


@dataclasses.dataclass(slots=True)
class Ledger:
    """The service's memory: (stream, sequence) -> line. A receipt is what `store` returns for each line."""

    lines: dict[tuple[str, int], bytes] = dataclasses.field(default_factory=dict)

    def store(self, line: bytes) -> dict[str, object]:
        document = json.loads(line)
        key = (document["stream"], document["sequence"])
        status = "stored"
        if key in self.lines:
            status = "duplicate" if self.lines[key] == line else "conflict"
        else:
            self.lines[key] = line
        return {
            "stream": key[0],
            "sequence": key[1],
            "sha256": body_hash(line),
            "status": status,
            "stored": 1,
            "committed_through": self.committed_through(key[0]),
        }

    def committed_through(self, stream: str) -> int:
        have = {sequence for name, sequence in self.lines if name == stream}
        for line in self.lines.values():
            for name, first, last, *_ in drops_of(line):
                if name == stream and first:
                    have.update(range(first, last + 1))
        through = 0
        while through + 1 in have:
            through += 1
        return through

    def numbers(self) -> list[int]:
        return [int(json.loads(line)["readings"][0]["number"]) for line in self.lines.values()]

    def drops(self) -> set[tuple[str, int]]:
        """Every (stream, sequence) that was reported as dropped."""
        return {
            (name, sequence)
            for line in self.lines.values()
            for name, first, last, *_ in drops_of(line)
            for sequence in range(first, last + 1)
            if first
        }


def lines_of(body: bytes, headers: dict[str, str]) -> list[bytes]:
    text = gzip.decompress(body) if headers.get("Content-Encoding") == "gzip" else body
    return text.splitlines()
