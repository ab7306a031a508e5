"""The wire: readings, batches and receipts, version 1. Stdlib only; the producer owns the format.

A *batch* is everything one tick of one agent read: one line of JSON, written once, fsynced in the spool under a
*sequence* of its *stream*, and sent byte for byte as written for as long as it takes. A post to `/api/v1/ingest` is
one or more such lines (NDJSON), usually gzip members one behind the other. The service answers with one *receipt* a
line; only a receipt whose sequence and hash match releases the batch from the spool.

    {"wattmill": 1, "stream": "6f1c…", "sequence": 17, "time_us": 1732492800000000,
     "node": {"name": "gpu-017", "site": "ams1", "interval_us": 10000000},
     "readings": [{"kind": "accelerator", "uuid": "GPU-…", "energy_mj": 123456, "epoch": 42}, …]}

A field that a source does not have is left out: absent is not 0. Unknown fields are ignored, so that an agent one
version ahead keeps working. Times are integer microseconds since 1970 (UTC).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import operator
from collections.abc import Mapping, Sequence
from typing import Any

from wattmill_collector.catalogue import (
    INT64_MAX,
    MAX_BOUNDS,
    MAX_LISTED,
    Histogram,
    Metric,
    counter,
    epoch,
    gauge,
    histogram,
    integers,
    metrics_of,
    ratio,
    text,
    texts,
)

WIRE_VERSION = 1
MAX_READINGS_PER_BATCH = 10_000
MAX_LABELS = 40
MAX_NAME_BYTES = 512  # of a node or a site: both stand in keys, together with target and series
MAX_KEY_BYTES = 768  # of a text that is part of a key: three of them fit a row of an index
EARLIEST_US = 1_577_836_800_000_000  # 2020-01-01: an earlier clock was never set
LATEST_US = 4_102_444_800_000_000  # 2100-01-01: past any clock we will meet, inside PostgreSQL's range


class WireError(ValueError):
    """A batch or a reading that breaks the format: `field` names the place, `reason` says what to do."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AcceleratorReading:
    """One GPU board at one tick. MIG slices never have a reading of their own: the board's joules are counted once."""

    uuid: str = text("vendor UUID of the board", longest=128, required=True)
    model: str = text("product name as the driver prints it")
    index: int | None = gauge("", "index in driver order; a label, never a key", high=65_535)
    vendor: str = text("nvidia, amd, …", longest=32)
    source: str = text("what read it: nvml, dcgm-exporter, …; empty is nvml", longest=32)
    epoch: int = epoch("boot, driver and board that the energy counter belongs to")
    epoch_start_us: int | None = gauge("us", "when that epoch began, if known")
    energy_mj: int | None = counter("mJ", "energy since the driver was loaded; absent when the board has no counter")
    power_mw: int | None = gauge("mW", "average power over the last second", high=10_000_000)
    power_instant_mw: int | None = gauge("mW", "power now", high=10_000_000)
    power_limit_mw: int | None = gauge("mW", "enforced power limit", high=10_000_000)
    utilisation_ratio: float | None = ratio("share of the last sample period in which a kernel ran")
    memory_used_bytes: int | None = gauge("By", "device memory in use")
    memory_total_bytes: int | None = gauge("By", "device memory of the board")
    sm_clock_mhz: int | None = gauge("MHz", "SM clock", high=100_000)
    memory_clock_mhz: int | None = gauge("MHz", "memory clock", high=100_000)
    temperature_celsius: int | None = gauge("Cel", "core temperature", low=-100, high=500)
    clock_event_reasons: int | None = gauge("", "bit mask of NVML clock-event (throttle) reasons")
    process_count: int | None = gauge("{process}", "compute processes on the board", high=100_000)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EngineReading:
    """One serving engine (a data-parallel rank counts as one) at one tick.

    A `worker` is the part of an engine that holds boards on this node while its counters are read on another one: it
    has no counters, and `target` names the engine that it works for, or what it is called where that is not known.
    """

    target: str = text("URL that was scraped", longest=512, longest_bytes=MAX_KEY_BYTES, required=True)
    series: str = text(
        "labels that tell this engine from others behind the target", longest=512, longest_bytes=MAX_KEY_BYTES
    )
    engine_kind: str = text("vllm, sglang, tgi, llamacpp, …", longest=32)
    version: str = text("version of the engine", longest=64)
    model: str = text("model being served", longest_bytes=MAX_KEY_BYTES)
    workload: str = text("deployment the engine belongs to", longest_bytes=MAX_KEY_BYTES)
    team: str = text("who pays", longest_bytes=MAX_KEY_BYTES)
    accelerators: tuple[str, ...] = texts("UUIDs of the boards the engine holds; empty when unknown")
    method: str = text("how the placement was found: configured, pod, process, exclusive, share", longest=32)
    confidence: str = text("how far the placement is to be trusted: high, medium, low", longest=8)
    accelerator_shares_ppm: tuple[int, ...] = integers(
        "ppm",
        "the part of each of `accelerators` that is this engine's alone; empty: all of them, or shared by activity",
        high=1_000_000,
    )
    share_by: str = text("what the parts are made of: mig, replicas, processes, configured", longest=32)
    role: str = text(
        "prefill or decode of a disaggregated pair, frontend (its tokens are those of engines behind it), worker",
        longest=16,
    )
    activity_ppm: int | None = gauge(
        "ppm", "share of time in which kernels of this engine ran, a mean over its boards", high=1_000_000
    )
    tokens_move: str = text("when the token counters move: step or end", longest=8)
    epoch: int = epoch("the engine process that the counters belong to")
    epoch_start_us: int | None = gauge("us", "when that process started, if known")
    input_tokens: int | None = counter("{token}", "all input tokens, cached ones included")
    cached_input_tokens: int | None = counter("{token}", "the part of the input served from the prefix cache")
    computed_input_tokens: int | None = counter("{token}", "input tokens computed in prefill")
    output_tokens: int | None = counter("{token}", "generated tokens")
    requests_finished: int | None = counter("{request}", "requests finished")
    preemptions: int | None = counter("{preemption}", "requests put back and computed again")
    draft_tokens: int | None = counter("{token}", "tokens proposed by speculative decoding")
    accepted_draft_tokens: int | None = counter("{token}", "proposed tokens that were accepted; part of the output")
    requests_running: int | None = gauge("{request}", "requests in the current batch", high=10_000_000)
    requests_waiting: int | None = gauge("{request}", "requests in the queue", high=10_000_000)
    kv_cache_usage_ratio: float | None = ratio("share of the KV cache in use")
    inter_token_latency: Histogram | None = histogram(  # noqa: RUF009 (a field, as the others are)
        "time from one output token of a request to the next; a request's mean where the engine has no more"
    )
    time_to_first_token: Histogram | None = histogram(  # noqa: RUF009
        "time from a request's arrival to its first output token"
    )
    queue_time: Histogram | None = histogram("time that a request waited before it was computed")  # noqa: RUF009
    request_latency: Histogram | None = histogram("time from a request's arrival to its end")  # noqa: RUF009


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HostReading:
    """One energy domain of the host at one tick. Domains never overlap: core and psys are left out at the source.

    But for `chassis`, which is all of the node as its supplies or its management controller measure it, boards and
    packages included: the service takes what stands below it away from it.
    """

    domain: str = text("package-0, dram-0, …; chassis: the whole node", longest=64, required=True)
    source: str = text("what read it: rapl, hwmon, ipmi, redfish, node_exporter, …", longest=32)
    epoch: int = epoch("boot that the counter belongs to")
    epoch_start_us: int | None = gauge("us", "when that boot began, if known")
    energy_uj: int | None = counter("uJ", "raw energy counter of the domain")
    energy_range_uj: int | None = gauge("uJ", "value at which the counter wraps to 0")
    power_mw: int | None = gauge("mW", "power now, where the domain has no counter", high=100_000_000)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MeterReading:
    """One power meter that stands above nodes, at one tick: a rack's PDU, a busway, the hall's feed.

    It never enters the ledger: it is held against the sum of what stands below it.
    """

    meter: str = text("name of the meter, unique in its site", longest=128, required=True)
    level: str = text("what it stands above: node, rack, facility", longest=16, required=True)
    covers: tuple[str, ...] = texts("node=NAME or LABEL=VALUE, any of which a node below it has; empty: the whole site")
    source: str = text("snmp_exporter, redfish_exporter, …", longest=32)
    epoch: int = epoch("the meter's own counter, if anything tells when it began anew")
    energy_mj: int | None = counter("mJ", "energy counter of the meter")
    power_mw: int | None = gauge("mW", "power now", high=10**15)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GatewayReading:
    """What one consumer has drawn through one gateway so far. Shares only: these tokens are never added to engines'."""

    target: str = text("URL of the gateway that was scraped", longest=512, longest_bytes=MAX_KEY_BYTES, required=True)
    gateway_kind: str = text("litellm, envoy_ai_gateway, otel, …", longest=32)
    model: str = text("model as the gateway calls it", longest_bytes=MAX_KEY_BYTES)
    workload: str = text("the workload that serves it, where the operator says so", longest_bytes=MAX_KEY_BYTES)
    provider: str = text("who computes it, as the gateway calls them", longest=64)
    team: str = text("team of the caller", longest=256)
    api_key: str = text("alias or hash of the caller's key, never the key", longest=256)
    user: str = text("end user of the caller", longest=256)
    agent: str = text("program or agent that called", longest=256)
    epoch: int = epoch("the gateway process that the counters belong to")
    epoch_start_us: int | None = gauge("us", "when that process started, if known")
    input_tokens: int | None = counter("{token}", "all input tokens, cached ones included")
    cached_input_tokens: int | None = counter("{token}", "the part of the input served from a cache")
    output_tokens: int | None = counter("{token}", "generated tokens, reasoning included")
    requests_finished: int | None = counter("{request}", "requests finished")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AbsenceReading:
    """Says why something that should have been read was not: a gap with a reason, never a 0."""

    subject: str = text("accelerator, engine, host, meter, gateway or batch", longest=32, required=True)
    id: str = text("UUID, target or domain that is missing", longest=512)
    reason: str = text(
        "short machine word: gpu_is_lost, timeout, connection_refused, not_understood, dropped_max_bytes, …",
        longest=64,
        required=True,
    )
    detail: str = text("one sentence for the person on call", longest=512)
    start_us: int | None = gauge("us", "when the absence began, if it spans more than this tick")
    first_sequence: int | None = gauge("", "first dropped sequence of this stream, when the agent had to drop")
    last_sequence: int | None = gauge("", "last dropped sequence of this stream")


