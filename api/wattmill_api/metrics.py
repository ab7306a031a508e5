"""What /metrics shows: this process's own counters, and the ledger's (exposition.py), which every replica shows alike.

One pair of registries an application, so that two in one process (tests) never share a counter.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from wattmill_api import __version__
from wattmill_api.coalescer import Coalescer
from wattmill_api.errors import WattmillError
from wattmill_api.exposition import LedgerFamilies, Reader

JobRuns = Callable[[], Sequence[Mapping[str, Any]]]


class Metrics:
    """Requests are counted where they pass; storing, jobs and the ledger are read when scraped."""

    def __init__(
        self, coalescer: Coalescer, job_runs: JobRuns, unknown_settings: Sequence[str], ledger: Reader
    ) -> None:
        self.registry = CollectorRegistry()
        self.ledger = CollectorRegistry()
        self._composing = threading.Lock()
        self.requests = Counter(
            "wattmill_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "wattmill_request_duration_seconds", "Time to answer.", ["method", "route"], registry=self.registry
        )
        self.registry.register(_Stored(coalescer))
        self.registry.register(_Jobs(job_runs))
        self.registry.register(_Build(unknown_settings))
        self.withheld = Gauge(
            "wattmill_ledger_withheld",
            "1 when the families of the ledger are left out, because the scrape came without a key that may read.",
            registry=self.registry,
        )
        self.ledger.register(LedgerFamilies(ledger))

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        self.requests.labels(method, route, str(status)).inc()
        self.seconds.labels(method, route).observe(seconds)

    def page(self, *, with_ledger: bool) -> bytes:
        """The exposition, in Prometheus' text format. Names of workloads and teams are for those who may read."""
        with self._composing:
            self.withheld.set(0 if with_ledger else 1)
            own = generate_latest(self.registry)
        return own + generate_latest(self.ledger) if with_ledger else own


class _Stored(Collector):
    def __init__(self, coalescer: Coalescer) -> None:
        self._coalescer = coalescer

    def collect(self) -> Iterable[Metric]:
        tally = self._coalescer.tally
        for name, help_, value in (
            ("wattmill_ingest_posts", "Posts stored.", tally.posts),
            ("wattmill_ingest_batches", "Batches answered with a receipt.", tally.batches),
            ("wattmill_ingest_readings", "Readings stored.", tally.readings),
            ("wattmill_ingest_duplicate_readings", "Readings that were stored before.", tally.duplicates),
            ("wattmill_ingest_rejected_readings", "Readings refused, each with a reason.", tally.rejections),
            ("wattmill_ingest_commits", "Commits; each holds every post that waited.", tally.groups),
            ("wattmill_ingest_commit_seconds", "Time spent storing.", tally.commit_seconds),
            ("wattmill_ingest_retried_groups", "Groups that failed and were stored one by one.", tally.retried_groups),
        ):
            yield CounterMetricFamily(name, help_, value=float(value))
        waiting = float(self._coalescer.waiting_readings)
        yield GaugeMetricFamily("wattmill_ingest_waiting_readings", "Readings waiting to be stored.", value=waiting)


class _Jobs(Collector):
    def __init__(self, job_runs: JobRuns) -> None:
        self._job_runs = job_runs

    def describe(self) -> Iterable[Metric]:
        return self._families()

    def collect(self) -> Iterable[Metric]:
        up, ok, finished = self._families()
        try:
            runs = self._job_runs()
        except WattmillError:
            up.add_metric([], 0.0)
            return [up]
        up.add_metric([], 1.0)
        for run in runs:
            if run["ok"] is not None:
                ok.add_metric([run["job"]], float(run["ok"]))
            if isinstance(run["finished"], dt.datetime):
                finished.add_metric([run["job"]], run["finished"].timestamp())
        return [up, ok, finished]

    @staticmethod
    def _families() -> tuple[GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily]:
        return (
            GaugeMetricFamily("wattmill_database_up", "Whether the database answers.", labels=[]),
            GaugeMetricFamily("wattmill_job_ok", "Whether the job's last run succeeded.", labels=["name"]),
            GaugeMetricFamily("wattmill_job_finished_timestamp_seconds", "When the job last ended.", labels=["name"]),
        )


class _Build(Collector):
    def __init__(self, unknown_settings: Sequence[str]) -> None:
        self._unknown_settings = unknown_settings

    def collect(self) -> Iterable[Metric]:
        build = GaugeMetricFamily("wattmill_build_info", "The version that runs.", labels=["version"])
        build.add_metric([__version__], 1.0)
        unknown = GaugeMetricFamily("wattmill_unknown_settings", "WATTMILL_* names that mean nothing.", labels=["name"])
        for name in self._unknown_settings:
            unknown.add_metric([name], 1.0)
        return [build, unknown]
