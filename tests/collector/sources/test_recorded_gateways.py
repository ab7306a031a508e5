"""Pages of real gateways and clients, recorded while their answers' `usage` was counted: read to the token.

Beside each page stands the truth: `computed` is what the upstream said in its answers, `counted` what the program made
of it where that differs, and `why`. Wattmill reads what is counted; it can't know better than the page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.fake_clock import FakeClock
from support.fake_engine import FakeEngine
from wattmill_collector.sources.gateway_pages import Consumer
from wattmill_collector.sources.gateway_tables import FIELDS
from wattmill_collector.sources.gateways import GatewaySource
from wattmill_collector.targets import GatewaySettings
from wattmill_collector.wire import AbsenceReading, GatewayReading, Reading, decode_reading, encode_reading

RECORDED = Path(__file__).parents[2] / "fixtures/recorded/gateways"
MINUTE_US = 60_000_000
START_US = 1_795_629_600_000_000  # a whole hour after the recordings
NAMES = sorted(page.stem for page in RECORDED.glob("*.prom"))
COUNTING = [name for name in NAMES if not name.endswith("_router")]


class Agent:
    """A source with one gateway, asked over HTTP, whose page the test chooses."""

    def __init__(self, server: FakeEngine, **settings: object) -> None:
        self.server = server
        given = GatewaySettings(server.url, **settings)  # type: ignore[arg-type]
        self.source = GatewaySource([given], clock=FakeClock())
        self.time_us = START_US - MINUTE_US

    def read(self, page: bytes) -> list[Reading]:
        self.server.body = page
        self.time_us += MINUTE_US
        return self.source.read(self.time_us)

    def consumers(self, page: bytes) -> dict[Consumer, GatewayReading]:
        return {who(r): r for r in self.read(page) if isinstance(r, GatewayReading)}


@pytest.fixture
def agent() -> Iterator[Callable[..., Agent]]:
    """Makes an agent with these settings of its gateway."""
    with FakeEngine() as server:
        made: list[Agent] = []
        yield lambda **settings: made.append(Agent(server, **settings)) or made[-1]  # type: ignore[func-returns-value]
        for one in made:
            one.source.close()


def page_of(name: str) -> bytes:
    return (RECORDED / f"{name}.prom").read_bytes()


def truth_of(name: str) -> dict[str, Any]:
    truth: dict[str, Any] = json.loads((RECORDED / f"{name}.json").read_text())
    return truth


def who(reading: GatewayReading) -> Consumer:
    return Consumer(*(getattr(reading, name) for name in Consumer._fields))


def tokens(reading: GatewayReading) -> list[int | None]:
    return [getattr(reading, name) for name in FIELDS]


def counted(name: str) -> dict[Consumer, list[int | None]]:
    return {Consumer(**one["who"]): one.get("counted", one["computed"]) for one in truth_of(name)["consumers"]}


@pytest.mark.parametrize("name", COUNTING)
def test_every_consumer_has_the_tokens_of_its_answers(agent: Callable[..., Agent], name: str) -> None:
    readings = agent().consumers(page_of(name))
    assert {key: tokens(reading) for key, reading in readings.items()} == counted(name)
    assert {reading.gateway_kind for reading in readings.values()} == {truth_of(name)["kind"]}
    assert all(decode_reading(encode_reading(reading)) == reading for reading in readings.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_recording_says_of_what_and_explains_what_it_counts_wrong(name: str) -> None:
    assert re.match(rb"# provenance: recorded from \S.* on \d{4}-\d\d-\d\d: ", page_of(name))
    for one in truth_of(name)["consumers"]:
        assert ("counted" in one) == ("why" in one) == (one.get("counted") != one["computed"] and "counted" in one)


def test_a_first_request_and_all_later_ones_are_counted_from_the_start_of_the_gateway(
    agent: Callable[..., Agent],
) -> None:
    one = agent()
    [first] = one.consumers(page_of("litellm_1_108_first")).values()
    later = one.consumers(page_of("litellm_1_108"))
    assert (first.input_tokens, later[who(first)].input_tokens) == (101, 4021)
    assert {reading.epoch for reading in later.values()} == {first.epoch}
    assert first.epoch_start_us is not None
    new = [reading for key, reading in later.items() if key != who(first)]
    assert {reading.epoch_start_us for reading in new} == {START_US + 1}


def test_a_client_that_has_sent_nothing_yet_is_told_and_then_counted_from_its_start(
    agent: Callable[..., Agent],
) -> None:
    """OpenTelemetry makes its instruments at the first request: until then the page can't be known."""
    one = agent()
    page = page_of("otel_openllmetry")
    silent = b"".join(line for line in page.splitlines(keepends=True) if b"gen_ai" not in line)
    [absence] = one.read(silent)
    assert isinstance(absence, AbsenceReading)
    assert absence.reason == "not_understood"
    readings = one.consumers(page)
    assert {key: tokens(reading) for key, reading in readings.items()} == counted("otel_openllmetry")
    assert all(r.epoch_start_us is not None and r.epoch_start_us < START_US for r in readings.values())