Reading = AcceleratorReading | EngineReading | HostReading | MeterReading | GatewayReading | AbsenceReading
ROLES = ("", "prefill", "decode", "frontend", "worker")
METER_LEVELS = ("node", "rack", "facility")
READING_KINDS: dict[str, type[Reading]] = {
    "accelerator": AcceleratorReading,
    "engine": EngineReading,
    "host": HostReading,
    "meter": MeterReading,
    "gateway": GatewayReading,
    "absence": AbsenceReading,
}
KIND_OF: dict[type, str] = {cls: kind for kind, cls in READING_KINDS.items()}
METRICS: dict[str, tuple[Metric, ...]] = {kind: metrics_of(cls) for kind, cls in READING_KINDS.items()}
_HISTOGRAMS: dict[str, tuple[str, ...]] = {
    kind: tuple(m.name for m in metrics if m.type == "histogram") for kind, metrics in METRICS.items()
}
_PLANS: dict[str, tuple[dict[str, tuple[bool, int, int, Metric]], tuple[str, ...]]] = {
    kind: (
        {m.name: (m.type == "int", int(m.low), int(m.high) if m.type in ("int", "text") else -1, m) for m in metrics},
        tuple(m.name for m in metrics if m.required),
    )
    for kind, metrics in METRICS.items()
}


