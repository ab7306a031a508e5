"""The ledger and the findings as Prometheus families, read from the store at most every `EVERY_S`.

Joules and tokens are counters, so that tokens per kilowatt-hour is a query. They are sums of the ledger's integers,
divided once; they never fall (store/exposition.py says how), and every replica shows the same: add up over sites and
workloads, never over instances. Where the database does not answer, these families are missing, not 0.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from wattmill_api.errors import WattmillError
from wattmill_api.store.exposition import OVERHEAD, Energy, Exposed

EVERY_S = 10.0
MINUTES = 5  # what coverage and power are over
ACCOUNTS = {1: "serving", 2: "idle-loaded", 3: "idle-empty", 4: "unattributed"}
OWNER_LABELS = ("site", "workload", "model", "team", "accelerator_model", "simulated")
_MJ_PER_DAY_PER_WATT = 86_400_000
_MINUTE_US = 60_000_000

Reader = Callable[[], Exposed]


class LedgerFamilies(Collector):
    """The families of the ledger; all scrapes of this process share one question to the database."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._lock = threading.Lock()
        self._asked = float("-inf")
        self._exposed: Exposed | None = None

    def describe(self) -> Iterable[Metric]:
        return []  # nothing is asked of a database that may be away when the application is built

    def collect(self) -> Iterable[Metric]:
        exposed = self._latest()
        return [] if exposed is None else families(exposed)

    def _latest(self) -> Exposed | None:
        with self._lock:
            if time.monotonic() - self._asked >= EVERY_S:
                try:
                    self._exposed = self._reader()
                except WattmillError:
                    self._exposed = None
                self._asked = time.monotonic()
            return self._exposed


def families(exposed: Exposed) -> list[Metric]:
    """All families of what was read; pure."""
    return [*_energy(exposed), *_waste(exposed), *_fleet(exposed), *_meters(exposed)]


def _energy(exposed: Exposed) -> list[Metric]:
    energy = CounterMetricFamily(
        "wattmill_energy_joules",
        "Energy of accelerators by what it was for, as the ledger has it.",
        labels=[*OWNER_LABELS, "account"],
    )
    tokens = CounterMetricFamily(
        "wattmill_tokens",
        "Tokens; cached_input is the part of input that came from a cache: do not add them up.",
        labels=[*OWNER_LABELS, "type"],
    )
    overhead = CounterMetricFamily(
        "wattmill_overhead_energy_joules", "Energy of hosts beside their accelerators.", labels=["site", "simulated"]
    )
    # Sums, because names are free: a workload may really be called `other`, and a page has each label set once.
    joules, counts, hosts = Counter[tuple[str, ...]](), Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()
    for row in exposed.energy:
        if row.account == OVERHEAD:
            hosts[row.site, _truth(row.simulated)] += row.shown_mj
            continue
        owner = _owner(row)
        joules[*owner, ACCOUNTS[row.account]] += row.shown_mj
        for type_, value in (
            ("input", row.shown_input_tokens),
            ("cached_input", row.shown_cached_input_tokens),
            ("output", row.shown_output_tokens),
        ):
            if value is not None:
                counts[*owner, type_] += value
    for labels, total in joules.items():
        energy.add_metric(labels, total / 1000)
    for labels, total in counts.items():
        tokens.add_metric(labels, total)
    for labels, total in hosts.items():
        overhead.add_metric(labels, total / 1000)
    return [energy, tokens, overhead]


def _waste(exposed: Exposed) -> list[Metric]:
    labels = ["kind", "site", "workload", "simulated"]
    wasted = CounterMetricFamily(
        "wattmill_finding_wasted_joules",
        "Energy of findings, open or over. Kinds overlap: do not add them up.",
        labels=labels,
    )
    for row in exposed.waste:
        wasted.add_metric([row.kind, row.site, row.workload, _truth(row.simulated)], row.shown_mj / 1000)
    watts = GaugeMetricFamily(
        "wattmill_finding_waste_watts",
        "What the open and acknowledged findings waste, as a mean of the last day. Kinds overlap.",
        labels=labels,
    )
    for now in exposed.waste_now:
        watts.add_metric(
            [now.kind, now.site, now.workload, _truth(now.simulated)], now.mj_per_day / _MJ_PER_DAY_PER_WATT
        )
    findings = GaugeMetricFamily("wattmill_findings", "Findings that are not over.", labels=["kind", "state"])
    for count in exposed.findings:
        findings.add_metric([count.kind, count.state], count.findings)
    return [wasted, watts, findings]


def _fleet(exposed: Exposed) -> list[Metric]:
    node = _gauge(
        "wattmill_node_last_reading_timestamp_seconds", "Newest reading of a node.", "site", "node", "simulated"
    )
    for seen in exposed.nodes:
        node.add_metric([seen.site, seen.node, _truth(seen.simulated)], _seconds(seen.last_seen))
    place = ("site", "simulated")
    newest = _gauge("wattmill_site_last_reading_timestamp_seconds", "Newest reading of a site.", *place)
    nodes = _gauge("wattmill_nodes", "Nodes seen within a week.", *place)
    boards = _gauge("wattmill_accelerators", "Accelerators seen within a week.", *place)
    coverage = _gauge(
        "wattmill_coverage_ratio", f"Share of the last {exposed.minutes} settled minutes with trusted readings.", *place
    )
    power = _gauge("wattmill_power_watts", f"Mean power of accelerators over these {exposed.minutes} minutes.", *place)
    for site in exposed.sites:
        here = (site.site, _truth(site.simulated))
        newest.add_metric(here, _seconds(site.last_seen))
        nodes.add_metric(here, site.nodes)
        boards.add_metric(here, site.boards)
        if site.expected_minutes:
            covered = site.covered_us / (site.expected_minutes * _MINUTE_US)
            coverage.add_metric(here, min(1.0, covered))
        if site.energy_mj is not None:
            power.add_metric(here, site.energy_mj / (1000 * 60 * exposed.minutes))
    last = _gauge("wattmill_ledger_last_minute_timestamp_seconds", "Begin of the newest minute of the ledger.")
    if exposed.newest_minute is not None:
        last.add_metric([], _seconds(exposed.newest_minute))
    waiting = _gauge("wattmill_ledger_waiting_spans", "Touched spans that wait for roll-up; counted up to 100000.")
    waiting.add_metric([], exposed.waiting_spans)
    return [node, newest, nodes, boards, coverage, power, last, waiting]


def _meters(exposed: Exposed) -> list[Metric]:
    if not exposed.meters:
        return []
    energy = CounterMetricFamily(
        "wattmill_meter_energy_joules",
        "Energy of power meters above nodes. It holds that of what stands below them: do not add it to any other.",
        labels=["site", "meter", "level"],
    )
    for meter in exposed.meters:
        energy.add_metric([meter.site, meter.meter, meter.level], meter.shown_mj / 1000)
    return [energy]


def _gauge(name: str, help_: str, *labels: str) -> Any:
    return GaugeMetricFamily(name, help_, labels=list(labels))


def _owner(row: Energy) -> tuple[str, ...]:
    return (row.site, row.workload, row.model, row.team, row.accelerator_model, _truth(row.simulated))


def _truth(value: bool) -> str:
    return "true" if value else "false"


def _seconds(time_: dt.datetime) -> float:
    return time_.timestamp()
