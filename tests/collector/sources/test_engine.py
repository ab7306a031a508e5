"""Engines over real sockets: totals to the unit through restarts, and a reason for everything that can't be read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.fake_engine import FakeEngine
from support.llama_server import llama_server
from wattmill_collector.catalogue import Histogram
from wattmill_collector.placement import Board
from wattmill_collector.placement.process import Processes
from wattmill_collector.settings import EngineSettings
from wattmill_collector.sources.addresses import Names
from wattmill_collector.sources.engine import EngineSource
from wattmill_collector.sources.engine_target import parse_about
from wattmill_collector.sources.scraper import Scraper
from wattmill_collector.wire import AbsenceReading, EngineReading, Reading, decode_reading, encode_reading

SECOND_US = 1_000_000
START_US = 1_764_030_001 * SECOND_US  # one second after a minute's edge
Make = Callable[..., EngineSource]


@pytest.fixture
def source() -> Iterator[Make]:
    made: list[EngineSource] = []

    def make(*targets: str | EngineSettings, interval_us: int = SECOND_US, **options: object) -> EngineSource:
        engines = [EngineSettings(t) if isinstance(t, str) else t for t in targets]
        made.append(EngineSource(engines, interval_us=interval_us, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with FakeEngine("vllm", process_start=1_764_030_173.12) as one:
        yield one


def engines(readings: list[Reading]) -> list[EngineReading]:
    return [r for r in readings if isinstance(r, EngineReading)]


def absences(readings: list[Reading]) -> list[tuple[str, str]]:
    return [(r.id, r.reason) for r in readings if isinstance(r, AbsenceReading)]


def only(readings: list[Reading]) -> EngineReading:
    (one,) = readings
    assert isinstance(one, EngineReading)
    return one


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def test_one_engine(source: Make, engine: FakeEngine) -> None:
    engine.add(input_=120, cached=20, output=64, finished=2)
    settings = EngineSettings(engine.url, workload="chat", team="search")
    reading = only(source(settings).read(START_US))
    assert (reading.target, reading.series, reading.engine_kind) == (engine.url, "model_name=demo,engine=0", "vllm")
    assert (reading.model, reading.workload, reading.team, reading.version) == ("demo", "chat", "search", "0.16.0")
    assert (reading.input_tokens, reading.cached_input_tokens, reading.computed_input_tokens) == (120, 20, 100)
    assert (reading.output_tokens, reading.requests_finished, reading.tokens_move) == (64, 2, "step")
    assert decode_reading(encode_reading(reading)) == reading


def test_histograms_are_read_once_in_ten_seconds_and_at_every_minutes_edge(source: Make, engine: FakeEngine) -> None:
    engine.state = dataclasses.replace(engine.state, latencies=(3, 2, 1))
    reader = source(engine.url)
    shown = {}
    for second in range(21):
        reading = only(reader.read(START_US + (second + 9) * SECOND_US))
        shown[second] = reading.inter_token_latency
        assert reading.output_tokens == 0
    assert [second for second, found in shown.items() if found is not None] == [0, 10, 20]
    assert shown[20] == Histogram((10_000, 25_000), (3, 5, 6))


def test_the_epoch_is_the_printed_process_start(source: Make, engine: FakeEngine) -> None:
    reading = only(source(engine.url).read(START_US))
    assert reading.epoch_start_us == 1_764_030_173_120_000
    said = f"{engine.url}\npage\n1764030173.12".encode()
    assert reading.epoch == int.from_bytes(hashlib.blake2b(said, digest_size=8).digest(), "big", signed=True)


def test_the_epoch_survives_the_agent_and_not_the_engine(source: Make, engine: FakeEngine) -> None:
    before = only(source(engine.url).read(START_US))
    again = only(source(engine.url).read(START_US))
    engine.restart(1_764_030_999.5)
    after = only(source(engine.url).read(START_US))
    assert before.epoch == again.epoch != after.epoch
    assert after.epoch_start_us == 1_764_030_999_500_000


def test_totals_are_exact_through_restarts(source: Make, engine: FakeEngine) -> None:
    """As the service counts: the difference within an epoch, all of the counter in a new one whose start is known."""
    one = source(engine.url)
    seen: dict[int, int] = {}
    truth = 0
    for tick in range(40):
        engine.add(output=tick * 7 + 1)
        truth += tick * 7 + 1
        reading = only(one.read(START_US + tick * SECOND_US))
        assert reading.output_tokens is not None
        seen[reading.epoch] = max(reading.output_tokens, seen.get(reading.epoch, 0))
        if tick % 9 == 8:
            engine.restart(1_764_030_200.0 + tick)
    assert sum(seen.values()) == truth
    assert len(seen) == 5


def test_down_at_a_tick_and_back_at_the_next(source: Make, engine: FakeEngine) -> None:
    one = source(engine.url)
    engine.add(output=5)
    first = only(one.read(START_US))
    engine.down()
    assert absences(one.read(START_US + SECOND_US)) == [(engine.url, "connection_refused")]
    engine.up()
    engine.restart(1_764_030_900.0)
    engine.add(output=3)
    back = only(one.read(START_US + 2 * SECOND_US))
    assert (back.output_tokens, back.epoch_start_us) == (3, 1_764_030_900_000_000)
    assert back.epoch != first.epoch


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("hang", "timeout"),
        ("garbage", "not_http"),
        ("html", "not_understood"),
        ("http_500", "http_500"),
        ("http_503", "http_503"),
        ("redirect", "http_302"),
        ("huge", "too_large"),
        ("endless", "too_large"),
        ("cut", "cut_off"),
        ("empty", "not_understood"),
    ],
)
def test_what_can_not_be_read_is_an_absence_with_its_reason_and_the_next_tick_is_well(
    source: Make, engine: FakeEngine, mode: str, reason: str
) -> None:
    one = source(engine.url, interval_us=2 * SECOND_US)
    engine.mode = mode
    (absence,) = one.read(START_US)
    assert isinstance(absence, AbsenceReading)
    assert (absence.subject, absence.id, absence.reason) == ("engine", engine.url, reason)
    assert absence.detail
    assert decode_reading(encode_reading(absence)) == absence
    engine.mode = "ok"
    engine.add(output=7)
    assert only(one.read(START_US + SECOND_US)).output_tokens == 7


def test_a_redirect_is_never_followed(source: Make, engine: FakeEngine) -> None:
    engine.mode = "redirect"
    source(engine.url).read(START_US)
    assert engine.requests == ["/metrics"]


def test_chunked_pages_are_read(source: Make, engine: FakeEngine) -> None:
    engine.mode = "chunked"
    engine.add(output=9)
    assert engines(source(engine.url).read(START_US))[0].output_tokens == 9


def test_an_absence_is_said_when_it_begins_when_it_changes_and_at_every_minute(source: Make) -> None:
    target = f"http://127.0.0.1:{free_port()}/metrics"
    one = source(target)
    said = [absences(one.read(START_US + tick * SECOND_US)) for tick in range(121)]
    assert [tick for tick, what in enumerate(said) if what] == [0, 59, 119]


def test_the_beginning_of_an_absence_is_told(source: Make) -> None:
    one = source(f"http://127.0.0.1:{free_port()}/metrics")
    (first,) = one.read(START_US)
    (later,) = one.read(START_US + 59 * SECOND_US)
    assert isinstance(first, AbsenceReading)
    assert isinstance(later, AbsenceReading)
    assert (first.start_us, later.start_us) == (None, START_US)


def test_one_hanging_engine_does_not_hold_up_the_others(source: Make) -> None:
    with FakeEngine("vllm") as good, FakeEngine("vllm") as bad:
        bad.mode = "hang"
        one = source(bad.url, good.url)
        began = time.monotonic()
        readings = one.read(START_US)
        assert time.monotonic() - began < 1.0  # 0.8 of the interval of 1 s, and a little
        assert [r.target for r in engines(readings)] == [good.url]
        assert absences(readings) == [(bad.url, "timeout")]


def test_a_value_that_is_no_count_is_absent_with_a_reason(source: Make, engine: FakeEngine) -> None:
    engine.body = b"vllm:generation_tokens_total NaN\nvllm:prompt_tokens_total 4\n"
    reading, absence = source(engine.url).read(START_US)
    assert isinstance(reading, EngineReading)
    assert isinstance(absence, AbsenceReading)
    assert (reading.input_tokens, reading.output_tokens) == (4, None)
    assert (absence.reason, absence.detail) == ("not_a_number", "output_tokens of the engine can't be used")


def test_an_engine_without_token_counters_says_so(source: Make, engine: FakeEngine) -> None:
    engine.body = b"vllm:num_requests_running 1\n"
    reading, absence = source(engine.url).read(START_US)
    assert isinstance(reading, EngineReading)
    assert isinstance(absence, AbsenceReading)
    assert (reading.output_tokens, reading.requests_running, absence.reason) == (None, 1, "no_token_counters")


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "224.0.0.1",
        "100.100.100.200",
    ],
)
def test_metadata_and_multicast_addresses_are_refused(source: Make, host: str) -> None:
    target = f"http://{host}/metrics"
    assert absences(source(target).read(START_US)) == [(target, "address_denied")]


@pytest.mark.parametrize(
    "target",
    [
        "ftp://a/metrics",
        "http:///metrics",
        "127.0.0.1:8000",
        "http://u:p@a/metrics",
        "http://a b/",
        "http://a/" + "x" * 600,
    ],
)
def test_a_target_that_can_not_be_one_is_refused_at_start(source: Make, target: str) -> None:
    with pytest.raises(ValueError, match="target"):
        source(target)


def test_a_kept_connection_that_the_engine_has_closed_is_no_failure(source: Make, engine: FakeEngine) -> None:
    one = source(engine.url)
    one.read(START_US)
    port = engine.port
    engine.down()
    engine.up()
    assert engine.port == port
    assert engines(one.read(START_US + SECOND_US))


def test_connections_are_kept(source: Make, engine: FakeEngine) -> None:
    one = source(engine.url)
    threads = set()
    for tick in range(5):
        one.read(START_US + tick * SECOND_US)
        threads |= {t.ident for t in threading.enumerate() if "process_request_thread" in t.name}
    assert len(threads) == 1


@pytest.mark.parametrize("dialect", ["vllm", "sglang", "tgi", "llamacpp"])
def test_each_dialect(source: Make, dialect: str) -> None:
    with FakeEngine(dialect, model="demo") as engine:
        one = source(engine.url)
        engine.add(input_=1000, cached=300, output=50)
        first = only(one.read(START_US))
        engine.restart()
        engine.add(input_=10, cached=3, output=5)
        second = only(one.read(START_US + SECOND_US))
    assert (first.engine_kind, first.model) == (dialect, "demo")
    assert (first.input_tokens, first.output_tokens) == (1000, 50)
    assert first.cached_input_tokens == (None if dialect == "tgi" else 300)
    assert (second.input_tokens, second.output_tokens) == (10, 5)
    assert (first.epoch != second.epoch) == (dialect in ("vllm", "llamacpp"))  # else: the same process, this test's
    assert first.epoch != 0


def test_ranks_of_one_engine_give_a_reading_each(source: Make) -> None:
    with FakeEngine("sglang", ranks=3) as engine:
        engine.add(input_=10, output=4)
        readings = engines(source(engine.url).read(START_US))
    assert [r.series for r in readings] == [f"model_name=demo,dp_rank={rank}" for rank in range(3)]
    assert {r.output_tokens for r in readings} == {4}


def test_the_start_of_a_local_process_dates_an_engine_that_does_not(source: Make) -> None:
    with FakeEngine("sglang") as engine:
        engine.add(input_=10, output=4)
        reading = only(source(engine.url).read(START_US))
    btime = next(
        int(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime")
    )
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    assert reading.epoch_start_us is not None
    assert abs(reading.epoch_start_us / 1e6 - (btime + ticks / 100)) < 1.5


def test_the_header_of_llamacpp_tells_starts_apart_but_is_no_date(source: Make) -> None:
    """It is called Process-Start-Time-Unix and holds microseconds of the host's monotonic clock."""
    with FakeEngine("llamacpp") as engine:
        reading = only(source(engine.url).read(START_US))
        engine.headers = {"Process-Start-Time-Unix": "1700000000"}
        other = only(source(engine.url).read(START_US))
    assert reading.epoch != other.epoch
    assert reading.epoch_start_us == other.epoch_start_us  # by the kernel
    assert other.epoch_start_us != 1_700_000_000_000_000


