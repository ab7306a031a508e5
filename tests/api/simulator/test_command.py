"""The command against a stub service over real HTTP, and its choice of times against a clock that stands still."""

import gzip
import http.server
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from wattmill_api.simulator.command import Clock, Plan, Progress, main, read_plan, run
from wattmill_api.simulator.delivery import Delivery, HttpPost
from wattmill_api.simulator.fleet import Fleet
from wattmill_api.simulator.scenario import TINY_YAML, ScenarioError
from wattmill_collector.wire import body_hash

NOW_US = 1_760_007_605_500_000  # 2025-10-09 11:00:05.5
MINUTE_US = 60_000_000


class Stub(http.server.ThreadingHTTPServer):
    """Gives receipts as the service does, and remembers every line by stream and sequence."""

    def __init__(self) -> None:
        self.stored: dict[tuple[str, int], bytes] = {}
        self.keys: set[str | None] = set()
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        lines = gzip.decompress(self.rfile.read(int(self.headers["Content-Length"]))).splitlines()
        assert self.path == "/api/v1/ingest"
        receipts = []
        stub = self.server
        assert isinstance(stub, Stub)
        with stub.lock:
            stub.keys.add(self.headers["Authorization"])
            for line in lines:
                batch = json.loads(line)
                key = (batch["stream"], batch["sequence"])
                status = "duplicate" if stub.stored.setdefault(key, line) is not line else "stored"
                assert stub.stored[key] == line
                receipts.append({"stream": key[0], "sequence": key[1], "sha256": body_hash(line), "status": status})
        content = json.dumps({"receipts": receipts}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Quiet."""


@pytest.fixture
def stub() -> Iterator[Stub]:
    server = Stub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def plan(*words: str, environ: dict[str, str] | None = None, now_us: int = NOW_US) -> Plan:
    return read_plan(["--server", "http://x", "--nodes", "2", "--accelerators", "2", *words], environ or {}, now_us)


def test_a_span_goes_through_the_wire_and_its_truth_is_written(
    stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario, truth, key = tmp_path / "s.yaml", tmp_path / "truth.json", tmp_path / "key"
    scenario.write_text(TINY_YAML)
    key.write_text("wm_ingest_1_x\n")
    words = ["--nodes", "2", "--accelerators", "2", "--speed", "1e9", "--start", "2025-10-09T09:00:00Z"]
    words += ["--duration", "20m", "--scenario", str(scenario), "--truth", str(truth), "--server", stub.url]
    assert main(words, {"WATTMILL_KEY_FILE": str(key)}) == 0
    written = json.loads(truth.read_text())
    assert written["batches"] == len(stub.stored) == 230
    assert written["acknowledged"] is True
    assert written["acknowledged_lines"] == 233
    assert written["options"]["duration"] == "20m"
    assert stub.keys == {"Bearer wm_ingest_1_x"}
    assert "wm_ingest" not in truth.read_text()
    assert "233 batches" in capsys.readouterr().err
    assert main(words, {}) == 0, "the same run again is all duplicates"
    assert len(stub.stored) == 230
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_span_ends_at_the_last_full_minute() -> None:
    options = plan("--speed", "100", "--duration", "2h").options
    assert options.start_us + 120 * MINUTE_US == NOW_US // MINUTE_US * MINUTE_US
    assert plan("--speed", "100").options.duration_us == 24 * 60 * MINUTE_US


def test_real_time_begins_at_the_next_tick_or_in_the_asked_past() -> None:
    assert plan().options.start_us == 1_760_007_610_000_000
    assert plan().options.duration_us is None
    assert plan("--backfill", "2h").options.start_us == 1_760_007_610_000_000 - 120 * MINUTE_US


def test_every_option_has_a_variable() -> None:
    environ = {"WATTMILL_SEED": "7", "WATTMILL_SPEED": "50", "WATTMILL_GIVE_UP": "3m", "WATTMILL_INTERVAL": "30s"}
    found = plan(environ=environ)
    assert (found.options.seed, found.speed, found.give_up_s, found.options.interval_us) == (7, 50.0, 180.0, 30_000_000)
    assert plan("--seed", "8", environ=environ).options.seed == 8


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--speed", "0"), "--speed"),
        (("--speed", "nan"), "--speed"),
        (("--seed", "x"), "--seed"),
        (("--interval", "0s"), "--interval"),
        (("--duration", "soon"), "--duration"),
        (("--start", "yesterday"), "--start"),
        (("--start", "2025-10-09T09:00:00"), "time zone"),
        (("--start", "2025-10-09T10:00:00Z", "--duration", "2h"), "future"),
    ],
)
def test_bad_options_are_sentences(words: tuple[str, ...], says: str) -> None:
    with pytest.raises(ScenarioError, match=says):
        plan(*words)


def test_main_says_it_and_returns_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--nodes", "1"], {}) == 2
    assert "--server" in capsys.readouterr().err


class StandStill:
    """Wall time that moves only when the run waits for it, and stops the run after a while."""

    def __init__(self, now_us: int, until_us: int) -> None:
        self.now_us, self.until_us = now_us, until_us
        self.stop = threading.Event()

    def wait(self, seconds: float) -> None:
        self.now_us += round(seconds * 1e6)
        if self.now_us >= self.until_us:
            self.stop.set()

    def clock(self) -> Clock:
        return Clock(lambda: self.now_us, self.wait)


def live(stub: Stub, found: Plan, now_us: int, for_us: int) -> None:
    time = StandStill(now_us, now_us + for_us)
    posts = [HttpPost(stub.url, None) for _ in range(2)]
    run(found, Fleet(found.options), Delivery(posts), time.clock(), time.stop, io.StringIO())
    for post in posts:
        post.close()


def test_the_past_and_the_present_join_and_a_second_start_continues(stub: Stub, tmp_path: Path) -> None:
    words = ("--backfill", "10m", "--state", str(tmp_path / "state"), "--truth", str(tmp_path / "truth"))
    live(stub, plan(*words), NOW_US, 3 * MINUTE_US)
    first = dict(stub.stored)
    truth = json.loads((tmp_path / "truth").read_text())
    assert truth["start"] == "2025-10-09T10:50:10Z"
    assert truth["end"] == "2025-10-09T11:03:00Z"
    later_us = NOW_US + 5 * MINUTE_US
    live(stub, plan(*words, now_us=later_us), later_us, MINUTE_US)
    second = {key: line for key, line in stub.stored.items() if key not in first}
    times = sorted(json.loads(line)["time_us"] for line in second.values())
    last_us = max(json.loads(line)["time_us"] for line in first.values())
    assert min(times) == last_us + 10_000_000, "no tick twice and none left out"
    assert not {s for s, _ in first} & {s for s, _ in second}
    reading = json.loads(min(second.values()))["readings"][0]
    assert last_us < reading["epoch_start_us"] < min(times)


def test_after_a_long_absence_only_the_backfill_is_made(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.write_text(
        json.dumps(
            {"version": 1, "last_time_us": NOW_US - 90 * MINUTE_US, "nodes": 2, "seed": 1, "interval_us": 10_000_000}
        )
    )
    options = plan("--backfill", "1h", "--state", str(state)).options
    assert options.start_us == 1_760_007_610_000_000 - 60 * MINUTE_US
    assert options.continued_nodes == 0
    closer = plan("--backfill", "2h", "--state", str(state)).options
    assert closer.start_us == (NOW_US - 90 * MINUTE_US) // 10_000_000 * 10_000_000 + 10_000_000
    assert closer.continued_nodes == 2


@pytest.mark.parametrize("content", ["{", "[]", '{"version": 9}'])
def test_a_damaged_state_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "state").write_text(content)
    with pytest.raises(ScenarioError, match="--state"):
        plan("--state", str(tmp_path / "state"))


def test_a_backfill_shows_how_far_it_is_and_then_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    words = ["--nodes", "1", "--backfill", "10m", "--server", "http://127.0.0.1:1"]
    plan = read_plan(words, {}, NOW_US)
    start_us, step_us = plan.options.start_us, plan.options.interval_us
    times = iter(NOW_US + i * 1_000_000 for i in range(1000))  # a second passes between two looks at the clock
    out = Terminal()
    progress = Progress(plan, out, NOW_US, Clock(lambda: next(times), lambda _: None))
    for i in range(30):
        progress.show(start_us + i * step_us)
    assert " 51%" in out.getvalue()  # 30 of 59 ticks
    for i in range(30, 70):  # the past is over, and the present goes on
        progress.show(start_us + i * step_us)
    assert out.getvalue().endswith("\r")
    progress.end()
    live = Terminal()
    present = read_plan([*words[:2], *words[4:]], {}, NOW_US)
    Progress(present, live, NOW_US, Clock(lambda: NOW_US, lambda _: None)).show(present.options.start_us)
    assert live.getvalue() == ""
