"""Gateways: the right tokens under the right name from every golden page, and totals that never count a token twice."""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.fake_clock import FakeClock
from support.fake_engine import FakeEngine
from wattmill_collector.lineup import line_up
from wattmill_collector.log import Throttle
from wattmill_collector.settings import Settings, SourceSettings, SpoolSettings
from wattmill_collector.sources.addresses import Failure, Place
from wattmill_collector.sources.gateway_pages import Consumer, GatewayPage, NotUnderstoodError, safe
from wattmill_collector.sources.gateway_tables import FIELDS, GATEWAY_KINDS, named
from wattmill_collector.sources.gateway_totals import OTHERS
from wattmill_collector.sources.gateways import MOST_CONSUMERS, GatewaySource
from wattmill_collector.sources.promtext import ParseError
from wattmill_collector.sources.scraper import Answer
from wattmill_collector.targets import GatewaySettings, parse_gateways
from wattmill_collector.wire import AbsenceReading, GatewayReading, Reading, decode_reading, encode_reading

PAGES = Path(__file__).parents[2] / "fixtures/gateways"
MINUTE_US = 60_000_000
START_US = 1_764_028_800_000_000  # a whole hour
TARGET = "http://127.0.0.1:4000/metrics"
HASHED = "1f9a0c3b5d7e2f4061829304a5b6c7d8e9f00112233445566778899aabbccdde"


@dataclasses.dataclass(eq=False)
class FakeLink:
    place: Place
    is_pending: bool = False
    closed: int = 0

    def close(self) -> None:
        self.is_pending = False
        self.closed += 1


PENDING = Failure("pending", "the answer is still on its way")


class Pages:
    """In the place of a scraper: a page, or a failure, for each path; `asked` are the paths of requests."""

    def __init__(self, pages: Mapping[str, bytes | Failure]) -> None:
        self.pages = dict(pages)
        self.asked: list[str] = []
        self.waits_s: list[float] = []

    def link(self, place: Place, _key: str = "") -> FakeLink:
        return FakeLink(place)

    def fetch(
        self, asks: Sequence[tuple[FakeLink, str]], _deadline_s: float, *, patient: set[FakeLink], patience_s: float
    ) -> list[Answer | Failure]:
        assert patient == {link for link, _ in asks}
        if asks:
            self.waits_s.append(patience_s)
        self.asked += [path for link, path in asks if not link.is_pending]
        pages = [self.pages[path] for _, path in asks]
        for (link, _), page in zip(asks, pages, strict=True):
            link.is_pending = page is PENDING
        return [page if isinstance(page, Failure) else Answer({}, page, True, "") for page in pages]

    def close(self) -> None:
        pass


class Gateway:
    """A source with one gateway whose page the test writes."""

    def __init__(self, page: bytes | Failure = b"", **settings: object) -> None:
        self.pages = Pages({"/metrics": page})
        given = GatewaySettings(TARGET, **settings)  # type: ignore[arg-type]
        self.settings = given
        self.time_us = START_US - MINUTE_US
        self.restart_agent()

    def restart_agent(self) -> None:
        self.source = GatewaySource([self.settings], scraper=self.pages, clock=FakeClock())  # type: ignore[arg-type]

    def read(self, page: bytes | Failure | None = None, minutes: int = 1) -> list[Reading]:
        if page is not None:
            self.pages.pages["/metrics"] = page
        self.time_us += minutes * MINUTE_US
        return self.source.read(self.time_us)

    def consumers(self, page: bytes | None = None, minutes: int = 1) -> list[GatewayReading]:
        return [r for r in self.read(page, minutes) if isinstance(r, GatewayReading)]

    def one(self, page: bytes | None = None, minutes: int = 1) -> GatewayReading:
        [reading] = self.consumers(page, minutes)
        return reading


def golden(name: str, **settings: object) -> list[GatewayReading]:
    return Gateway((PAGES / f"{name}.prom").read_bytes(), **settings).consumers()


