"""The lines of a simulated node: a text with gaps for what changes, filled once a tick.

Promises: byte for byte what `wire.encode_batch` writes for the same readings, at a hundredth of its cost: a day of
400 boards is four million readings. Field names and their order come from the catalogue.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wattmill_api.simulator import latency
from wattmill_api.simulator.scenario import EnginePlan, NodePlan, Options
from wattmill_collector.wire import (
    KIND_OF,
    METRICS,
    AbsenceReading,
    AcceleratorReading,
    Batch,
    EngineReading,
    HostReading,
    NodeHeader,
    Reading,
    encode_batch,
    encode_reading,
)

Ints = NDArray[np.int64]

RAPL_RANGE_UJ = 262_143_328_850
PACKAGES = 2
GONE, LOADING = -1, -2  # states of a replica besides the number of its process
RATIO_TEXTS = [repr(i / 1000) for i in range(1001)]  # ratios are kept as whole thousandths

BOARD_FIELDS = (
    "energy_mj", "power_mw", "power_instant_mw", "utilisation_ratio", "memory_used_bytes", "sm_clock_mhz",
    "temperature_celsius", "clock_event_reasons", "process_count",
)  # fmt: skip
ENGINE_FIELDS = (
    "input_tokens", "cached_input_tokens", "computed_input_tokens", "output_tokens", "requests_finished", "preemptions",
    "requests_running", "requests_waiting", "kv_cache_usage_ratio",
)  # fmt: skip
ENGINE_COLUMNS = len(ENGINE_FIELDS) + latency.BUCKETS  # the counts of one histogram come after the fields
HOST_FIELDS = ("energy_uj",)


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """A line with its gaps: one `%s` for sequence, time and every column, in order."""

    template: str
    columns: Ints
    ratios: tuple[int, ...]
    readings: int

    def line(self, sequence: int, time_us: int, row: Ints) -> bytes:
        """Fill the gaps from a row of all columns; no line end."""
        values = row[self.columns].tolist()
        for position in self.ratios:
            values[position] = RATIO_TEXTS[values[position]]
        return (self.template % (sequence, time_us, *values)).encode()


class Lines:
    """Makes the shapes of one node. `boot_us`: when the counters of boards and packages began."""

    def __init__(self, plan: NodePlan, options: Options, stream: str, boot_us: int) -> None:
        self.plan, self.options, self.stream, self.boot_us = plan, options, stream, boot_us
        self.start_of: dict[tuple[int, int], int] = {}
        self.engines: dict[tuple[int, int], str] = {}

    def began(self, engine: int, number: int, start_us: int) -> None:
        """Process `number` of this replica started at `start_us`; its epoch follows from that."""
        self.start_of[engine, number] = start_us

    def shape(self, states: tuple[int, ...]) -> Shape:
        """The line of a node whose replicas are in these states."""
        boards, engines = len(self.plan.uuids), len(self.plan.engines)
        columns = list(range(boards * len(BOARD_FIELDS)))
        ratios = [i * len(BOARD_FIELDS) + BOARD_FIELDS.index("utilisation_ratio") for i in range(boards)]
        parts = [self._board(i) for i in range(boards)]
        for number, state in enumerate(states):
            if state == GONE:
                continue
            parts.append(self._engine(self.plan.engines[number], state))
            if state >= 0:
                ratios.append(len(columns) + ENGINE_FIELDS.index("kv_cache_usage_ratio"))
                begin = (boards * len(BOARD_FIELDS)) + number * ENGINE_COLUMNS
                columns.extend(range(begin, begin + ENGINE_COLUMNS))
        for package in range(PACKAGES):
            parts.append(self._host(package))
            columns.append(boards * len(BOARD_FIELDS) + engines * ENGINE_COLUMNS + package)
        return Shape(self._head() + ",".join(parts) + "]}", np.array(columns, np.int64), tuple(ratios), len(parts))

    def _head(self) -> str:
        scenario = self.options.scenario
        header = NodeHeader(
            name=self.plan.name,
            site=scenario.site,
            interval_us=self.options.interval_us,
            labels={"rack": f"r{self.plan.index // 4 + 1:02d}", **scenario.labels},
            boot_id=self.plan.boot_id,
            agent_version="simulator",
            simulated=True,
        )
        stand_in = encode_batch(Batch(self.stream, 1, 2, header, ())).decode()
        begin, after_sequence = stand_in.split('"sequence":1,"time_us":2,', 1)
        return f'{_literal(begin)}"sequence":%s,"time_us":%s,{_literal(after_sequence.removesuffix("]}"))}'

    def _board(self, board: int) -> str:
        hardware = self.plan.hardware
        reading = AcceleratorReading(
            uuid=self.plan.uuids[board],
            model=hardware.model,
            index=board,
            vendor="nvidia",
            epoch=named_epoch(self.plan.boot_id, self.plan.uuids[board]),
            epoch_start_us=self.boot_us,
            power_limit_mw=hardware.power_limit_w * 1000,
            memory_total_bytes=hardware.memory_total_bytes,
            memory_clock_mhz=hardware.memory_clock_mhz,
        )
        return _template(reading, BOARD_FIELDS)

    def _engine(self, engine: EnginePlan, state: int) -> str:
        if state == LOADING:
            return _template(
                AbsenceReading(
                    subject="engine",
                    id=engine.target,
                    reason="connection_refused",
                    detail="Nothing listens at the engine's address; it may be starting.",
                ),
                (),
            )
        if (engine.index, state) not in self.engines:
            start_us = self.start_of[engine.index, state]
            load = engine.workload
            reading = EngineReading(
                target=engine.target,
                engine_kind=load.engine_kind,
                version=load.version,
                model=load.model,
                workload=load.name,
                team=load.team,
                accelerators=tuple(self.plan.uuids[i] for i in engine.accelerators),
                method="process",
                tokens_move="step",
                epoch=named_epoch(self.plan.boot_id, engine.target, str(start_us)),
                epoch_start_us=start_us,
            )
            self.engines[engine.index, state] = _template(reading, (*ENGINE_FIELDS, "inter_token_latency"))
        return self.engines[engine.index, state]

    def _host(self, package: int) -> str:
        reading = HostReading(
            domain=f"package-{package}",
            epoch=named_epoch(self.plan.boot_id, f"package-{package}"),
            epoch_start_us=self.boot_us,
            energy_range_uj=RAPL_RANGE_UJ,
        )
        return _template(reading, HOST_FIELDS)


def named_epoch(*evidence: str) -> int:
    """A signed 64-bit name that is a pure function of the evidence, and never 0."""
    name = int.from_bytes(hashlib.blake2b("\n".join(evidence).encode(), digest_size=8).digest(), "big", signed=True)
    return name or 1


def _template(reading: Reading, changing: Sequence[str]) -> str:
    """The reading as JSON in the catalogue's order, with `%s` for every field that changes from tick to tick."""
    constant = encode_reading(reading)
    kind = KIND_OF[type(reading)]
    parts = [f'"kind":"{kind}"']
    for metric in METRICS[kind]:
        if metric.name in changing and metric.type == "histogram":
            gaps = ",".join(["%s"] * latency.BUCKETS)
            parts.append(f'"{metric.name}":{{"le_us":{_json(latency.LE_US)},"counts":[{gaps}]}}')
        elif metric.name in changing:
            parts.append(f'"{metric.name}":%s')
        elif metric.name in constant:
            parts.append(f'"{metric.name}":{_literal(_json(constant[metric.name]))}')
    return "{" + ",".join(parts) + "}"


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _literal(text: str) -> str:
    return text.replace("%", "%%")
