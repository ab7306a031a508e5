"""All nodes of a run, in the order in which their lines are sent: by time, but late or twice if an incident says so.

Promises: the same options give the same bytes; sequences of a stream rise by one per batch made; whatever was held
back is sent before the run ends. Not here: when to send (pace) and how (delivery).
"""

from __future__ import annotations

import dataclasses
import hashlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from wattmill_api.simulator.incidents import DAY_US, Incident, incidents_of_period, period_us
from wattmill_api.simulator.machine import CHUNK_TICKS, Chunk, Machine
from wattmill_api.simulator.physics import boards_needed, load_curves
from wattmill_api.simulator.scenario import Options, lay_out
from wattmill_api.simulator.truth import Truth


@dataclasses.dataclass(frozen=True, slots=True)
class Emission:
    """One line to send at `due_us` of simulated time; it was read at `time_us`."""

    due_us: int
    time_us: int
    node: int
    stream: str
    sequence: int
    line: bytes
    readings: int


class Fleet:
    """A run. Iterate `emissions()` or `batches()` once, to the end; then take `truth()`."""

    def __init__(self, options: Options) -> None:
        curves = load_curves()
        self.options = options
        self.plans = lay_out(options, boards_needed(curves))
        self.streams = [_stream(options, p.name) for p in self.plans]
        self.machines = [Machine(p, options, curves, s) for p, s in zip(self.plans, self.streams, strict=True)]
        self.counted = Truth(self.machines)
        self.sequences = [0] * len(self.plans)
        self.waiting: list[list[Emission]] = [[] for _ in self.plans]
        self.chunks: list[Chunk] = []
        self.sent_ticks = [0] * len(self.plans)
        self.incidents: list[Incident] = []
        self.spoilers: list[list[Incident]] = []

    def batches(self) -> Iterator[tuple[int, str, bytes]]:
        """(time_us, node name, line without its end) of everything the run sends, in order."""
        for emission in self.emissions():
            yield emission.time_us, self.plans[emission.node].name, emission.line

    def emissions(self, due: Callable[[int], bool] | None = None) -> Iterator[Emission]:
        """Everything the run sends.

        `due` is asked before each tick; it may wait, and ends the run by answering False: what is held back then comes
        last. Without it, and without a duration, the run never ends.
        """
        options = self.options
        last_us = None if options.duration_us is None else options.start_us + options.duration_us
        index = 0
        while True:
            begin_us = options.start_us + index * CHUNK_TICKS * options.interval_us
            self._enter(index, begin_us)
            for tick in range(CHUNK_TICKS):
                due_us = begin_us + tick * options.interval_us
                if (last_us is not None and due_us > last_us) or (due is not None and not due(due_us)):
                    yield from self._held()
                    return
                for node, chunk in enumerate(self.chunks):
                    yield from self._tick(node, chunk, tick, due_us)
            self._leave()
            index += 1

    def _held(self) -> Iterator[Emission]:
        """What incidents still hold back."""
        for waiting in self.waiting:
            while waiting:
                yield waiting.pop()

    def truth(self, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Totals of what was handed out so far (see `truth.py`). Call it once, at the end."""
        self._leave()
        return self.counted.document(self.options.seed, options or {})

    def _enter(self, index: int, begin_us: int) -> None:
        """Compute the next chunk of every node under the incidents that reach into it."""
        length = period_us(self.options)
        if index == 0 or (length == DAY_US and (begin_us - self.options.start_us) % length == 0):
            period = (begin_us - self.options.start_us) // length
            self.incidents = [i for i in self.incidents if i.end_us >= begin_us]
            self.incidents += incidents_of_period(self.options, self.plans, period)
        self.chunks = [machine.chunk(index, self.incidents) for machine in self.machines]
        self.spoilers = [[] for _ in self.plans]
        for incident in self.incidents:
            if incident.kind in ("late-batches", "duplicate-batches"):
                self.spoilers[incident.node].append(incident)
        self.sent_ticks = [0] * len(self.plans)

    def _leave(self) -> None:
        """Count what was sent of the current chunk."""
        for node, (chunk, ticks) in enumerate(zip(self.chunks, self.sent_ticks, strict=False)):
            self.counted.add(node, chunk, ticks, self.incidents)
        self.chunks = []

    def _tick(self, node: int, chunk: Chunk, tick: int, due_us: int) -> Iterator[Emission]:
        late = duplicate = False
        for incident in self.spoilers[node]:
            if incident.start_us < due_us <= incident.end_us:
                late |= incident.kind == "late-batches"
                duplicate |= incident.kind == "duplicate-batches"
        self.sent_ticks[node] = tick + 1
        if not chunk.lost[tick]:
            self.sequences[node] += 1
            sequence = self.sequences[node]
            line = chunk.line(tick, sequence)
            emission = Emission(due_us, due_us, node, self.streams[node], sequence, line, chunk.readings(tick))
            if late:
                self.waiting[node].append(emission)
            else:
                yield emission
            if duplicate:
                yield emission
        if self.waiting[node] and not late:
            # Out of order as well: a queue that drains from its newest end.
            for emission in reversed(self.waiting[node]):
                yield dataclasses.replace(emission, due_us=due_us)
            self.waiting[node] = []


def _stream(options: Options, node: str) -> str:
    """A stream of its own for every start; the same run again gets the same receipts again instead of new rows."""
    return str(uuid.UUID(bytes=hashlib.blake2b(f"{options!r}/{node}".encode(), digest_size=16).digest(), version=4))


def total_ticks(options: Options) -> int | None:
    """Ticks of the run, both ends included; None without an end."""
    return None if options.duration_us is None else options.duration_us // options.interval_us + 1