def tokens(reading: GatewayReading) -> tuple[int | None, ...]:
    return tuple(getattr(reading, name) for name in FIELDS)


def who(reading: GatewayReading) -> Consumer:
    return Consumer(*(getattr(reading, name) for name in Consumer._fields))


def litellm(rows: Mapping[str, tuple[int, int]], *, start: float = 0.0) -> bytes:
    """A page with (input, output) by caller: `team/key` or `team/key/model_id`."""
    page = [f"process_start_time_seconds {start!r}"] if start else []
    for field, name in enumerate(("input", "output")):
        page.append(f"# TYPE litellm_{name}_tokens_metric_total counter")
        for caller, counted in rows.items():
            team, key, model_id = (*caller.split("/"), "a")[:3]
            labels = f'team_alias="{team}",api_key_alias="{key}",model="m",model_id="{model_id}"'
            page.append(f"litellm_{name}_tokens_metric_total{{{labels}}} {float(counted[field])}")
    return ("\n".join(page) + "\n").encode()


def test_litellm_keeps_parts_out_of_the_whole() -> None:
    readings = {who(r): r for r in golden("litellm", workloads={"qwen3-32b": "chat-qwen3"})}
    search = Consumer("qwen3-32b", "hosted_vllm", "search", "search-prod", "u1")
    customer = Consumer("qwen3-32b", "hosted_vllm", "", HASHED, "customer-7")
    elsewhere = Consumer("claude-sonnet-4", "anthropic", "search", "search-prod", "u1")
    assert {key: tokens(r) for key, r in readings.items()} == {
        search: (1200, 400, 560, 12),
        customer: (3000, 0, 900, 0),
        elsewhere: (77, 0, 33, 0),
    }
    assert {r.gateway_kind for r in readings.values()} == {"litellm"}
    assert [readings[key].workload for key in (search, customer, elsewhere)] == ["chat-qwen3", "chat-qwen3", ""]
    assert len({r.epoch for r in readings.values()} - {0}) == 1
    assert {r.epoch_start_us for r in readings.values()} == {1_764_028_800_120_000}


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("litellm_old", "litellm", {Consumer("gpt-oss-20b", "", "ta", "a", "e"): (20, None, 10, 2)}),
        (
            "envoy_ai_gateway",
            "envoy_ai_gateway",
            {
                Consumer("qwen3-32b", "openai", "search"): (5000, 1200, 800, 7),
                Consumer("qwen3-32b", "openai", "ads"): (900, 0, 100, 3),
            },
        ),
        ("otel_collector", "otel", {Consumer("llama-3.1-8b", "vllm", agent="assistant"): (150, None, 15, 4)}),
        ("otel_utf8", "otel", {Consumer("m", agent="planner"): (70, None, 7, 2)}),
        ("openlit", "otel", {Consumer("m", "vllm", agent="bot"): (44, None, 4, None)}),
        ("sglang_gateway", "sglang_gateway", {Consumer("Qwen/Qwen3-32B"): (640, None, 60, None)}),
    ],
)
def test_golden_pages(name: str, kind: str, expected: dict[Consumer, tuple[int | None, ...]]) -> None:
    readings = golden(name)
    assert {who(r): tokens(r) for r in readings} == expected
    assert {r.gateway_kind for r in readings} == {kind}
    assert {who(r): tokens(r) for r in golden(name, kind=kind)} == expected


def test_every_page_says_where_it_comes_from_and_every_kind_has_one() -> None:
    pages = sorted(PAGES.glob("*.prom"))
    assert all(page.read_text().startswith("# provenance: ") for page in pages)
    assert {r.gateway_kind for page in pages for r in golden(page.stem)} == {kind.name for kind in GATEWAY_KINDS}


def test_readings_fit_the_wire() -> None:
    for page in PAGES.glob("*.prom"):
        for reading in golden(page.stem):
            assert decode_reading(encode_reading(reading)) == reading