@dataclasses.dataclass(frozen=True, slots=True)
class NodeHeader:
    """Who read: travels with every batch, so that a batch can be understood alone."""

    name: str
    site: str = "default"
    interval_us: int = 10_000_000
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    boot_id: str = ""
    agent_version: str = ""
    simulated: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """All readings of one tick."""

    stream: str
    sequence: int
    time_us: int
    node: NodeHeader
    readings: Sequence[Reading]


@dataclasses.dataclass(frozen=True, slots=True)
class Rejection:
    """One reading that was not stored, and why; index -1 means the whole batch."""

    index: int
    field: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Receipt:
    """The service's answer for one batch: `status` is stored, duplicate, conflict or rejected.

    `sha256` is the hash of the line as received, without its line end. `committed_through` is the highest sequence of
    the stream up to which nothing is missing; an agent that was further on rewinds to it.
    """

    stream: str
    sequence: int
    sha256: str
    status: str
    stored: int = 0
    duplicates: int = 0
    rejected: tuple[Rejection, ...] = ()
    committed_through: int = 0


def encode_reading(reading: Reading) -> dict[str, Any]:
    """A reading as it stands on the wire: fields the source does not have are left out."""
    kind = KIND_OF[type(reading)]
    wire: dict[str, Any] = {"kind": kind}
    for metric in METRICS[kind]:
        value = getattr(reading, metric.name)
        if value is not None and value != "" and value != ():
            wire[metric.name] = value
    for name in _HISTOGRAMS[kind]:
        if name in wire:
            wire[name] = {"le_us": list(wire[name].le_us), "counts": list(wire[name].counts)}
    return wire


