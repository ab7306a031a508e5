"""Sums whose parts restart, vanish and come back one by one: every increment that was seen is counted, and once."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wattmill_analytics.increments import increments, infer_restarts
from wattmill_collector.catalogue import Histogram
from wattmill_collector.sources.engine_pages import EnginePage
from wattmill_collector.sources.engine_tables import named
from wattmill_collector.sources.engine_totals import epoch_since

COUNTERS = {"input_tokens": "vllm:prompt_tokens_total", "output_tokens": "vllm:generation_tokens_total"}
BOUNDS = ("0.1", "1.0", "+Inf")
TICK_US = 1_000_000


@dataclasses.dataclass
class Worker:
    """A process that counts on the page under a label of its own."""

    input_tokens: int = 0
    output_tokens: int = 0
    buckets: tuple[int, ...] = (0, 0, 0)
    shown: bool = True

    def work(self, tokens: int, bucket: int) -> None:
        self.input_tokens += 3 * tokens
        self.output_tokens += tokens
        if tokens:
            self.buckets = tuple(n + (i >= bucket) for i, n in enumerate(self.buckets))

    def restart(self) -> None:
        self.input_tokens, self.output_tokens, self.buckets = 0, 0, (0, 0, 0)


def page_of(workers: dict[str, Worker]) -> bytes:
    lines = []
    for name, worker in workers.items():
        if not worker.shown:
            continue
        labels = f'engine="0",model_name="m",pid="{name}"'
        lines += [f"{series}{{{labels}}} {getattr(worker, field)}" for field, series in COUNTERS.items()]
        lines += [
            f'vllm:time_to_first_token_seconds_bucket{{{labels},le="{le}"}} {n}'
            for le, n in zip(BOUNDS, worker.buckets, strict=True)
        ]
    return ("\n".join(lines) + "\n").encode()


class Service:
    """What counts the agent's readings: exact differences within an epoch, from zero where one begins in sight.

    All counters falling at once in one epoch is a restart, as the service takes it.
    """

    def __init__(self) -> None:
        self.total: dict[str, int] = dict.fromkeys(COUNTERS, 0)
        self.buckets = [0, 0, 0]
        self._last: dict[str, int] = {}
        self._last_buckets: tuple[int, ...] = (0, 0, 0)
        self._epoch: int | None = None
        self._buckets_epoch: int | None = None
        self._read_us = -1
        self._first = True

    def read(self, reader: EnginePage, time_us: int) -> None:
        (engine,) = reader.values(time_us)
        now = {field: value for field, value in engine.values.items() if isinstance(value, int)}
        assert set(now) == set(COUNTERS)
        assert engine.faults == ()
        if engine.since_us != self._epoch:
            assert engine.since_us is not None
            assert engine.since_us > self._read_us
            self._last = {}
        elif self._last and all(now[field] < last for field, last in self._last.items() if last):
            self._last = {}
        for field, value in now.items():
            rose = value - self._last.get(field, 0)
            assert rose >= 0
            if not self._first:
                self.total[field] += rose
        shown = engine.values["time_to_first_token"]
        assert isinstance(shown, Histogram)
        if engine.since_us != self._buckets_epoch or shown.counts[-1] < self._last_buckets[-1]:
            self._last_buckets = (0, 0, 0)
        if not self._first:
            risen = [n - last for n, last in zip(shown.counts, self._last_buckets, strict=True)]
            self.buckets = [a + b for a, b in zip(self.buckets, risen, strict=True)]
        self._last, self._last_buckets = now, shown.counts
        self._epoch = self._buckets_epoch = engine.since_us
        self._read_us, self._first = time_us, False


def read(service: Service, reader: EnginePage, workers: dict[str, Worker], tick: int) -> None:
    reader.scan(page_of(workers))
    service.read(reader, tick * TICK_US)


def test_while_all_parts_rise_the_plain_sum_stands() -> None:
    workers = {"1": Worker(100, 10), "2": Worker(200, 20)}
    reader = EnginePage(named("vllm"))
    for _ in range(3):
        reader.scan(page_of(workers))
        (engine,) = reader.values(1)
        assert engine.since_us is None
        assert engine.values["input_tokens"] == sum(w.input_tokens for w in workers.values())
        workers["1"].work(5, 0)


@pytest.mark.parametrize("how", ["restarts", "vanishes", "vanishes and another comes", "restarts and another comes"])
def test_a_part_that_begins_again_makes_no_total_fall_or_jump(how: str) -> None:
    workers = {"1": Worker(1000, 100), "2": Worker(2000, 200)}
    service, reader = Service(), EnginePage(named("vllm"))
    read(service, reader, workers, 0)
    if how.startswith("restarts"):
        workers["1"].restart()
        workers["1"].work(2, 0)
    else:
        workers["1"].shown = False
    if how.endswith("another comes"):
        workers["3"] = Worker()
        workers["3"].work(7, 1)
    workers["2"].work(1, 2)
    read(service, reader, workers, 1)
    tokens = 1 + 2 * how.startswith("restarts") + 7 * how.endswith("another comes")
    assert service.total == {"input_tokens": 3 * tokens, "output_tokens": tokens}


def test_a_part_that_comes_back_goes_on_from_where_it_stood() -> None:
    workers = {"1": Worker(1000, 100), "2": Worker(2000, 200)}
    service, reader = Service(), EnginePage(named("vllm"))
    read(service, reader, workers, 0)
    workers["1"].shown = False
    read(service, reader, workers, 1)
    workers["1"].shown = True
    workers["1"].work(4, 0)
    read(service, reader, workers, 2)
    assert service.total == {"input_tokens": 12, "output_tokens": 4}


def test_when_all_parts_fall_it_is_the_engine_that_was_restarted_and_that_is_the_services_to_judge() -> None:
    workers = {"1": Worker(1000, 100), "2": Worker(2000, 200)}
    reader = EnginePage(named("vllm"))
    reader.scan(page_of(workers))
    reader.values(1)
    for worker in workers.values():
        worker.restart()
        worker.work(3, 0)
    reader.scan(page_of(workers))
    (engine,) = reader.values(2)
    assert engine.since_us is None
    assert engine.values["output_tokens"] == 6


def test_a_reason_does_not_begin_again_by_itself() -> None:
    """SGLang's decoded tokens fall, its finished requests stay at 1: one process, and the service's to judge."""
    reader = EnginePage(named("sglang"))
    for decoded, finished in ((49, 1), (4, 1), (9, 2)):
        reader.scan(
            f'sglang:realtime_tokens_total{{mode="decode"}} {decoded}\nsglang:num_requests_total {finished}\n'.encode()
        )
        (engine,) = reader.values(1)
        assert engine.since_us is None
        assert engine.values["output_tokens"] == decoded + finished


def test_a_reason_that_leaves_the_page_keeps_what_it_counted() -> None:
    reader = EnginePage(named("vllm"))
    row = 'vllm:request_success_total{{finished_reason="{}"}} {}\n'
    counted = 0
    for stop, length in ((100, 10), (101, None), (102, 12)):
        reader.scan((row.format("stop", stop) + (row.format("length", length) if length else "")).encode())
        (engine,) = reader.values(1)
        finished = engine.values["requests_finished"]
        assert isinstance(finished, int)
        counted = finished
    assert engine.since_us is not None
    assert counted == 2 + 2


def test_one_series_alone_is_left_to_the_service() -> None:
    reader = EnginePage(named("vllm"))
    for output, finished in ((100, 5), (90, 6)):
        reader.scan(
            f'vllm:generation_tokens_total {output}\nvllm:request_success_total{{finished_reason="stop"}} {finished}\n'
            'vllm:request_success_total{finished_reason="length"} 1\n'.encode()
        )
        (engine,) = reader.values(1)
        assert engine.since_us is None
        assert engine.values["output_tokens"] == output


def test_a_new_epoch_ends_it() -> None:
    workers = {"1": Worker(1000, 100), "2": Worker(2000, 200)}
    reader = EnginePage(named("vllm"))
    for shown in (True, False):
        workers["1"].shown = shown
        reader.scan(page_of(workers))
        (engine,) = reader.values(TICK_US)
    assert engine.since_us == TICK_US + 1
    assert engine.values["output_tokens"] == 0
    reader.forget()
    reader.scan(page_of(workers))
    (engine,) = reader.values(3 * TICK_US)
    assert engine.since_us is None
    assert engine.values["output_tokens"] == 200


def test_an_agent_that_starts_anew_shows_the_plain_sum_under_the_epoch_of_the_process() -> None:
    """The service then has an epoch that began before its last reading, and takes it for a baseline."""
    assert len({1, epoch_since(1, 5), epoch_since(1, 6), epoch_since(2, 5), epoch_since(0, 5), 0}) == 6


def test_what_could_not_be_read_is_caught_up_with() -> None:
    workers = {"1": Worker(1000, 100), "2": Worker(2000, 200)}
    reader = EnginePage(named("vllm"))
    reader.scan(page_of(workers))
    reader.values(TICK_US)
    workers["1"].shown = False
    workers["2"].work(1, 0)
    reader.scan(page_of(workers).replace(b" 201\n", b" NaN\n"))
    (engine,) = reader.values(2 * TICK_US)
    assert engine.values["output_tokens"] is None
    assert engine.faults == (("output_tokens", "not_a_number"),)
    assert engine.values["input_tokens"] == 3
    workers["2"].work(1, 0)
    reader.scan(page_of(workers))
    (engine,) = reader.values(3 * TICK_US)
    assert engine.values["output_tokens"] == 2


steps = st.lists(
    st.tuples(
        st.sampled_from("123"),
        st.sampled_from(["work", "work", "work", "restart", "hide", "show"]),
        st.integers(0, 9),
        st.integers(0, 2),
    ),
    max_size=6,
)


@given(st.lists(steps, max_size=12))
@settings(max_examples=400, deadline=None)
def test_any_interleaving_adds_up_to_all_increments_that_were_seen(
    ticks: list[list[tuple[str, str, int, int]]],
) -> None:
    """A restarted worker must show fewer than before, or nobody can see the restart: so each starts with a head start.

    What a worker counts while it is off the page is seen when it comes back, unless it was restarted meanwhile.
    """
    workers = {name: Worker(3000, 1000, (10, 20, 30)) for name in "12"}
    service, reader = Service(), EnginePage(named("vllm"))
    read(service, reader, workers, 0)
    seen = dict.fromkeys(COUNTERS, 0)
    buckets = [0, 0, 0]
    last = {name: dataclasses.replace(worker) for name, worker in workers.items()}
    for tick, happenings in enumerate(ticks, 1):
        for name, what, tokens, bucket in happenings:
            worker = workers.setdefault(name, Worker())
            if what == "work":
                worker.work(tokens, bucket)
            elif what == "restart" and worker.output_tokens >= 1000:
                worker.restart()
            else:
                worker.shown = (what != "hide" and worker.shown) or what == "show"
        workers["2"].shown = True
        for name, worker in workers.items():
            if not worker.shown:
                continue
            before = last.get(name, Worker())
            if worker.output_tokens < before.output_tokens:
                before = Worker()
            for field in COUNTERS:
                seen[field] += getattr(worker, field) - getattr(before, field)
            risen = [a - b for a, b in zip(worker.buckets, before.buckets, strict=True)]
            buckets = [a + b for a, b in zip(buckets, risen, strict=True)]
            last[name] = dataclasses.replace(worker)
        read(service, reader, workers, tick)
        assert service.total == seen
        assert service.buckets == buckets


PROCESS, PROCESS_START_US = 77, -5 * TICK_US


def counted_by_the_service(rows: list[tuple[int, dict[str, int], int | None]]) -> dict[str, int]:
    """What the service's own kernels make of an engine's readings: (time_us, values, since_us)."""
    count, fields = len(rows), list(COUNTERS)
    epochs = [PROCESS if since is None else epoch_since(PROCESS, since) for _, _, since in rows]
    starts = [PROCESS_START_US if since is None else since for _, _, since in rows]
    given_twice = {
        "time_us": np.array([t for t, _, _ in rows] * 2, np.int64),
        "value": np.array([values[field] for field in fields for _, values, _ in rows], np.int64),
        "offsets": np.array([0, count, 2 * count], np.int64),
        "highest_per_s": np.zeros(2, np.int64),
    }
    epoch, start_us = infer_restarts(
        **given_twice,
        epoch=np.array(epochs * 2, np.int64),
        epoch_start_us=np.array(starts * 2, np.int64),
        group=np.zeros(2, np.int64),
    )
    found = increments(
        **given_twice,
        epoch=epoch,
        epoch_start_us=start_us,
        watched_from_us=np.full(2, -1, np.int64),
        gap_us=np.full(2, 10 * TICK_US, np.int64),
        wrap_at=np.zeros(2, np.int64),
    )
    return {field: int(found.delta[i * count : (i + 1) * count].sum()) for i, field in enumerate(fields)}


@given(
    st.lists(st.tuples(st.sampled_from(["work", "restart", "swap", "hide", "show"]), st.integers(1, 9)), max_size=10),
    st.sets(st.integers(1, 9), max_size=1),
)
@settings(max_examples=150, deadline=None)
def test_the_service_counts_it_exactly_and_never_twice_when_the_agent_is_started_again(
    happenings: list[tuple[str, int]], agent_restarts: set[int]
) -> None:
    """Worker 2 always works on; worker 1 restarts, is replaced by another, or leaves the page."""
    workers = {"1": Worker(3000, 1000), "2": Worker(6000, 2000)}
    reader = EnginePage(named("vllm"))
    rows: list[tuple[int, dict[str, int], int | None]] = []
    truth = 0
    lost = 0  # what an agent that starts anew can not have seen
    for tick, (what, tokens) in enumerate([("work", 0), *happenings]):
        first = next(iter(workers))
        workers["2"].work(tokens, 0)
        seen = tokens
        if what == "work" and workers[first].shown:
            workers[first].work(tokens, 0)
            seen += tokens
        elif what == "restart" and workers[first].output_tokens >= 1000:
            workers[first].restart()
        elif what == "swap":
            workers = {f"{tick + 10}": Worker(3 * tokens, tokens), "2": workers["2"]}
            seen += tokens
        elif what in ("hide", "show"):
            workers[first].shown = what == "show"
        # a part that is lost, or comes back, of which this agent has never heard can't be told
        if tick in agent_restarts and what == "work" and workers[first].shown:
            reader = EnginePage(named("vllm"))
            lost = seen
        reader.scan(page_of(workers))
        (engine,) = reader.values(tick * TICK_US)
        values = {field: value for field, value in engine.values.items() if isinstance(value, int)}
        rows.append((tick * TICK_US, values, engine.since_us))
        truth += seen if tick else 0
    counted = counted_by_the_service(rows)
    assert truth - lost <= counted["output_tokens"] <= truth
    assert counted["input_tokens"] == 3 * counted["output_tokens"]