def test_labels_and_providers_are_the_operators() -> None:
    labels = {"user": "user_email", "team": "", "model": "requested_model"}
    readings = golden("litellm", labels=labels, providers=("Hosted_vLLM",))
    assert {who(r)[:1] + who(r)[2:5] for r in readings} == {
        ("chat", "", "search-prod", "ann@example.org"),
        ("chat", "", HASHED, ""),
    }
    [one] = golden("otel_collector", labels={"agent": "instance"})[:1]
    assert one.agent == "p1"


@pytest.mark.parametrize(
    ("name", "is_key", "leaves"),
    [
        ("sk-1234567890abcdefghij", False, False),
        ("Bearer abcdef0123456789", False, False),
        ("eyJhbGciOi.eyJzdWIi.c2lnbmF0dXJl", False, False),
        ("hf_AbCdEfGhIjKlMnOpQrSt", False, False),
        ("A9f3kLmQ72zXcVbN01pRtYuI", True, False),
        ("search-prod", True, True),
        ("team-search-production-key-2026", True, True),
        (HASHED, True, True),
        ("5d3b3c1e-0a4f-4c7e-9f0e-3a1c2b4d5e6f", True, True),
        ("ann@example.org", False, True),
        ("A9f3kLmQ72zXcVbN01pRtYuI", False, True),
    ],
)
def test_a_secret_never_leaves(name: str, is_key: bool, leaves: bool) -> None:
    said = safe(name, is_key=is_key)
    assert (said == name) is leaves
    if not leaves:
        assert len(said) == 12
        assert int(said, 16) >= 0
        assert said == safe(name, is_key=is_key)


def test_a_raw_key_on_the_page_is_hashed() -> None:
    reading = Gateway(litellm({"search/sk-abcdefghijklmnopqrstuv": (5, 1)})).one()
    assert "sk-" not in str(encode_reading(reading))


def test_read_at_minutes_edges_and_the_resting_every_ten_minutes() -> None:
    gateway = Gateway(litellm({"a/k": (10, 1), "b/k": (7, 1)}))
    assert len(gateway.consumers()) == 2
    assert gateway.source.read(gateway.time_us + 10_000_000) == []
    sent = []
    for minute in range(1, 41):
        page = litellm({"a/k": (10 + minute, 1), "b/k": (7 if minute < 25 else 8, 1)})
        sent.append([r.team for r in gateway.consumers(page)])
    assert all("a" in teams for teams in sent)
    said = [minute for minute, teams in enumerate(sent, 1) if "b" in teams]
    assert said == [*range(1, 11), 20, *range(25, 36), 40]


