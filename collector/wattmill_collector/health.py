"""What the agent says about itself: Prometheus text for `/metrics`, a verdict for `/healthz`.

Both are composed only when somebody asks, from what is counted anyway. The latest counters of the accelerators and
engines are repeated here, so that a host without a service can be watched too; they are the integers that are shipped.

The verdict is `ok`, `degraded` (readings go on, a person should look) or `stuck` (no tick any more: the only case that
is answered with 503, so that a liveness probe restarts a stuck agent and never one whose service is away).
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from wattmill_collector import __version__
from wattmill_collector.agent import Agent
from wattmill_collector.clock import Clock
from wattmill_collector.shipper import Shipper
from wattmill_collector.spool import Spool
from wattmill_collector.wire import AbsenceReading, AcceleratorReading, EngineReading, HostReading, NodeHeader

# A busy core of a server draws a few watts up to about 15; the agent's own use is far too small to be measured apart.
ESTIMATED_WATTS_PER_BUSY_CORE = 10
FAILURES_UNTIL_DEGRADED = 5
STUCK_AFTER_INTERVALS = 3
STUCK_AFTER_US = 60_000_000

Labels = Mapping[str, str]
Sample = tuple[Labels, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Family:
    """One metric with its samples; values are already text, so that integers stay exact."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    samples: Sequence[Sample]


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """How the agent is, with a sentence for each thing that a person should look at."""

    status: Literal["ok", "degraded", "stuck"]
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]