def encode_batch(batch: Batch) -> bytes:
    """One line of JSON without its line end; the bytes whose hash the receipt repeats."""
    node = {k: v for k, v in dataclasses.asdict(batch.node).items() if v not in ("", {}, False)}
    document = {
        "wattmill": WIRE_VERSION,
        "stream": batch.stream,
        "sequence": batch.sequence,
        "time_us": batch.time_us,
        "node": node,
        "readings": [encode_reading(r) for r in batch.readings],
    }
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def body_hash(line: bytes) -> str:
    """SHA-256 of one batch as sent, in hex."""
    return hashlib.sha256(line).hexdigest()


def decode_reading(wire: object, place: str = "reading") -> Reading:
    """Check one decoded JSON object against the catalogue.

    Errors: WireError naming the field (`place.field`) and the limit that was broken.
    """
    if not isinstance(wire, dict):
        raise WireError(place, "must be an object")
    kind = wire.get("kind")
    if not isinstance(kind, str) or kind not in READING_KINDS:
        raise WireError(f"{place}.kind", f"must be one of {', '.join(READING_KINDS)}")
    known, required = _PLANS[kind]
    values: dict[str, Any] = {}
    for name, value in wire.items():
        plan = known.get(name)
        if plan is None or value is None:
            continue
        is_int, low, high, metric = plan
        # What nearly every value is, checked without a call: this loop is the hottest of the service.
        if is_int:
            if type(value) is not int or not low <= value <= high:
                value = _check(value, metric, place)
        elif type(value) is not str or len(value) > high or not value or not value.isprintable() or not value.isascii():
            value = _check(value, metric, place)
        values[name] = value
    for name in required:
        if name not in values:
            raise WireError(f"{place}.{name}", "is required")
    return READING_KINDS[kind](**values)


def _check(value: Any, metric: Metric, place: str) -> Any:
    where = f"{place}.{metric.name}"
    if metric.type == "int":
        if type(value) is not int:
            if type(value) is float and value.is_integer() and abs(value) < 2**53:
                value = int(value)
            else:
                raise WireError(where, "must be an integer of at most 64 bits")
        if not metric.low <= value <= metric.high:
            raise WireError(where, f"must lie between {int(metric.low)} and {int(metric.high)}")
        return value
    if metric.type == "float":
        if type(value) not in (int, float) or not metric.low <= value <= metric.high:  # NaN fails the comparison
            raise WireError(where, f"must be a number between {metric.low:g} and {metric.high:g}")
        return float(value)
    if metric.type == "text":
        return check_text(value, where, int(metric.high), metric.high_bytes, required=metric.required)
    if metric.type == "histogram":
        return _check_histogram(value, where)
    if metric.type == "ints":
        found = _integers(value, where)
        if len(found) > MAX_LISTED or max(found, default=0) > metric.high:
            raise WireError(where, f"must be a list of at most {MAX_LISTED} integers, none above {metric.high:.0f}")
        return found
    if not isinstance(value, list | tuple) or len(value) > metric.high:
        raise WireError(where, f"must be a list of at most {metric.high:.0f} texts")
    return tuple(check_text(v, f"{where}[{i}]", 128, required=True) for i, v in enumerate(value))


def _check_histogram(value: object, where: str) -> Histogram:
    if not isinstance(value, dict):
        raise WireError(where, "must be an object with le_us and counts")
    bounds, counts = (_integers(value.get(name), f"{where}.{name}") for name in ("le_us", "counts"))
    if not 1 <= len(bounds) <= MAX_BOUNDS:
        raise WireError(f"{where}.le_us", f"must have 1 to {MAX_BOUNDS} bounds; +Inf is left out")
    if len(counts) != len(bounds) + 1:
        raise WireError(f"{where}.counts", "must have one count a bound, and the total as the last")
    if any(map(operator.ge, bounds, bounds[1:])):
        raise WireError(f"{where}.le_us", "must rise from bound to bound")
    if any(map(operator.gt, counts, counts[1:])):
        raise WireError(f"{where}.counts", "must not fall: each holds the observations of all lower bounds too")
    return Histogram(_same(bounds), counts)


def _integers(value: object, where: str) -> tuple[int, ...]:
    if not isinstance(value, list) or set(map(type, value)) - {int}:
        raise WireError(where, "must be a list of integers")
    if value and not 0 <= min(value) <= max(value) <= INT64_MAX:
        raise WireError(where, f"must lie between 0 and {INT64_MAX}")
    return tuple(value)