class Ticking:
    """A gateway that is read at every tick, a second apart unless the test says otherwise."""

    def __init__(self, page: bytes | Failure, interval_s: int = 1) -> None:
        self.clock = FakeClock(START_US)
        self.pages = Pages({"/metrics": page})
        self.interval_us = interval_s * 1_000_000
        self.source = GatewaySource(
            [GatewaySettings(TARGET)],
            interval_us=self.interval_us,
            scraper=self.pages,  # type: ignore[arg-type]
            clock=self.clock,
        )

    def tick(self, page: bytes | Failure | None = None) -> list[Reading]:
        if page is not None:
            self.pages.pages["/metrics"] = page
        readings = self.source.read(self.clock.wall_us())
        self.clock.advance(self.interval_us)
        return readings

    def said(self, ticks: int) -> dict[int, str]:
        """What is said, by the second at which it is."""
        second = (self.clock.wall_us() - START_US) // 1_000_000
        found = {}
        for nth in range(ticks):
            for one in self.tick():
                found[second + nth * self.interval_us // 1_000_000] = getattr(one, "reason", "tokens")
        return found


def test_a_page_that_takes_longer_than_a_tick_is_read_when_it_is_complete() -> None:
    gateway = Ticking(PENDING)
    assert gateway.said(3) == {}
    assert gateway.pages.asked == ["/metrics"]
    assert gateway.pages.waits_s == [0.5, 0.1, 0.1]  # no other source is held up for as long as the page takes
    [reading] = gateway.tick(litellm({"a/k": (7, 1)}))
    assert isinstance(reading, GatewayReading)
    assert reading.input_tokens == 7
    assert gateway.said(56) == {}  # and is not asked again in its minute
    assert gateway.said(1) == {60: "tokens"}
    assert gateway.pages.asked == ["/metrics", "/metrics"]


def test_consumers_at_rest_are_sent_though_the_page_of_their_minute_comes_late() -> None:
    gateway = Ticking(litellm({"a/k": (7, 1)}))
    for _ in range(1200):
        gateway.tick()
    assert gateway.tick(PENDING) == []
    [reading] = gateway.tick(litellm({"a/k": (7, 1)}))
    assert isinstance(reading, GatewayReading)
    assert gateway.said(59) == {}


def test_what_does_not_come_in_ten_seconds_is_asked_for_once_more_and_then_left_for_the_minute() -> None:
    gateway = Ticking(PENDING)
    assert gateway.said(60) == {10: "timeout", 21: "timeout"}
    assert gateway.pages.asked == ["/metrics", "/metrics"]
    assert gateway.said(11) == {70: "timeout"}
    assert gateway.tick(litellm({"a/k": (7, 1)}))
    assert gateway.pages.asked == ["/metrics"] * 4


def test_an_answer_that_would_be_too_old_at_the_next_tick_is_not_waited_for() -> None:
    gateway = Ticking(PENDING, interval_s=30)
    assert gateway.said(2) == {0: "timeout", 30: "timeout"}
    assert gateway.pages.waits_s == [5.0, 5.0]


def test_a_tick_that_comes_after_the_edge_reads_the_minute_all_the_same() -> None:
    gateway = Ticking(litellm({"a/k": (7, 1)}))
    assert gateway.said(59) == {0: "tokens"}
    gateway.clock.advance(1_700_000)
    assert gateway.said(10) == {60: "tokens"}


def test_a_page_behind_a_redirect_may_take_longer_than_a_tick() -> None:
    gateway = Ticking(Failure("http_307", "the target answers with a redirect"))
    gateway.pages.pages["/metrics/"] = PENDING
    assert gateway.said(2) == {}
    gateway.pages.pages["/metrics/"] = litellm({"a/k": (1, 1)})
    assert gateway.said(1) == {2: "tokens"}
    assert gateway.pages.asked == ["/metrics", "/metrics/"]
    gateway.pages.pages["/metrics/"] = Failure("connection_refused", "127.0.0.1:4000: refused")
    assert gateway.said(58) == {60: "connection_refused"}  # the redirect was of another time


def test_a_redirect_that_leads_to_no_page_is_what_is_told() -> None:
    gateway = Ticking(Failure("http_302", "the target answers with a redirect"))
    gateway.pages.pages["/metrics/"] = Failure("http_404", "the target answers 404")
    assert gateway.said(61) == {0: "http_302", 60: "http_302"}
    assert gateway.pages.asked == ["/metrics", "/metrics/"] * 2


def test_a_real_page_that_is_late_is_taken_up_on_its_connection() -> None:
    complete = threading.Event()
    with FakeEngine() as server:
        server.read_state = lambda: complete.wait(30)  # type: ignore[assignment]
        server.body = litellm({f"t/{nth}": (nth, 1) for nth in range(4000)})
        clock = FakeClock()
        source = GatewaySource([GatewaySettings(server.url)], interval_us=1_000_000, clock=clock)
        assert source.read(START_US) == []
        complete.set()
        readings: list[Reading] = []
        for tick in range(1, 60):
            readings = readings or source.read(START_US + tick * 1_000_000)
        assert sum(one.input_tokens or 0 for one in readings if isinstance(one, GatewayReading)) == sum(range(4000))
        assert server.requests == ["/metrics"]
        source.close()


def test_a_consumer_that_is_new_counts_from_the_reading_before_it() -> None:
    gateway = Gateway(litellm({"a/k": (10, 1)}))
    first = gateway.one()
    assert first.epoch_start_us is None
    known, new = gateway.consumers(litellm({"a/k": (11, 1), "b/k": (500, 60)}))
    assert (known.epoch, known.epoch_start_us) == (first.epoch, None)
    assert (new.input_tokens, new.epoch, new.epoch_start_us) == (500, first.epoch, START_US + 1)


def test_an_agent_that_is_started_again_goes_on() -> None:
    gateway = Gateway(litellm({"a/k/x": (10, 1), "a/k/y": (5, 1)}))
    before = gateway.one()
    gateway.restart_agent()
    after = gateway.one(litellm({"a/k/x": (12, 1), "a/k/y": (6, 1), "a/k/z": (1, 0)}), minutes=7)
    assert (before.input_tokens, after.input_tokens) == (15, 19)
    assert after.epoch == before.epoch != 0


def test_a_gateway_that_shows_its_start_has_an_epoch_of_it() -> None:
    gateway = Gateway(litellm({"a/k": (100, 10)}, start=1_764_000_000.5))
    before = gateway.one()
    after = gateway.one(litellm({"a/k": (150, 10)}, start=1_764_028_810.25))
    assert before.epoch != after.epoch
    assert after.epoch_start_us == 1_764_028_810_250_000
    assert after.input_tokens == 150


def test_a_start_that_a_collector_passes_on_is_nobodys() -> None:
    readings = golden("otel_collector")
    assert {r.epoch_start_us for r in readings} == {None}


def test_one_series_that_begins_again_is_believed_when_it_goes_on() -> None:
    gateway = Gateway(litellm({"a/k/x": (1000, 1), "a/k/y": (500, 1), "b/k": (9, 9)}))
    first, other = gateway.consumers()
    held, _ = gateway.consumers(litellm({"a/k/x": (3, 1), "a/k/y": (520, 1), "b/k": (9, 9)}))
    assert (held.input_tokens, held.epoch) == (1520, first.epoch)
    began, still = gateway.consumers(litellm({"a/k/x": (8, 1), "a/k/y": (525, 1), "b/k": (10, 9)}))
    assert began.input_tokens == 8 + 5  # what moved since the reading before, from zero
    assert began.epoch != first.epoch
    assert began.epoch_start_us == START_US + MINUTE_US + 1
    assert (still.epoch, still.input_tokens) == (other.epoch, 10)
    later, _ = gateway.consumers(litellm({"a/k/x": (9, 1), "a/k/y": (525, 1), "b/k": (10, 9)}))
    assert (later.epoch, later.input_tokens) == (began.epoch, 14)


def test_a_page_of_another_process_in_between_counts_for_nothing() -> None:
    gateway = Gateway(litellm({"a/k": (1000, 100), "b/k": (3, 1), "c/k": (0, 0)}))
    first = gateway.consumers()[0]
    for page in ({"a/k": (20, 100), "b/k": (3, 1), "c/k": (0, 0)}, {"a/k": (1040, 100), "b/k": (3, 1), "c/k": (0, 0)}):
        last = gateway.consumers(litellm(page))[0]
    assert (last.input_tokens, last.epoch) == (1040, first.epoch)


def test_all_series_that_fall_at_once_are_a_restart() -> None:
    gateway = Gateway(litellm({"a/k": (1000, 100), "b/k": (30, 10)}))
    before = gateway.consumers()
    after = gateway.consumers(litellm({"a/k": (4, 1), "b/k": (6, 2), "c/k": (1, 1)}))
    assert [r.input_tokens for r in after] == [4, 6, 1]
    assert not {r.epoch for r in after[:2]} & {r.epoch for r in before}
    assert [r.epoch_start_us for r in after] == [START_US + 1] * 3


def test_a_series_that_vanishes_does_not_take_its_tokens_along() -> None:
    gateway = Gateway(litellm({"a/k/x": (1000, 1), "a/k/y": (500, 1)}))
    before = gateway.one()
    without = gateway.one(litellm({"a/k/y": (510, 1)}))
    assert without.input_tokens == 10
    assert without.epoch != before.epoch
    assert without.epoch_start_us == START_US + 1
    back = gateway.one(litellm({"a/k/x": (1004, 1), "a/k/y": (510, 1)}))
    assert (back.input_tokens, back.epoch) == (14, without.epoch)


def otel(rows: Mapping[str, int]) -> bytes:
    lines = [
        f'gen_ai_client_token_usage_sum{{gen_ai_request_model="m",gen_ai_token_type="input",instance="{name}"}} {count}'
        for name, count in rows.items()
    ]
    return ("# TYPE gen_ai_client_token_usage histogram\n" + "\n".join(lines) + "\n").encode()


def test_of_a_collectors_page_a_new_series_is_only_a_baseline() -> None:
    """A collector drops series that rest and shows them again with all that they ever counted."""
    gateway = Gateway(otel({"p1": 100}))
    assert gateway.one().input_tokens == 100
    joined = gateway.one(otel({"p1": 105, "p2": 40_000}))
    assert (joined.input_tokens, joined.epoch_start_us) == (5, START_US + 1)
    later = gateway.one(otel({"p1": 105, "p2": 40_003}))
    assert (later.input_tokens, later.epoch) == (8, joined.epoch)
    gateway = Gateway(otel({"p1": 100}), labels={"agent": "instance"})
    gateway.consumers()
    new = gateway.consumers(otel({"p1": 100, "p2": 40_000}))[1]
    assert (new.input_tokens, new.epoch_start_us) == (0, None)


def test_a_consumer_that_is_called_otherwise_takes_no_tokens_along() -> None:
    """`target_info` names the only application of a page; when a second one joins it, nobody is named any more."""

    def page(counted: int, *applications: str) -> bytes:
        told = "".join(f'target_info{{service_name="{name}"}} 1\n' for name in applications)
        usage = f'gen_ai_client_token_usage_sum{{gen_ai_token_type="input",gen_ai_request_model="m"}} {counted}\n'
        return f"process_start_time_seconds 1764028000.5\n{told}{usage}".encode()

    gateway = Gateway(page(1000, "app"), kind="otel")
    seen: dict[tuple[str, int], list[int]] = {}
    for counted, applications in ((1000, ("app",)), (1010, ("app", "other")), (1020, ("app", "other"))):
        for one in gateway.consumers(page(counted, *applications)):
            seen.setdefault((one.agent, one.epoch), []).append(one.input_tokens or 0)
    gateway.restart_agent()
    for one in gateway.consumers(page(1030, "app", "other")):
        if (one.agent, one.epoch) in seen:
            seen[one.agent, one.epoch].append(one.input_tokens or 0)
    assert sum(shown[-1] - shown[0] for shown in seen.values()) <= 20  # that of the restart's minute may be lost


@given(st.data())
def test_totals_count_every_token_once(data: st.DataObject) -> None:
    """Series rise, begin again, come and go: the increments of a consumer are those of its series, to the token."""
    counters = {f"{team}/k/{series}": 50 for team in "ab" for series in "xy"}
    gateway = Gateway(litellm({name: (count, 5) for name, count in counters.items()}))
    seen = {r.team: r for r in gateway.consumers()}
    truth, counted = dict.fromkeys("ab", 0), dict.fromkeys("ab", 0)
    events = data.draw(st.lists(st.sampled_from(["", "begin", "hide"]), max_size=6))
    for event in [step for one in events for step in (one, "", "")]:  # a fall is believed one reading later
        chosen = data.draw(st.sampled_from(sorted(counters)))
        for name in counters:
            moved = data.draw(st.integers(0, 9))
            truth[name[0]] += moved
            # One that is back where it stood by the next reading can't be told from a glitch.
            began = event == "begin" and name == chosen and counters[name] > 2 * 9
            counters[name] = moved if began else counters[name] + moved
        page = {name: (count, 5) for name, count in counters.items() if event != "hide" or name != chosen}
        for reading in gateway.consumers(litellm(page)):
            old, now = seen[reading.team], reading.input_tokens or 0
            if reading.epoch == old.epoch:
                counted[reading.team] += now - (old.input_tokens or 0)
            else:
                assert reading.epoch_start_us == gateway.time_us - MINUTE_US + 1
                counted[reading.team] += now
            seen[reading.team] = reading
    assert counted == truth


def test_beyond_the_limit_the_smallest_are_put_together() -> None:
    rows = {f"t{i % 7}/k{i}": (i + 1, 1) for i in range(MOST_CONSUMERS + 500)}
    gateway = Gateway(litellm(rows))
    before = gateway.consumers()
    assert len(before) <= MOST_CONSUMERS
    assert sum(r.input_tokens or 0 for r in before) == sum(n for n, _ in rows.values())
    together = [r for r in before if r.api_key == OTHERS]
    assert {r.team for r in together} == {f"t{i}" for i in range(7)}
    assert max(r.input_tokens or 0 for r in before if r.api_key != OTHERS) == MOST_CONSUMERS + 500
    rows["t0/k0"] = (1_000_000, 1)  # it grows, and stays where it is
    rows["t9/new"] = (50, 5)
    after = {who(r): r for r in gateway.consumers(litellm(rows))}
    assert sum(r.input_tokens or 0 for r in after.values()) == sum(n for n, _ in rows.values())
    grown = next(r for r in after.values() if r.team == "t0" and r.api_key == OTHERS)
    assert (grown.input_tokens or 0) > 1_000_000
    gateway.restart_agent()
    again = {who(r): r for r in gateway.consumers()}
    assert all(again[key].epoch != r.epoch for key, r in after.items() if r.api_key == OTHERS and key in again)


def test_limits_hold_for_all_gateways_together() -> None:
    page = litellm({f"t{i}/k": (1, 1) for i in range(4000)})
    pages = Pages({"/a": page, "/b": page})
    settings = [GatewaySettings("http://127.0.0.1:4000/a"), GatewaySettings("http://127.0.0.1:4000/b")]
    source = GatewaySource(settings, scraper=pages, clock=FakeClock())  # type: ignore[arg-type]
    readings = source.read(START_US)
    assert len(readings) <= MOST_CONSUMERS
    assert sum(r.input_tokens or 0 for r in readings if isinstance(r, GatewayReading)) == 8000


def test_a_redirect_to_the_page_with_a_slash_is_followed_once() -> None:
    gateway = Gateway(Failure("http_307", "the target answers with a redirect"))
    gateway.pages.pages["/metrics/"] = litellm({"a/k": (1, 1)})
    assert gateway.one().team == "a"
    gateway.one()
    assert gateway.pages.asked == ["/metrics", "/metrics/", "/metrics/"]


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        (Failure("connection_refused", "127.0.0.1:4000: refused"), "connection_refused"),
        (b"# TYPE vllm:prompt_tokens_total counter\nvllm:prompt_tokens_total 5\n", "not_understood"),
        (b"", "not_understood"),
        (b"<html>login</html>\n", "not_understood"),
        (b'litellm_input_tokens_metric_total{a="} 5\n', "not_understood"),
        (litellm({"a/k": (1, 1)}) + litellm({"a/k": (1, 1)}), "not_understood"),
        (litellm({}), "no_series"),
    ],
)
def test_what_cannot_be_read_is_an_absence_with_its_reason(page: bytes | Failure, reason: str) -> None:
    gateway = Gateway(page)
    for since_us in (None, START_US):
        [absence] = gateway.read()
        assert isinstance(absence, AbsenceReading)
        assert (absence.subject, absence.id, absence.reason) == ("gateway", TARGET, reason)
        assert absence.start_us == since_us
        assert absence.detail
    assert gateway.one(litellm({"a/k": (1, 1)})).input_tokens == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_page_that_wants_a_key_is_told_with_what_to_do(status: int) -> None:
    gateway = Gateway(Failure(f"http_{status}", f"the target answers {status}"))
    [absence] = gateway.read()
    assert isinstance(absence, AbsenceReading)
    assert absence.reason == f"http_{status}"
    assert absence.detail == f"the target answers {status}; name a file with a key it takes in `key_file`"


