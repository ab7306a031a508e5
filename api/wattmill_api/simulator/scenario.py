"""What stands where: workloads, hardware, the layout of nodes, and the YAML in which a person says it differently.

Promises: the same options give the same layout, and a node keeps its name and its boards' UUIDs for a given seed,
whatever the number of other nodes. Says nothing about time; `incidents.py` says what goes wrong when.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import uuid
from collections.abc import Mapping
from typing import Any

import yaml

INCIDENT_KINDS = (
    "engine-restart",
    "engine-start",
    "energy-glitch",
    "lost-readings",
    "late-batches",
    "duplicate-batches",
    "idle-loaded",
    "idle-empty",
    "spin-idle",
    "low-batch",
    "throttled",
    "straggler",
    "kv-thrash",
    "queue-starved",
    "regression",
    "cache-miss",
    "over-provisioned",
)


class ScenarioError(ValueError):
    """An option or a scenario that can't be simulated; the message says what to change."""


@dataclasses.dataclass(frozen=True, slots=True)
class Hardware:
    """One kind of board. Idle watts lie inside what operators report for boards with and without a loaded model."""

    name: str
    model: str
    power_limit_w: int
    empty_w: float
    loaded_w: float
    loading_w: float
    spinning_w: float
    memory_total_bytes: int
    sm_clock_mhz: int
    idle_clock_mhz: int
    memory_clock_mhz: int
    dense_bf16_flops: float