@functools.lru_cache(1024)
def _same(bounds: tuple[int, ...]) -> tuple[int, ...]:
    """The same bounds as one object, whose hash and comparison cost nothing: a fleet has few kinds of them."""
    return bounds


def check_text(value: object, where: str, longest: int, longest_bytes: int = 0, *, required: bool = False) -> str:
    """Text that PostgreSQL can store: no NUL, no lone surrogate, not longer than `longest` characters.

    `longest_bytes`: not longer than this in UTF-8 either; 0: as long as the characters make it.
    """
    if not isinstance(value, str):
        raise WireError(where, "must be text")
    if len(value) > longest:
        raise WireError(where, f"must have at most {longest} characters")
    if required and not value:
        raise WireError(where, "must not be empty")
    if "\x00" in value:
        raise WireError(where, "must not contain a NUL character")
    if not value.isascii():
        try:
            size_bytes = len(value.encode())
        except UnicodeEncodeError:
            raise WireError(where, "must not contain half a surrogate pair") from None
        if size_bytes > longest_bytes > 0:
            raise WireError(where, f"must have at most {longest_bytes} bytes in UTF-8")
    return value


def _integer(
    wire: Mapping[str, Any], name: str, low: int, high: int, default: int | None = None, place: str = ""
) -> int:
    value = wire.get(name, default)
    if type(value) is not int or not low <= value <= high:
        raise WireError(place + name, f"must be an integer between {low} and {high}")
    return value


def decode_header(wire: object) -> tuple[str, int, int, NodeHeader, list[Any]]:
    """Check everything of a batch but its readings: (stream, sequence, time_us, node, undecoded readings).

    Errors: WireError; the batch as a whole can't be used.
    """
    if not isinstance(wire, dict):
        raise WireError("batch", "must be a JSON object")
    if wire.get("wattmill") != WIRE_VERSION or type(wire.get("wattmill")) is not int:
        raise WireError("wattmill", f"must be {WIRE_VERSION}, the version of the wire that this service speaks")
    stream = check_text(wire.get("stream"), "stream", 64, required=True)
    sequence = _integer(wire, "sequence", 1, INT64_MAX)
    time_us = _integer(wire, "time_us", EARLIEST_US, LATEST_US)
    node = wire.get("node")
    if not isinstance(node, dict):
        raise WireError("node", "must be an object")
    labels = node.get("labels", {})
    if not isinstance(labels, dict) or len(labels) > MAX_LABELS:
        raise WireError("node.labels", f"must be an object of at most {MAX_LABELS} labels")
    header = NodeHeader(
        name=check_text(node.get("name"), "node.name", 256, MAX_NAME_BYTES, required=True),
        site=check_text(node.get("site", "default"), "node.site", 256, MAX_NAME_BYTES, required=True),
        interval_us=_integer(node, "interval_us", 100_000, 3_600_000_000, 10_000_000, "node."),
        labels={
            check_text(k, "node.labels", 128, required=True): check_text(v, f"node.labels.{k[:32]}", 256)
            for k, v in labels.items()
        },
        boot_id=check_text(node.get("boot_id", ""), "node.boot_id", 64),
        agent_version=check_text(node.get("agent_version", ""), "node.agent_version", 64),
        simulated=node.get("simulated") is True,
    )
    readings = wire.get("readings")
    if not isinstance(readings, list) or len(readings) > MAX_READINGS_PER_BATCH:
        raise WireError("readings", f"must be a list of at most {MAX_READINGS_PER_BATCH} readings")
    return stream, sequence, time_us, header, readings


def decode_receipt(wire: object) -> Receipt:
    """Check one receipt as the agent gets it. Errors: WireError, which the agent treats as no answer at all."""
    if not isinstance(wire, dict):
        raise WireError("receipt", "must be an object")
    rejected = wire.get("rejected", [])
    if not isinstance(rejected, list):
        raise WireError("rejected", "must be a list")
    return Receipt(
        stream=check_text(wire.get("stream"), "stream", 64),
        sequence=_integer(wire, "sequence", 0, INT64_MAX),
        sha256=check_text(wire.get("sha256"), "sha256", 64),
        status=check_text(wire.get("status"), "status", 16, required=True),
        stored=_integer(wire, "stored", 0, INT64_MAX, 0),
        duplicates=_integer(wire, "duplicates", 0, INT64_MAX, 0),
        rejected=tuple(
            Rejection(int(r["index"]), str(r["field"]), str(r["reason"])) for r in rejected if isinstance(r, dict)
        ),
        committed_through=_integer(wire, "committed_through", 0, INT64_MAX, 0),
    )