class Health:
    """Looks at the parts of a running agent; `shipper` is None without a server."""

    def __init__(
        self,
        agent: Agent,
        spool: Spool,
        shipper: Shipper | None,
        clock: Clock,
        node: NodeHeader,
        warnings: Sequence[str] = (),
    ) -> None:
        self._agent = agent
        self._spool = spool
        self._shipper = shipper
        self._clock = clock
        self._node = node
        self._warnings = tuple(warnings)
        self._started_us = clock.monotonic_us()

    def metrics(self) -> str:
        """Everything as Prometheus text, exposition format 0.0.4."""
        return exposition([*self._own(), *self._sources(), *self._spooled(), *self._shipped(), *self._latest()])

    def verdict(self) -> Verdict:
        """How the agent is now."""
        interval_us = self._node.interval_us
        last_us = self._agent.last.monotonic_us if self._agent.last else self._started_us
        silent_us = self._clock.monotonic_us() - last_us
        stuck = silent_us > max(STUCK_AFTER_INTERVALS * interval_us, STUCK_AFTER_US)
        reasons = [f"No tick for {silent_us // 1_000_000} s."] if stuck else []
        reasons += [
            f"Source {reader.name}: {reader.stats.detail}" for reader in self._agent.readers if reader.in_trouble()
        ]
        spool = self._spool.stats()
        if spool.last_error:
            reasons.append(f"Spool: {spool.last_error}")
        reasons += [f"Spool: {n} batches were dropped ({reason})." for reason, n in spool.dropped.items() if n]
        if self._shipper is not None:
            shipper = self._shipper.stats()
            if shipper.parked:
                reasons.append(f"Shipping is parked: {shipper.parked}")
            elif shipper.consecutive_failures >= FAILURES_UNTIL_DEGRADED:
                reasons.append(f"Shipping failed {shipper.consecutive_failures} times in a row: {shipper.last_error}")
        return Verdict("stuck" if stuck else "degraded" if reasons else "ok", tuple(reasons), self._warnings)

    def answer(self, path: str) -> tuple[int, str, str]:
        """(HTTP status, content type, body) for a path."""
        if path == "/metrics":
            return 200, "text/plain; version=0.0.4; charset=utf-8", self.metrics()
        if path == "/healthz":
            verdict = self.verdict()
            body = json.dumps(dataclasses.asdict(verdict) | {"version": __version__}, ensure_ascii=False)
            return 503 if verdict.status == "stuck" else 200, "application/json", body + "\n"
        return 404, "text/plain; charset=utf-8", "The agent has /metrics and /healthz.\n"

    def _own(self) -> Iterable[Family]:
        agent, prefix = self._agent, "wattmill_agent_"
        cpu_seconds = time.process_time()
        node = {"version": __version__, "node": self._node.name, "site": self._node.site}
        joules = cpu_seconds * ESTIMATED_WATTS_PER_BUSY_CORE
        yield Family(prefix + "info", "gauge", "Version and place of this agent.", [(node, "1")])
        yield _one(prefix + "cpu_seconds_total", "counter", "Processor time this agent has used.", f"{cpu_seconds:.6f}")
        yield _one(prefix + "resident_memory_bytes", "gauge", "Memory this agent holds.", str(resident_bytes()))
        help_ = f"Energy this agent has used, estimated as {ESTIMATED_WATTS_PER_BUSY_CORE} W a busy core."
        yield _one(prefix + "estimated_energy_joules_total", "counter", help_, f"{joules:.6f}")
        yield _one(prefix + "interval_seconds", "gauge", "Time between two ticks.", _seconds(self._node.interval_us))
        yield _one(prefix + "ticks_total", "counter", "Ticks so far.", str(agent.ticks))
        yield _one(prefix + "late_ticks_total", "counter", "Ticks more than 250 ms late.", str(agent.late_ticks))
        yield _one(prefix + "missed_ticks_total", "counter", "Ticks that did not happen.", str(agent.missed_ticks))
        yield _one(prefix + "readings_total", "counter", "Readings taken.", str(agent.readings))
        last_us = agent.last.time_us if agent.last else 0
        yield _one(prefix + "last_tick_timestamp_seconds", "gauge", "When the last tick was.", _seconds(last_us))
        yield _one(
            prefix + "unknown_settings", "gauge", "Settings that mean nothing to this agent.", str(len(self._warnings))
        )

    def _sources(self) -> Iterable[Family]:
        def family(name: str, kind: Literal["counter", "gauge"], help_: str, value: Callable[..., str]) -> Family:
            samples = [({"source": reader.name}, value(reader.stats)) for reader in self._agent.readers]
            return Family(f"wattmill_agent_source_{name}", kind, help_, samples)

        yield family(
            "up", "gauge", "1 when the source could be read at the last tick.", lambda s: str(int(s.state == "reading"))
        )
        yield family(
            "duration_seconds", "gauge", "How long the last read took.", lambda s: _seconds(s.last_duration_us)
        )
        yield family("seconds_total", "counter", "Time spent reading.", lambda s: _seconds(s.total_duration_us))
        yield family("reads_total", "counter", "Reads that worked.", lambda s: str(s.reads))
        yield family("failures_total", "counter", "Reads that failed.", lambda s: str(s.failures))
        yield family("readings_total", "counter", "Readings from this source.", lambda s: str(s.readings))

    def _spooled(self) -> Iterable[Family]:
        stats, prefix = self._spool.stats(), "wattmill_agent_spool_"
        yield _one(
            prefix + "pending_batches", "gauge", "Batches the service does not have yet.", str(stats.pending_batches)
        )
        yield _one(prefix + "pending_bytes", "gauge", "Size of these batches on disk.", str(stats.pending_bytes))
        if stats.oldest_pending_us is not None:
            oldest = _seconds(stats.oldest_pending_us)
            yield _one(
                prefix + "oldest_pending_timestamp_seconds", "gauge", "When the oldest of them was kept.", oldest
            )
        yield _one(prefix + "size_bytes", "gauge", "Size of the spool, kept segments included.", str(stats.size_bytes))
        yield _one(prefix + "batches_total", "counter", "Batches kept on disk.", str(stats.appended))
        yield _one(prefix + "disk_full", "gauge", "1 while the disk is full.", str(int(stats.disk_full)))
        yield _by("reason", prefix + "dropped_batches_total", "Batches given up, by reason.", stats.dropped)
        yield _by("reason", prefix + "not_taken_batches_total", "Batches that never reached the disk.", stats.not_taken)
        yield _one(
            prefix + "quarantined_batches_total", "counter", "Batches set aside.", str(stats.quarantined_batches)
        )
        yield _one(
            prefix + "rejected_readings_total", "counter", "Readings the service refused.", str(stats.rejected_readings)
        )
        yield _one(
            prefix + "rewinds_total", "counter", "Times the service asked for older batches.", str(stats.rewinds)
        )

    def _shipped(self) -> Iterable[Family]:
        if self._shipper is None:
            return
        stats, prefix = self._shipper.stats(), "wattmill_agent_shipper_"
        yield _one(prefix + "posts_total", "counter", "Posts to the service.", str(stats.posts))
        yield _one(prefix + "batches_sent_total", "counter", "Batches sent, repeats included.", str(stats.batches_sent))
        yield _one(
            prefix + "batches_acknowledged_total", "counter", "Batches with receipt.", str(stats.batches_acknowledged)
        )
        yield _one(prefix + "bytes_sent_total", "counter", "Bytes sent.", str(stats.bytes_sent))
        yield _by("class", prefix + "retries_total", "Posts that have to be repeated, by class.", stats.retried)
        yield _one(prefix + "parked", "gauge", "1 while a person has to act first.", str(int(stats.parked is not None)))
        yield _one(prefix + "consecutive_failures", "gauge", "Failures in a row.", str(stats.consecutive_failures))
        if stats.last_success_us is not None:
            last = _seconds(stats.last_success_us)
            yield _one(prefix + "last_success_timestamp_seconds", "gauge", "When the service last answered.", last)

    def _latest(self) -> Iterable[Family]:
        """The counters of the last tick; what was not read at it is not repeated."""
        last = self._agent.last
        joules: list[Sample] = []
        watts: list[Sample] = []
        host: list[Sample] = []
        tokens: dict[str, list[Sample]] = {"input": [], "output": []}
        absent: list[Sample] = []
        for reading in last.readings if last else ():
            match reading:
                case AcceleratorReading():
                    board = {"accelerator": reading.uuid, "model": reading.model}
                    if reading.energy_mj is not None:
                        joules.append((board, decimal(reading.energy_mj, 3)))
                    if reading.power_mw is not None:
                        watts.append((board, decimal(reading.power_mw, 3)))
                case HostReading() if reading.energy_uj is not None:
                    host.append(({"domain": reading.domain}, decimal(reading.energy_uj, 6)))
                case EngineReading():
                    engine = {"target": reading.target, "series": reading.series, "engine_kind": reading.engine_kind}
                    engine |= {"model": reading.model, "workload": reading.workload, "team": reading.team}
                    for name, value in (("input", reading.input_tokens), ("output", reading.output_tokens)):
                        if value is not None:
                            tokens[name].append((engine, str(value)))
                case AbsenceReading():
                    absent.append(({"subject": reading.subject, "id": reading.id, "reason": reading.reason}, "1"))
        yield Family("wattmill_accelerator_energy_joules_total", "counter", "Energy counter of the board.", joules)
        yield Family("wattmill_accelerator_power_watts", "gauge", "Power of the board.", watts)
        yield Family("wattmill_host_energy_joules_total", "counter", "Energy counter of the domain; wraps.", host)
        yield Family(
            "wattmill_engine_input_tokens_total", "counter", "All input tokens of the engine.", tokens["input"]
        )
        yield Family("wattmill_engine_output_tokens_total", "counter", "Tokens the engine generated.", tokens["output"])
        yield Family("wattmill_agent_absent", "gauge", "What was not read at the last tick, and why.", absent)


def exposition(families: Iterable[Family]) -> str:
    """Prometheus text; a family without samples is left out."""
    lines: list[str] = []
    for family in families:
        if not family.samples:
            continue
        lines += [f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.kind}"]
        for labels, value in family.samples:
            inside = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items() if text)
            lines.append(f"{family.name}{{{inside}}} {value}" if inside else f"{family.name} {value}")
    return "\n".join([*lines, ""])


def decimal(units: int, places: int) -> str:
    """`units` of 10^-places, exactly: (1234567, 3) → "1234.567"."""
    whole, rest = divmod(units, 10**places)
    return f"{whole}.{rest:0{places}d}"


def resident_bytes() -> int:
    """What this process holds in memory, from /proc; 0 where there is none."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _one(name: str, kind: Literal["counter", "gauge"], help_: str, value: str) -> Family:
    return Family(name, kind, help_, [({}, value)])


def _by(label: str, name: str, help_: str, counts: Mapping[str, int]) -> Family:
    return Family(name, "counter", help_, [({label: key}, str(count)) for key, count in sorted(counts.items())])


def _seconds(microseconds: int) -> str:
    return decimal(microseconds, 6)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