HARDWARE = {
    "H100": Hardware(
        "H100", "NVIDIA H100 80GB HBM3", 700, 68.0, 114.0, 190.0, 245.0, 85_520_809_984, 1980, 345, 2619, 989e12
    ),
    "B200": Hardware(
        "B200", "NVIDIA B200", 1000, 138.0, 196.0, 300.0, 390.0, 192_265_846_784, 1965, 120, 3996, 2250e12
    ),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Workload:
    """One deployment. `load_ratio` is how much of a replica's capacity the busiest hour asks for.

    Mean lengths are per request; the spread around them is that of the Mooncake conversation trace.
    """

    name: str
    team: str
    model: str
    engine_kind: str = "vllm"
    version: str = "0.11.0"
    load_ratio: float = 0.86
    max_num_seqs: int = 256
    input_tokens: int = 2500
    output_tokens: int = 343
    cached_ratio: float = 0.37
    peak_hour: float = 14.0


@dataclasses.dataclass(frozen=True, slots=True)
class Pattern:
    """What one kind of node carries: workloads are placed in this order, again and again, while they fit."""

    accelerator: str
    workloads: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Wish:
    """An incident asked for by a person: `node` counts from 1, `at_us` from the start of the run."""

    kind: str
    node: int
    engine: int
    accelerator: int
    at_us: int
    lasts_us: int
    form: str


@dataclasses.dataclass(frozen=True, slots=True)
class Scenario:
    """Everything a scenario file may say. `seeded`: draw the usual incidents by seed besides those wished for."""

    site: str
    labels: Mapping[str, str]
    workloads: tuple[Workload, ...]
    patterns: tuple[Pattern, ...]
    wishes: tuple[Wish, ...]
    seeded: bool


DEFAULT = Scenario(
    site="simulated",
    labels={},
    workloads=(
        Workload("chat-llama-8b", "assistant", "meta-llama/Llama-3.1-8B-Instruct", load_ratio=0.86, input_tokens=1200),
        Workload("search-qwen3-32b", "search", "Qwen/Qwen3-32B", input_tokens=2500, cached_ratio=0.45, peak_hour=11.0),
        Workload(
            "support-llama-70b", "support", "meta-llama/Llama-3.3-70B-Instruct", "sglang", "0.5.4", 0.86, 256, 1800,
            peak_hour=15.5,
        ),
        Workload(
            "code-gpt-oss-120b", "developer-tools", "openai/gpt-oss-120b", load_ratio=0.86, input_tokens=5000,
            output_tokens=700, cached_ratio=0.62, peak_hour=13.0,
        ),
        Workload(
            "research-deepseek-v3", "research", "deepseek-ai/DeepSeek-V3.1", "sglang", "0.5.4", 0.86, 256, 4000, 1200,
            0.3, 20.0,
        ),
    ),
    patterns=(
        Pattern("H100", ("support-llama-70b", "search-qwen3-32b", "search-qwen3-32b")),
        Pattern("H100", ("chat-llama-8b", "chat-llama-8b", "code-gpt-oss-120b", "support-llama-70b")),
        Pattern("B200", (
            "support-llama-70b", "search-qwen3-32b", "chat-llama-8b", "support-llama-70b", "code-gpt-oss-120b",
            "search-qwen3-32b",
        )),
        Pattern("H100", ("support-llama-70b",)),
        Pattern("B200", ("research-deepseek-v3",)),
        Pattern("H100", ("code-gpt-oss-120b", "search-qwen3-32b")),
    ),
    wishes=(),
    seeded=True,
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """What decides every byte of a run. `duration_us` None: for ever.

    `continued_nodes`: how many nodes carry on from an earlier run that ended one interval before `start_us`. Their
    counters begin at zero right after that tick; those of other nodes began long before the first tick.
    """

    nodes: int
    start_us: int
    accelerators: int = 8
    seed: int = 1
    interval_us: int = 10_000_000
    duration_us: int | None = None
    continued_nodes: int = 0
    scenario: Scenario = DEFAULT

    def __post_init__(self) -> None:
        limits = {"nodes": (1, 100_000), "accelerators": (1, 64), "seed": (0, 2**63 - 1)}
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ScenarioError(f"--{name} must lie between {low} and {high}, not {getattr(self, name)}")
        if self.interval_us % 1_000_000 or self.interval_us <= 0 or 60_000_000 % self.interval_us:
            raise ScenarioError("--interval must be whole seconds and divide 60 s, so that ticks meet minutes")
        if self.start_us % self.interval_us:
            raise ScenarioError("the start must be an aligned tick: a multiple of --interval")
        if self.duration_us is not None and self.duration_us < self.interval_us:
            raise ScenarioError("--duration must span at least one --interval")


@dataclasses.dataclass(frozen=True, slots=True)
class EnginePlan:
    """One replica and the boards it holds (positions on its node)."""

    index: int
    workload: Workload
    accelerators: tuple[int, ...]
    target: str


@dataclasses.dataclass(frozen=True, slots=True)
class NodePlan:
    """One node: its boards and replicas. `index` counts from 0."""

    index: int
    name: str
    hardware: Hardware
    uuids: tuple[str, ...]
    boot_id: str
    engines: tuple[EnginePlan, ...]


TINY_YAML = """
seeded: false
site: test-hall
labels: {fleet: tiny}
nodes:
  - {accelerator: H100, workloads: [search-qwen3-32b]}
  - {accelerator: B200, workloads: [chat-llama-8b]}
incidents:
  - {kind: engine-restart, node: 1, engine: 0, at: 4m, lasts: 90s}
  - {kind: energy-glitch, node: 1, accelerator: 0, at: 8m, form: backwards}
  - {kind: energy-glitch, node: 1, accelerator: 1, at: 10m, form: spike}
  - {kind: energy-glitch, node: 2, accelerator: 0, at: 12m, form: zero}
  - {kind: late-batches, node: 1, at: 12m, lasts: 2m}
  - {kind: low-batch, node: 1, engine: 0, at: 14m, lasts: 4m}
  - {kind: engine-start, node: 2, engine: 1, at: 2m}
  - {kind: lost-readings, node: 2, at: 3m, lasts: 2m}
  - {kind: idle-loaded, node: 2, engine: 0, at: 6m, lasts: 5m}
  - {kind: duplicate-batches, node: 2, at: 7m, lasts: 30s}
  - {kind: spin-idle, node: 2, engine: 0, at: 13m, lasts: 3m}
  - {kind: idle-empty, node: 2, engine: 1, at: 13m, lasts: 4m}
  - {kind: throttled, node: 2, engine: 0, at: 17m, lasts: 2m}
"""


def tiny(start_us: int, seed: int = 1) -> Options:
    """2 nodes x 2 accelerators x 20 minutes, every incident that shows in minutes: for tests, done in milliseconds."""
    return Options(
        nodes=2,
        accelerators=2,
        seed=seed,
        start_us=start_us,
        duration_us=20 * 60_000_000,
        scenario=parse_scenario(TINY_YAML),
    )


def lay_out(options: Options, boards_needed: Mapping[tuple[str, str], int]) -> tuple[NodePlan, ...]:
    """Place the scenario's workloads on the nodes.

    `boards_needed`: (model, accelerator) -> boards of one replica, from the figures.
    Errors: ScenarioError when a node could carry nothing at all.
    """
    return tuple(_lay_out_node(i, options, boards_needed) for i in range(options.nodes))


def _lay_out_node(index: int, options: Options, boards_needed: Mapping[tuple[str, str], int]) -> NodePlan:
    scenario = options.scenario
    pattern = scenario.patterns[index % len(scenario.patterns)]
    by_name = {w.name: w for w in scenario.workloads}
    name = f"sim-{index + 1:03d}"

    def fitting(names: tuple[str, ...]) -> list[tuple[Workload, int]]:
        sized = [(by_name[n], boards_needed.get((by_name[n].model, pattern.accelerator))) for n in names]
        return [(w, size) for w, size in sized if size is not None and size <= options.accelerators]

    wanted = fitting(pattern.workloads) or fitting(tuple(by_name))
    if not wanted:
        raise ScenarioError(
            f"no workload of the scenario fits on {options.accelerators} x {pattern.accelerator}; "
            "the figures know each model only with the number of boards it was measured on"
        )
    engines: list[EnginePlan] = []
    free = 0
    turn = misses = 0
    while misses < len(wanted):
        workload, size = wanted[turn % len(wanted)]
        turn += 1
        if free + size > options.accelerators:
            misses += 1
            continue
        misses = 0
        i = len(engines)
        boards = tuple(range(free, free + size))
        engines.append(EnginePlan(i, workload, boards, f"http://{name}:{8000 + i}/metrics"))
        free += size
    return NodePlan(
        index,
        name,
        HARDWARE[pattern.accelerator],
        tuple(f"GPU-{_named_uuid(options.seed, name, str(i))}" for i in range(options.accelerators)),
        str(_named_uuid(options.seed, name, "boot", str(options.start_us))),
        tuple(engines),
    )


def _named_uuid(seed: int, *words: str) -> uuid.UUID:
    return uuid.UUID(bytes=hashlib.blake2b(f"{seed}/{'/'.join(words)}".encode(), digest_size=16).digest(), version=4)


_UNITS_US = {"us": 1, "ms": 1000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}


def duration_us(text: object, name: str) -> int:
    """`90s`, `2h`, `1h30m`, `1d` as microseconds. Errors: ScenarioError naming the option."""
    written = str(text).strip()
    parts = re.findall(r"(\d+(?:\.\d+)?)(us|ms|s|m|h|d)", written)
    if not parts or "".join(number + unit for number, unit in parts) != written:
        raise ScenarioError(f"{name} must be a duration such as 90s, 2h or 1h30m, not {written!r}")
    return sum(round(float(number) * _UNITS_US[unit]) for number, unit in parts)


def parse_scenario(text: str, place: str = "scenario") -> Scenario:
    """Read a scenario file; what it leaves out stays as in the default scenario.

    Errors: ScenarioError naming the key.
    """
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ScenarioError(f"{place} is not YAML: {error}") from error
    document = {} if document is None else document
    _known(document, ("site", "labels", "workloads", "nodes", "incidents", "seeded"), place)
    workloads = DEFAULT.workloads
    if "workloads" in document:
        workloads = tuple(_workload(w, f"{place}.workloads[{i}]") for i, w in enumerate(document["workloads"]))
    patterns = DEFAULT.patterns
    if "nodes" in document:
        patterns = tuple(_pattern(p, f"{place}.nodes[{i}]") for i, p in enumerate(document["nodes"]))
    elif "workloads" in document:
        patterns = tuple(Pattern(kind, tuple(w.name for w in workloads)) for kind in HARDWARE)
    names = {w.name for w in workloads}
    if not workloads or not patterns:
        raise ScenarioError(f"{place} needs at least one workload and one kind of node")
    for pattern in patterns:
        if missing := [n for n in pattern.workloads if n not in names]:
            raise ScenarioError(f"{place}.nodes names the workload {missing[0]!r}, which is not in {place}.workloads")
    return Scenario(
        site=str(document.get("site", DEFAULT.site)),
        labels={str(k): str(v) for k, v in dict(document.get("labels", {})).items()},
        workloads=workloads,
        patterns=patterns,
        wishes=tuple(_wish(w, f"{place}.incidents[{i}]") for i, w in enumerate(document.get("incidents", ()))),
        seeded=bool(document.get("seeded", True)),
    )


def _known(mapping: Any, keys: tuple[str, ...], place: str) -> None:
    if not isinstance(mapping, dict):
        raise ScenarioError(f"{place} must be a mapping")
    if unknown := [k for k in mapping if k not in keys]:
        raise ScenarioError(f"{place} has the unknown key {unknown[0]!r}; known are {', '.join(keys)}")


def _workload(written: Any, place: str) -> Workload:
    fields = {f.name: f for f in dataclasses.fields(Workload)}
    _known(written, tuple(fields), place)
    for required in ("name", "model"):
        if required not in written:
            raise ScenarioError(f"{place}.{required} is required")
    values: dict[str, Any] = {"team": ""}
    for key, value in written.items():
        kind = {"str": str, "int": int, "float": float}[str(fields[key].type)]
        try:
            values[key] = kind(value)
        except (TypeError, ValueError) as error:
            raise ScenarioError(f"{place}.{key} must be a {fields[key].type}, not {value!r}") from error
    return Workload(**values)


def _pattern(written: Any, place: str) -> Pattern:
    _known(written, ("accelerator", "workloads"), place)
    accelerator = written.get("accelerator")
    if accelerator not in HARDWARE:
        raise ScenarioError(f"{place}.accelerator must be one of {', '.join(HARDWARE)}, not {accelerator!r}")
    return Pattern(accelerator, tuple(str(w) for w in written.get("workloads", ())))


def _wish(written: Any, place: str) -> Wish:
    _known(written, ("kind", "node", "engine", "accelerator", "at", "lasts", "form"), place)
    if written.get("kind") not in INCIDENT_KINDS:
        raise ScenarioError(f"{place}.kind must be one of {', '.join(INCIDENT_KINDS)}, not {written.get('kind')!r}")
    return Wish(
        kind=written["kind"],
        node=int(written.get("node", 1)),
        engine=int(written.get("engine", 0)),
        accelerator=int(written.get("accelerator", 0)),
        at_us=duration_us(written.get("at", "0s"), f"{place}.at"),
        lasts_us=duration_us(written.get("lasts", "10m"), f"{place}.lasts"),
        form=str(written.get("form", "")),
    )