def test_a_start_printed_with_six_digits_is_no_evidence(source: Make, engine: FakeEngine) -> None:
    engine.body = b"process_start_time_seconds 1.76403e+09\nvllm:generation_tokens_total 4\n"
    reading = only(source(engine.url).read(START_US))
    assert reading.epoch_start_us != 1_764_030_000_000_000
    assert reading.epoch != 0  # the local process stands in


def test_a_real_process_that_does_not_date_itself_is_killed_and_started_again(source: Make, tmp_path: Path) -> None:
    state, port = tmp_path / "state.json", free_port()
    script = Path(__file__).parents[2] / "support/fake_engine.py"
    one = source(f"http://127.0.0.1:{port}/metrics")
    found = []
    for tick, output in enumerate((70, 50, 60)):  # the counter of a new process may already be above the old one's
        state.write_text(json.dumps({"input": 100, "output": output}))
        command = [sys.executable, str(script), "--port", str(port), "--dialect", "sglang", "--state", str(state)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            readings = [only(one.read(START_US + (2 * tick + again) * SECOND_US)) for again in (0, 1)]
            process.kill()
        assert readings[0].epoch == readings[1].epoch
        found.append(readings[0])
    assert [r.output_tokens for r in found] == [70, 50, 60]
    assert len({r.epoch for r in found}) == 3
    starts = [r.epoch_start_us or 0 for r in found]
    assert starts == sorted(set(starts))
    assert abs(starts[-1] / 1e6 - time.time()) < 30


def test_counters_of_a_process_that_is_no_longer_the_one_that_listens_are_not_dated_by_it(source: Make) -> None:
    """The page came from a process that ended right after; the listener found by then began after the request."""
    late = Processes(boot_us=lambda: (time.time_ns() + 10**12) // 1000)
    with FakeEngine("sglang") as engine:
        engine.add(output=5)
        assert absences(source(engine.url, processes=late).read(START_US)) == [(engine.url, "restarting")]


def test_configured_accelerators(source: Make, engine: FakeEngine) -> None:
    boards = (Board("GPU-a", 0), Board("GPU-b", 1))
    settings = EngineSettings(engine.url, accelerators=("1", "GPU-a", "7"))
    reading, absence = source(settings, boards=lambda: boards).read(START_US)
    assert isinstance(reading, EngineReading)
    assert isinstance(absence, AbsenceReading)
    assert (reading.accelerators, reading.method) == (("GPU-b", "GPU-a"), "configured")
    assert absence.reason == "accelerator_not_found"


def test_an_engine_is_discovered_by_the_boards_its_process_holds(source: Make, engine: FakeEngine) -> None:
    boards = (Board("GPU-a", 0, (os.getpid(),)), Board("GPU-b", 1, ()))
    one = source(discover=True, boards=lambda: boards)
    assert one.read(START_US) == []
    reading = next(r for r in engines(one.read(START_US + SECOND_US)) if r.target == engine.url)
    assert (reading.workload, reading.accelerators) == ("demo", ("GPU-a",))
    assert reading.method in ("process", "share")  # other tests' servers may live in this process


def test_a_configured_index_means_the_same_board_while_that_is_lost(source: Make, engine: FakeEngine) -> None:
    boards = [Board("GPU-a", 0), Board("GPU-b", 1)]
    one = source(EngineSettings(engine.url, accelerators=("0", "1")), boards=lambda: boards)
    assert only(one.read(START_US)).accelerators == ("GPU-a", "GPU-b")
    del boards[0]
    assert only(one.read(START_US + 10 * SECOND_US)).accelerators == ("GPU-a", "GPU-b")


class Driver:
    """Two boards whose process lists are as old as the last time they were read; this process is on the second."""

    def __init__(self, *pids: int) -> None:
        self.pids = pids
        self.listed_us: list[int] = []
        self._seen: tuple[int, ...] = ()

    def boards(self) -> tuple[Board, ...]:
        return Board("GPU-a", 0, ()), Board("GPU-b", 1, self._seen)

    def list_processes(self, time_us: int) -> None:
        self.listed_us.append(time_us)
        self._seen = self.pids


def test_an_engine_has_its_boards_on_its_first_reading_and_so_has_its_next_process(
    source: Make, engine: FakeEngine
) -> None:
    driver = Driver(os.getpid())
    one = source(engine.url, boards=driver.boards, list_processes=driver.list_processes)
    for tick in range(5):
        assert only(one.read(START_US + tick * SECOND_US)).accelerators == ("GPU-b",)
    driver.pids = ()
    driver.list_processes(0)
    engine.down()
    one.read(START_US + 5 * SECOND_US)
    driver.pids = (os.getpid(),)
    engine.restart(1_764_030_999.5)
    engine.add(output=100)
    for tick in range(6, 12):
        reading = only(one.read(START_US + tick * SECOND_US))
        assert (reading.accelerators, reading.output_tokens) == (("GPU-b",), 100)
    assert driver.listed_us == [START_US, 0, START_US + 5 * SECOND_US, START_US + 6 * SECOND_US]


def test_an_engine_on_no_board_is_looked_for_a_few_times_and_then_in_turn(source: Make, engine: FakeEngine) -> None:
    driver = Driver()
    one = source(engine.url, boards=driver.boards, list_processes=driver.list_processes)
    for tick in range(60):
        assert only(one.read(START_US + tick * SECOND_US)).accelerators == ()
    assert [(us - START_US) // SECOND_US for us in driver.listed_us] == [0, 1, 3, 7]


def test_process_lists_are_read_once_for_all_engines_and_not_for_configured_ones(source: Make) -> None:
    driver = Driver(os.getpid())
    with FakeEngine() as a, FakeEngine() as b, FakeEngine() as c:
        configured = EngineSettings(c.url, accelerators=("0",))
        one = source(a.url, b.url, configured, boards=driver.boards, list_processes=driver.list_processes)
        one.read(START_US)
        c.restart()
        one.read(START_US + SECOND_US)
    assert driver.listed_us == [START_US]


def pages_asked(engine: FakeEngine) -> int:
    return engine.requests.count("/metrics")


def test_an_engine_that_loads_is_not_also_discovered_under_another_name(source: Make, engine: FakeEngine) -> None:
    """Configured by the host's name; its 503 tells nothing of the process that answers, but where it answered."""
    url = engine.url.replace("127.0.0.1", "gpu-017")
    boards = (Board("GPU-a", 0, (os.getpid(),)),)
    names = Scraper(Names(lambda _, port: [("127.0.0.1", port)]))
    one = source(url, discover=True, boards=lambda: boards, scraper=names)
    engine.mode = "http_503"
    for tick in range(30):
        if tick == 25:
            engine.mode = "ok"
        readings = one.read(START_US + tick * SECOND_US)
        here = [r for r in engines(readings) if str(engine.port) in r.target]
        assert [r.target for r in here] == [url] * (tick >= 25)
        assert pages_asked(engine) == tick + 1


def test_an_engine_whose_name_is_not_resolved_yet_is_not_read_under_another(source: Make, engine: FakeEngine) -> None:
    answers: list[tuple[str, int]] = []
    url = engine.url.replace("127.0.0.1", "gpu-017")
    boards = (Board("GPU-a", 0, (os.getpid(),)),)
    one = source(url, discover=True, boards=lambda: boards, scraper=Scraper(Names(lambda _, port: answers)))
    for tick in range(25):
        if tick == 20:
            answers.append(("127.0.0.1", engine.port))
        here = [r for r in engines(one.read(START_US + tick * SECOND_US)) if str(engine.port) in r.target]
        assert [r.target for r in here] == [url] * (tick >= 20)


def test_a_discovered_engine_gives_way_when_a_configured_one_turns_out_to_be_the_same(
    source: Make, engine: FakeEngine
) -> None:
    address = ["127.0.0.2"]  # nobody listens there
    url = engine.url.replace("127.0.0.1", "gpu-017")
    boards = (Board("GPU-a", 0, (os.getpid(),)),)
    names = Scraper(Names(lambda _, port: [(address[0], port)]))
    one = source(url, discover=True, boards=lambda: boards, scraper=names)
    seen: list[set[str]] = []
    for tick in range(30):
        if tick == 5:
            address[0] = "127.0.0.1"
        here = [r.target for r in engines(one.read(START_US + tick * SECOND_US)) if str(engine.port) in r.target]
        assert len(here) <= 1
        seen.append(set(here))
    assert seen[4] == {engine.url}
    assert seen[5:] == [{url}] * 25


def test_a_port_that_is_no_engine_is_not_reported(source: Make) -> None:
    with FakeEngine("vllm") as web:
        web.mode = "html"
        one = source(discover=True, boards=lambda: (Board("GPU-a", 0, (os.getpid(),)),))
        for tick in range(3):
            assert [r for r in one.read(START_US + tick * SECOND_US) if getattr(r, "id", "") == web.url] == []
        assert len(web.requests) == 1  # asked once, then left alone for a while


def test_an_engine_is_named_from_its_first_reading_on_where_another_port_took_the_tick(source: Make) -> None:
    with FakeEngine("llamacpp", model="qwen") as engine, FakeEngine() as bad:
        bad.mode = "hang"
        assert [r.model for r in engines(source(engine.url, bad.url).read(START_US))] == ["qwen"]


def test_what_an_engine_is_called_is_asked_again_where_it_did_not_answer_and_not_for_ever(source: Make) -> None:
    with FakeEngine("llamacpp", model="qwen") as engine:
        one = source(engine.url, interval_us=200_000)
        engine.hangs_at = "/props"
        assert only(one.read(START_US)).model == ""
        engine.hangs_at = ""
        assert only(one.read(START_US + SECOND_US)).model == "qwen"
        engine.restart()
        engine.hangs_at = "/props"
        for tick in range(2, 10):
            one.read(START_US + tick * SECOND_US)
        assert engine.requests.count("/props") == 7  # once, once more, and five times of the new process


def test_what_engines_say_of_themselves() -> None:
    said = parse_about(b'{"model_alias": "/models/a/qwen.gguf", "build_info": "b1-x"}')
    assert (said.model, said.version) == ("qwen", "b1-x")
    for strange in (b"", b"[]", b"{", b'{"model_id": 5, "version": null}', b"[" * 100_000, b'{"version": "\\ud800"}'):
        parse_about(strange)


def test_eight_engines_cost_little(source: Make) -> None:
    fakes = [FakeEngine("vllm", padding_lines=550) for _ in range(8)]
    try:
        assert len(fakes[0].page()) > 60_000
        one = source(*(f.url for f in fakes))
        costs = []
        for tick in range(12):
            for fake in fakes:
                fake.add(input_=1000, output=100)
            began = time.thread_time_ns()
            readings = one.read(START_US + tick * SECOND_US)
            costs.append(time.thread_time_ns() - began)
            assert {r.output_tokens for r in engines(readings)} == {100 * (tick + 1)}
        assert sorted(costs)[6] < 12_000_000  # about 2 ms on an idle machine; the servers share this one
    finally:
        for fake in fakes:
            fake.down()


def test_the_real_llama_server_is_read_to_the_token(source: Make) -> None:
    with llama_server() as server:
        one = source(server.url)
        first = only(one.read(START_US))
        assert (first.engine_kind, first.model, first.input_tokens, first.output_tokens) == ("llamacpp", "tiny", 0, 0)
        said = server.complete("hello mill", 16)
        again = server.complete("hello mill", 24)
        second = only(one.read(START_US + SECOND_US))
        assert again["timings"]["cache_n"] > 0
        assert second.output_tokens == said["tokens_predicted"] + again["tokens_predicted"] == 40
        assert second.input_tokens == said["tokens_evaluated"] + again["tokens_evaluated"]
        assert second.cached_input_tokens == again["timings"]["cache_n"]
        assert second.epoch == first.epoch
        assert second.epoch_start_us is not None
        server.stop()
        server.start()
        server.complete("hello", 8)
        third = only(one.read(START_US + 2 * SECOND_US))
        assert (third.output_tokens, third.epoch != second.epoch) == (8, True)
        assert third.epoch_start_us is not None
        assert second.epoch_start_us < third.epoch_start_us