@pytest.mark.parametrize("value", ["NaN", "-3", "1.5", "+Inf", "1e30", "abc"])
def test_a_value_that_is_none_is_left_out_and_said(value: str) -> None:
    good = litellm({"a/k": (10, 1), "b/k": (5, 1)})
    gateway = Gateway(good)
    gateway.read()
    readings = gateway.read(good.replace(b" 10.0", f" {value}".encode()))
    assert [r.input_tokens for r in readings if isinstance(r, GatewayReading)] == [10, 5]
    assert [r.reason for r in readings if isinstance(r, AbsenceReading)] == ["not_a_number"]
    assert [r.input_tokens for r in gateway.consumers(litellm({"a/k": (12, 1), "b/k": (5, 1)}))] == [12, 5]


@given(st.binary(max_size=400), st.integers(0, 2**32))
def test_a_damaged_page_yields_lines_or_an_error(noise: bytes, seed: int) -> None:
    chance = random.Random(seed)
    pages = sorted(PAGES.glob("*.prom"))
    page = bytearray(pages[chance.randrange(len(pages))].read_bytes())
    for _ in range(chance.randrange(1, 5)):
        at = chance.randrange(len(page))
        page[at : at + chance.randrange(0, 200)] = noise[chance.randrange(len(noise) + 1) :]
    try:
        lines = GatewayPage(named("auto")).read(bytes(page))
    except (NotUnderstoodError, ParseError):
        return
    assert all(line.value is None or line.value >= 0 for line in lines)
    assert all(len(part) <= 256 for line in lines for part in line.consumer)


