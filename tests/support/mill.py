"""A tiny node for tests of the service: boards and engines whose counters the test turns by hand.

node = Node("n1", connection)
node.board("GPU-a"), node.engine("http://e/metrics", boards=["GPU-a"])
node.tick(seconds=10, energy={"GPU-a": 7_000_000}, tokens={"http://e/metrics": (100, 0, 50)})
node.post()
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg

from wattmill_api.store.ingest import Interner, ParsedBatch, store_batches
from wattmill_collector.catalogue import Histogram
from wattmill_collector.wire import AcceleratorReading, EngineReading, NodeHeader, Reading, Receipt

START_US = 1_750_000_020_000_000 // 3_600_000_000 * 3_600_000_000  # a whole hour, UTC


@dataclasses.dataclass
class Engine:
    target: str
    boards: tuple[str, ...]
    workload: str
    model: str
    epoch: int
    epoch_start_us: int | None
    input_tokens: int | None = 0
    cached_input_tokens: int | None = 0
    output_tokens: int | None = 0
    running: int | None = 0
    method: str = "configured"
    version: str = ""
    inter_token_latency: Histogram | None = None
    time_to_first_token: Histogram | None = None
    queue_time: Histogram | None = None
    request_latency: Histogram | None = None
    team: str = ""
    shares_ppm: tuple[int, ...] = ()
    share_by: str = ""
    role: str = ""
    confidence: str = ""
    activity_ppm: int | None = None
    requests_finished: int | None = None
    draft_tokens: int | None = None
    silent: bool = False


@dataclasses.dataclass
class Board:
    uuid: str
    energy_mj: int | None = 0
    power_mw: int | None = None
    epoch: int = 1
    processes: int = 1
    memory_used_bytes: int = 60 * 2**30
    utilisation_ratio: float | None = None


class Node:
    """Collects ticks as parsed batches; `post` stores those not yet stored."""

    def __init__(self, name: str = "n1", site: str = "hall", interval_us: int = 10_000_000, stream: str = "") -> None:
        self.header = NodeHeader(name=name, site=site, interval_us=interval_us)
        self.stream = stream or hashlib.sha256(name.encode()).hexdigest()[:32]
        self.time_us = START_US
        self.sequence = 0
        self.boards: dict[str, Board] = {}
        self.engines: dict[str, Engine] = {}
        self.batches: list[ParsedBatch] = []
        self._posted = 0

    def board(self, uuid: str, **fields: Any) -> Board:
        self.boards[uuid] = Board(uuid, **fields)
        return self.boards[uuid]

    def engine(
        self, target: str, boards: Sequence[str] = (), workload: str = "chat", model: str = "llama", **fields: Any
    ) -> Engine:
        fields = {"epoch": 7, "epoch_start_us": START_US - 3_600_000_000, **fields}
        self.engines[target] = Engine(target, tuple(boards), workload, model, **fields)
        return self.engines[target]

    def worker(self, target: str, boards: Sequence[str], workload: str = "chat", **fields: Any) -> Engine:
        """Boards that compute for an engine on another node: no counters, no process that is known."""
        nothing = dict.fromkeys(("input_tokens", "cached_input_tokens", "output_tokens", "running", "epoch_start_us"))
        return self.engine(target, boards, workload, **{**nothing, "role": "worker", "epoch": 0, **fields})

    def readings(self) -> list[Reading]:
        boards: list[Reading] = [
            AcceleratorReading(
                uuid=b.uuid,
                model="H100",
                vendor="nvidia",
                epoch=b.epoch,
                energy_mj=b.energy_mj,
                power_mw=b.power_mw,
                power_limit_mw=700_000,
                process_count=b.processes,
                memory_used_bytes=b.memory_used_bytes,
                utilisation_ratio=b.utilisation_ratio,
            )
            for b in self.boards.values()
        ]
        engines: list[Reading] = [
            EngineReading(
                target=e.target,
                engine_kind="vllm",
                version=e.version,
                model=e.model,
                workload=e.workload,
                team=e.team,
                accelerators=e.boards,
                accelerator_shares_ppm=e.shares_ppm,
                share_by=e.share_by,
                role=e.role,
                confidence=e.confidence,
                activity_ppm=e.activity_ppm,
                method=e.method,
                epoch=e.epoch,
                epoch_start_us=e.epoch_start_us,
                input_tokens=e.input_tokens,
                cached_input_tokens=e.cached_input_tokens,
                output_tokens=e.output_tokens,
                requests_running=e.running,
                inter_token_latency=e.inter_token_latency,
                time_to_first_token=e.time_to_first_token,
                queue_time=e.queue_time,
                request_latency=e.request_latency,
                requests_finished=e.requests_finished,
                draft_tokens=e.draft_tokens,
            )
            for e in self.engines.values()
            if not e.silent
        ]
        return boards + engines

    def tick(
        self,
        seconds: float = 10,
        energy: Mapping[str, int] | None = None,
        tokens: Mapping[str, tuple[int, int, int]] | None = None,
        host: Sequence[Reading] = (),
        lost: bool = False,
    ) -> ParsedBatch:
        """Move the clock and the counters on and read them; `lost`: the counters moved, nobody read them."""
        self.time_us += round(seconds * 1_000_000)
        for uuid, mj in (energy or {}).items():
            board = self.boards[uuid]
            board.energy_mj = (board.energy_mj or 0) + mj
        for target, (input_tokens, cached, output_tokens) in (tokens or {}).items():
            engine = self.engines[target]
            engine.input_tokens = (engine.input_tokens or 0) + input_tokens
            engine.cached_input_tokens = (engine.cached_input_tokens or 0) + cached
            engine.output_tokens = (engine.output_tokens or 0) + output_tokens
        self.sequence += 1
        readings = self.readings() + list(host)
        batch = ParsedBatch(
            stream=self.stream,
            sequence=self.sequence,
            time_us=self.time_us,
            node=self.header,
            readings=list(enumerate(readings)),
            sha256=hashlib.sha256(repr((self.stream, self.sequence, readings)).encode()).digest(),
        )
        if lost:
            self.sequence -= 1
        else:
            self.batches.append(batch)
        return batch

    def post(self, connection: psycopg.Connection[Any], interner: Interner) -> list[Receipt]:
        """Store what has been read since the last post."""
        new, self._posted = self.batches[self._posted :], len(self.batches)
        return store_batches(connection, new, interner)