def test_workers_that_share_a_page_have_no_start_and_still_begin_together(agent: Callable[..., Agent]) -> None:
    """LiteLLM empties the workers' folder when it starts: the second life's counters stand below the first's."""
    one = agent()
    page = page_of("litellm_1_108_workers")
    assert b"process_start_time_seconds " not in page
    before = one.consumers(page)
    assert {reading.epoch_start_us for reading in before.values()} == {None}
    after = one.consumers(page_of("litellm_1_108_workers_again"))
    assert {key: tokens(reading) for key, reading in after.items()} == counted("litellm_1_108_workers_again")
    for key, reading in after.items():
        assert reading.epoch != before[key].epoch
        assert reading.epoch_start_us == START_US + 1


def test_answers_out_of_litellms_own_cache_are_told_while_they_come(agent: Callable[..., Agent]) -> None:
    one = agent()
    page = page_of("litellm_1_108_cache")
    told = [reading for reading in one.read(page) if isinstance(reading, AbsenceReading)]
    assert [absence.reason for absence in told] == ["not_computed"]
    assert told[0].detail.startswith(f"{truth_of('litellm_1_108_cache')['not_computed']} of the tokens")
    computed = [line["computed"] for line in truth_of("litellm_1_108_cache")["consumers"]]
    wrong = [line["counted"] for line in truth_of("litellm_1_108_cache")["consumers"]]
    assert sum(b[0] + b[2] - a[0] - a[2] for a, b in zip(computed, wrong, strict=True)) == 2740
    assert not [reading for reading in one.read(page) if isinstance(reading, AbsenceReading)]
    more = re.sub(rb"(litellm_cached_tokens_metric_total\{[^}]*search-prod[^}]*\}) 2080.0", rb"\1 3120.0", page)
    [again] = [reading for reading in one.read(more) if isinstance(reading, AbsenceReading)]
    assert again.detail.startswith("1040 of the tokens")


def test_requests_that_say_more_than_the_tokens_are_those_of_their_consumer(agent: Callable[..., Agent]) -> None:
    """Where LiteLLM was told to leave latencies out: `litellm_requests_metric` names the `user_agent`, tokens don't."""
    page = page_of("litellm_1_108")
    assert b'user_agent="agent-x/1.0"' in page
    without = re.sub(rb"^.*litellm_llm_api_latency_metric.*\n", b"", page, flags=re.MULTILINE)
    readings = agent().consumers(without)
    assert {key: tokens(reading) for key, reading in readings.items()} == counted("litellm_1_108")


def test_requests_that_cannot_say_who_are_not_known_rather_than_none(agent: Callable[..., Agent]) -> None:
    """Latencies have no `user_email`; `litellm_requests_metric` has, unless it was switched off."""
    page = re.sub(rb'(user="u-ann",.*)user_email="None"', rb'\1user_email="ann@example.org"', page_of("litellm_1_108"))
    ann = Consumer("qwen3-32b", "hosted_vllm", "search", "search-prod", "ann@example.org")
    assert tokens(agent(labels={"user": "user_email"}).consumers(page)[ann]) == [4021, 935, 237, 8]
    without = re.sub(rb"^.*litellm_requests_metric.*\n", b"", page, flags=re.MULTILINE)
    assert tokens(agent(labels={"user": "user_email"}).consumers(without)[ann]) == [4021, 935, 237, None]


def test_the_service_of_a_clients_own_page_is_its_agent(agent: Callable[..., Agent]) -> None:
    page = page_of("otel_openai_v2")
    assert b"service_name" in page
    assert {key.agent for key in agent().consumers(page)} == {"assistant"}
    two = page.replace(b"\ntarget_info{", b'\ntarget_info{service_name="other"} 1\ntarget_info{', 1)
    assert {key.agent for key in agent().consumers(two)} == {""}
    by_team = agent(labels={"team": "service.name"}).consumers(page)
    assert {key.team for key in by_team} == {"assistant"}


def test_clients_that_spell_a_name_differently_stand_on_one_page(agent: Callable[..., Agent]) -> None:
    """OpenLLMetry's unit is `token`, openai-v2's `{token}`: of one the exporter makes a suffix, of the other none."""
    names = ("otel_openai_v2", "otel_openllmetry")
    page = b"".join(re.sub(rb"(?m)^#.*\n|^process.*\n|^target_info.*\n", b"", page_of(name)) for name in names)
    assert b"gen_ai_client_token_usage_sum{" in page
    assert b"gen_ai_client_token_usage_token_sum{" in page
    qwen = Consumer("qwen3-32b", "openai")
    assert tokens(agent().consumers(page)[qwen]) == [3545 + 3622, None, 187 + 196, 5 + 6]
    twice = page_of("otel_openai_v2") + re.sub(
        rb"(?m)^#.*\n|^process.*\n|^target_info.*\n",
        b"",
        page_of("otel_openai_v2").replace(b"_usage_", b"_usage_token_"),
    )
    assert {key: tokens(one) for key, one in agent().consumers(twice).items()} == counted("otel_openai_v2")


@pytest.mark.parametrize("name", ["sglang_router", "vllm_router"])
def test_a_router_that_counts_no_tokens_is_not_taken_for_a_gateway(agent: Callable[..., Agent], name: str) -> None:
    [absence] = agent().read(page_of(name))
    assert isinstance(absence, AbsenceReading)
    assert absence.reason == "not_understood"
    assert absence.detail == "the page has no token counter of any gateway that is known here"