def test_a_kind_that_is_not_known_is_refused_where_it_is_written() -> None:
    with pytest.raises(ValueError, match="kind is auto or one of envoy_ai_gateway, litellm, otel, sglang_gateway"):
        parse_gateways([{"target": TARGET, "kind": "kong"}])
    [settings] = parse_gateways([{"target": TARGET, "kind": "LiteLLM"}])
    assert settings.kind == "litellm"


def test_the_agent_reads_what_its_settings_name() -> None:
    with FakeEngine() as server:
        server.body = litellm({"search/k": (30, 3)})
        settings = Settings(
            spool=SpoolSettings(Path("unused")),
            node="gpu-017",
            sources=SourceSettings(nvml="off", host="off"),
            discover=False,
            gateways=(GatewaySettings(server.url),),
        )
        clock = FakeClock()
        [reader] = [one for one in line_up(settings, clock, Throttle(clock)) if one.name == "gateway"]
        assert reader.subject == "gateway"
        [reading] = reader.read(START_US)
        assert isinstance(reading, GatewayReading)
        assert dataclasses.astuple(reading)[:2] == (server.url, "litellm")
        assert (reading.team, reading.input_tokens) == ("search", 30)
        reader.close()


def test_a_gateway_that_asks_for_a_key_gets_it_from_a_file_that_is_not_everybodys(tmp_path: Path) -> None:
    class Keys(Pages):
        key = ""

        def link(self, place: Place, key: str = "") -> FakeLink:
            self.key = key
            return FakeLink(place)

    key_file = tmp_path / "key"
    key_file.write_text("sk-monitoring\n")
    key_file.chmod(0o640)
    scraper = Keys({"/metrics": b""})
    GatewaySource(parse_gateways([{"target": TARGET, "key_file": str(key_file)}]), scraper=scraper)  # type: ignore[arg-type]
    assert scraper.key == "sk-monitoring"
    key_file.chmod(0o644)
    with pytest.raises(ValueError, match="Everybody may read or change the key file"):
        GatewaySource([GatewaySettings(TARGET, key_file=key_file)], scraper=scraper)  # type: ignore[arg-type]
