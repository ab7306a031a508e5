"""A reading as a row: the tables of samples, what their columns are, and which ids stand in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from wattmill_api.store import identities
from wattmill_api.store.interner import Interner
from wattmill_collector.wire import (
    AbsenceReading,
    AcceleratorReading,
    EngineReading,
    GatewayReading,
    HostReading,
    MeterReading,
    NodeHeader,
)

POSTGRES_EPOCH_US = 946_684_800_000_000
Device = AcceleratorReading | EngineReading | HostReading | MeterReading | GatewayReading | AbsenceReading


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """A table of samples: the types of its columns in the order of its COPY, and its key."""

    name: str
    types: tuple[str, ...]
    key_columns: tuple[str, ...]
    key: Callable[[tuple[Any, ...]], tuple[Any, ...]]
    is_reading: bool = True  # a row of it is a reading of its own; others are parts of one, and are not counted


# timestamptz is 8 bytes of microseconds since 2000 on the wire, so an int8 is copied without building a datetime.
TABLES = (
    Table(
        "accelerator_sample",
        (
            "int8",
            "int4",
            "int4",
            "int8",
            "int8",
            "int8",
            "int8",
            "int8",
            "int4",
            "int4",
            "int4",
            "int4",
            "int4",
            "int4",
            "float4",
            "int2",
        ),
        ("time", "accelerator_id"),
        lambda row: (row[0], row[1]),
    ),
    Table(
        "engine_sample",
        (
            "int8",
            "int4",
            "int4",
            "int4",
            "int8",
            "int8",
            "int8",
            "int8",
            "int8",
            "int8",
            "int8",
            "int8",
            "int8",
            "int8",
            "int4",
            "int4",
            "int4",
            "float4",
        ),
        ("time", "engine_id"),
        lambda row: (row[0], row[1]),
    ),
    Table(
        "host_sample",
        ("int8", "int4", "text", "int8", "int8", "int8", "int8", "int4"),
        ("time", "node_id", "domain"),
        lambda row: (row[0], row[1], row[2]),
    ),
    Table(
        "power_meter_sample",
        ("int8", "int4", "int4", "int8", "int8", "int8"),
        ("time", "meter_id"),
        lambda row: (row[0], row[1]),
    ),
    Table(
        "gateway_sample",
        ("int8", "int4", "int4", "int8", "int8", "int8", "int8", "int8", "int8"),
        ("time", "client_id"),
        lambda row: (row[0], row[1]),
    ),
    Table(
        "absence",
        ("int8", "int4", "text", "text", "text", "text", "int8"),
        ("time", "node_id", "subject", "id", "reason"),
        lambda row: (row[0], row[1], row[2], row[3], row[4]),
    ),
    Table(
        "latency_sample",
        ("int8", "int4", "int2", "int4", "int4", "int4", "int8", "int8", "int8[]"),
        ("time", "engine_id", "metric"),
        lambda row: (row[0], row[1], row[2]),
        is_reading=False,
    ),
)
INTER_TOKEN_LATENCY, TIME_TO_FIRST_TOKEN, QUEUE_TIME, REQUEST_LATENCY = 1, 2, 3, 4  # latency_sample.metric


def row_of(r: Device, node: NodeHeader, node_id: int, time_us: int, interner: Interner) -> tuple[str, tuple[Any, ...]]:
    """The table of a reading and its row there; of use only when the interner knew every id."""
    time = time_us - POSTGRES_EPOCH_US
    if isinstance(r, AcceleratorReading):
        accelerator_id = identities.accelerator(interner, r, node_id, time_us)
        return "accelerator_sample", (
            *(time, accelerator_id, node_id, r.energy_mj, r.epoch, r.epoch_start_us, r.memory_used_bytes),
            *(r.clock_event_reasons, r.power_mw, r.power_instant_mw, r.power_limit_mw, r.sm_clock_mhz),
            *(r.memory_clock_mhz, r.process_count, r.utilisation_ratio, r.temperature_celsius),
        )
    if isinstance(r, EngineReading):
        engine_id = identities.engine(interner, r, node_id, time_us)
        placement_id = identities.placement(interner, r, engine_id, node_id, time_us)
        return "engine_sample", (
            *(time, engine_id, node_id, placement_id, r.epoch, r.epoch_start_us, r.input_tokens),
            *(r.cached_input_tokens, r.computed_input_tokens, r.output_tokens, r.requests_finished, r.preemptions),
            *(r.draft_tokens, r.accepted_draft_tokens, r.requests_running, r.requests_waiting, r.activity_ppm),
            r.kv_cache_usage_ratio,
        )
    if isinstance(r, MeterReading):
        meter_id = identities.meter(interner, r, node, time_us)
        return "power_meter_sample", (time, meter_id, node_id, r.energy_mj, r.power_mw, r.epoch)
    if isinstance(r, HostReading):
        if r.source:
            identities.host_domain(interner, r, node_id)
        if r.domain == "chassis":
            identities.chassis(interner, r, node, node_id, time_us)
        return "host_sample", (
            *(time, node_id, r.domain, r.energy_uj, r.energy_range_uj, r.epoch, r.epoch_start_us, r.power_mw),
        )
    if isinstance(r, GatewayReading):
        client_id = identities.gateway_client(interner, r, node_id)
        return "gateway_sample", (
            *(time, client_id, node_id, r.epoch, r.epoch_start_us, r.input_tokens, r.cached_input_tokens),
            *(r.output_tokens, r.requests_finished),
        )
    start = time if r.start_us is None else min(r.start_us, time_us) - POSTGRES_EPOCH_US
    return "absence", (time, node_id, r.subject, r.id, r.reason, r.detail, start)


def latencies(r: EngineReading, row: tuple[Any, ...], interner: Interner) -> list[tuple[Any, ...]]:
    """The histograms of a reading; `row` is its own: time, engine, node, placement, epoch and its start come first."""
    histograms = (
        (INTER_TOKEN_LATENCY, r.inter_token_latency),
        (TIME_TO_FIRST_TOKEN, r.time_to_first_token),
        (QUEUE_TIME, r.queue_time),
        (REQUEST_LATENCY, r.request_latency),
    )
    if all(histogram is None for _, histogram in histograms):
        return []
    time, engine_id, node_id, placement_id, epoch, epoch_start_us = row[:6]
    return [
        (
            *(time, engine_id, metric, node_id, placement_id, identities.bounds(interner, histogram.le_us)),
            *(epoch, epoch_start_us, list(histogram.counts)),
        )
        for metric, histogram in histograms
        if histogram is not None
    ]
