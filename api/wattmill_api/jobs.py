"""The jobs: a table of name, period and function, run by one leader among all replicas.

The leader is whoever holds a PostgreSQL advisory lock; it lives on one connection, so a leader that dies, or whose
database restarts, loses it and another replica takes over within a few seconds. Jobs never run twice at once and
never raise: what went wrong is logged, stored in `job_run` and shown by `/readyz` and `/metrics`.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
import time
from collections.abc import Callable

from apscheduler.schedulers.background import BackgroundScheduler

import wattmill_analytics
from wattmill_analytics import rehearsal
from wattmill_api import accounting, curves, detection, phases
from wattmill_api.settings import Settings
from wattmill_api.store import exposition
from wattmill_api.store import jobs as store
from wattmill_api.store.database import Connection
from wattmill_api.webhooks import notify

log = logging.getLogger(__name__)

SAMPLE_TABLES = (
    "accelerator_sample",
    "engine_sample",
    "latency_sample",
    "host_sample",
    "power_meter_sample",
    "gateway_sample",
    "absence",
)
MINUTE_TABLES = (
    "ledger_minute",
    "host_minute",
    "accelerator_minute",
    "engine_minute",
    "latency_minute",
    "power_meter_minute",
    "gateway_minute",
)
_LEAD_EVERY_S = 5
_LEARN_EVERY_S = 600
_HANDED_OVER_US = 48 * 3_600_000_000  # how far back the leader before, who may be older, may have closed hours


class Jobs:
    """Runs the job table while this process leads. `start` returns at once; `stop` waits for the running job."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection: Connection | None = None
        self._is_new = False  # it has taken the lead, and closed nothing yet
        self._stopping = threading.Event()
        # One worker: the jobs share the leader's connection, and roll-up must not compete with itself for two cores.
        self._scheduler = BackgroundScheduler(
            timezone=dt.UTC,
            executors={
                "default": {"type": "threadpool", "max_workers": 1},
                "outside": {"type": "threadpool", "max_workers": 1},
            },
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        self._add(
            ("lead", _LEAD_EVERY_S, lambda _: ""),
            ("roll-up", settings.roll_up_every_s, self._roll_up),
            ("verify", 600, self._verify),
            ("retain", 3600, self._retain),
        )
        # Receivers may be slow: they are posted to beside the other jobs, on a connection of their own.
        self._scheduler.add_job(
            self._notify,
            "interval",
            id="notify",
            executor="outside",
            seconds=settings.notify_every_s,
            next_run_time=dt.datetime.now(dt.UTC),
        )

    def _add(self, *jobs: tuple[str, float, Callable[[Connection], str]]) -> None:
        for name, every_s, function in jobs:
            self._scheduler.add_job(
                self._run,
                "interval",
                args=(name, function),
                id=name,
                seconds=every_s,
                next_run_time=dt.datetime.now(dt.UTC),
            )

    def start(self) -> None:
        # Compile before the first roll-up, off the request path: a cold first call would hold the first figures back.
        threading.Thread(target=self._warm_up, name="warm-up", daemon=True).start()

    def _warm_up(self) -> None:
        wattmill_analytics.warm_up()
        if not self._stopping.is_set():
            self._scheduler.start()
        # What judges takes longer to compile, and can wait: roll-up goes on meanwhile.
        rehearsal.rehearse()
        if not self._stopping.is_set():
            self._add(
                ("curves", _LEARN_EVERY_S, self._learn_curves),
                ("detect", self._settings.detect_every_s, self._detect),
                ("phases", _LEARN_EVERY_S, self._learn_phases),
            )

    def stop(self) -> None:
        """Ends after the job that runs now; gives the lock back."""
        self._stopping.set()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=True)
        if self._connection is not None:
            self._connection.close()

    def _lead(self) -> Connection | None:
        """The leader's connection, or None while another replica leads or the database is away."""
        try:
            if self._connection is not None:
                store.ping(self._connection)
                return self._connection
        except store.Lost as error:
            log.warning("lost the leader's connection: %s", error, extra={"action": "lead"})
            self._connection = None
        try:
            connection = store.connect(self._settings.database_url)
        except store.Lost as error:
            log.warning("the database can't be reached: %s", error, extra={"action": "lead"})
            return None
        if store.try_lead(connection):
            log.info("this process runs the jobs", extra={"action": "lead"})
            self._connection, self._is_new = connection, True
            return connection
        connection.close()
        return None

    def _run(self, name: str, function: Callable[[Connection], str]) -> None:
        connection = self._lead()
        if connection is not None and name != "lead":
            self._run_on(connection, name, function)

    def _run_on(self, connection: Connection, name: str, function: Callable[[Connection], str]) -> None:
        if self._stopping.is_set():
            return
        try:
            store.began(connection, name)
            detail = function(connection)
            store.ended(connection, name, True, detail)
        except Exception as error:  # a job must not end the scheduler: the next run tries again, and the log says why
            log.exception("job %s failed", name, extra={"action": name})
            if not connection.closed and not connection.broken:
                store.ended(connection, name, False, f"{type(error).__name__}: {error}"[:500])

    def _roll_up(self, connection: Connection) -> str:
        if self._is_new:
            now_us = time.time_ns() // 1000
            accounting.make_days_whole(connection, now_us - _HANDED_OVER_US, now_us)
            self._is_new = False
        closed = 0
        while not self._stopping.is_set() and (windows := accounting.roll_up(connection)):
            closed += windows
        return f"{closed} windows"

    def _detect(self, connection: Connection) -> str:
        now = dt.datetime.now(dt.UTC)
        said = detection.detect(connection, now)
        exposition.count_findings(connection, now)
        return said

    def _learn_curves(self, connection: Connection) -> str:
        return curves.learn_curves(connection, dt.datetime.now(dt.UTC))

    def _learn_phases(self, connection: Connection) -> str:
        return phases.learn_phases(connection, dt.datetime.now(dt.UTC))

    def _notify(self) -> None:
        if self._connection is None:  # another replica leads, or none yet
            return
        try:
            with store.connect(self._settings.database_url) as connection:
                self._run_on(connection, "notify", self._tell)
        except store.Lost as error:
            log.warning("the database can't be reached: %s", error, extra={"action": "notify"})

    def _tell(self, connection: Connection) -> str:
        return notify.notify(connection, dt.datetime.now(dt.UTC), notify.outside(self._settings))

    def _verify(self, connection: Connection) -> str:
        last = dt.datetime.now(dt.UTC).replace(minute=0, second=0, microsecond=0)
        checked = store.verify_accelerators(connection, last - dt.timedelta(hours=1), last)
        wrong = [v for v in checked if v.difference_mj]
        if wrong:
            log.error(
                "ledger differs from the counters on %d boards: %s", len(wrong), wrong[:3], extra={"action": "verify"}
            )
            raise ArithmeticError(f"{len(wrong)} of {len(checked)} boards differ, first {wrong[0]}")
        return f"{len(checked)} boards, difference 0"

    def _retain(self, connection: Connection) -> str:
        now = dt.datetime.now(dt.UTC)
        store.drop_older(connection, SAMPLE_TABLES, now - dt.timedelta(days=self._settings.retain_samples_days))
        store.drop_older(connection, MINUTE_TABLES, now - dt.timedelta(days=self._settings.retain_minutes_days))
        notify.forget(connection, now)
        pruned = store.prune_batch_ledger(connection, now - dt.timedelta(days=self._settings.retain_samples_days))
        return f"{pruned} batch rows pruned"
