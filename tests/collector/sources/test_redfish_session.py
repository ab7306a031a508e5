"""Sessions with a BMC that has no Basic authentication: one is opened, kept, opened anew, and ended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.redfish_standin import PASSWORD, ROOT, SESSIONS, USER, RedfishStandin, server_chassis
from wattmill_collector.clock import SystemClock
from wattmill_collector.sources.addresses import FetchError
from wattmill_collector.sources.redfish import RedfishChassis, open_redfish
from wattmill_collector.sources.redfish_client import RedfishClient
from wattmill_collector.targets import BmcSettings, parse_bmcs
from wattmill_collector.wire import HostReading


@pytest.fixture
def bmc() -> Iterator[RedfishStandin]:
    with RedfishStandin(password=PASSWORD) as one:
        one.sessions = {}
        one.documents |= server_chassis(watts=565)
        yield one


@pytest.fixture
def client(bmc: RedfishStandin, tmp_path: Path) -> Iterator[RedfishClient]:
    one = RedfishClient(settings_of(bmc, tmp_path), SystemClock())
    yield one
    one.close()


def settings_of(bmc: RedfishStandin, folder: Path, password: str = PASSWORD) -> BmcSettings:
    file = folder / "password"
    file.write_text(password)
    file.chmod(0o600)
    (settings,) = parse_bmcs([{"url": bmc.url, "user": USER, "password_file": str(file), "session": "true"}])
    return settings


def power_of(client: RedfishClient) -> int | None:
    return RedfishChassis(BmcSettings("http://127.0.0.1"), client).ask().power_mw


def test_one_session_serves_all_questions_and_the_password_goes_out_once(
    bmc: RedfishStandin, client: RedfishClient
) -> None:
    assert [power_of(client) for _ in range(3)] == [565_000] * 3
    assert (bmc.logins, bmc.connections) == (1, 1)
    assert all("Authorization" not in headers for headers in bmc.headers)


def test_a_session_may_be_given_without_a_document(bmc: RedfishStandin, client: RedfishClient) -> None:
    """As DMTF's mockup server does: 204 with the token."""
    bmc.statuses[SESSIONS] = 204
    assert power_of(client) == 565_000


def test_a_bmc_that_calls_itself_otherwise_keeps_one_session_and_gets_it_back(
    bmc: RedfishStandin, tmp_path: Path
) -> None:
    bmc.calls_itself = "https://idrac-7xk2.example.net"
    client = RedfishClient(settings_of(bmc, tmp_path), SystemClock())
    assert [power_of(client) for _ in range(3)] == [565_000] * 3
    client.leave()
    assert (bmc.logins, bmc.sessions) == (1, {})


def test_a_session_that_the_bmc_has_ended_is_opened_anew(bmc: RedfishStandin, client: RedfishClient) -> None:
    power_of(client)
    bmc.sessions = {}
    assert power_of(client) == 565_000
    assert bmc.logins == 2


def test_a_user_that_may_not_read_leaves_one_session_behind_at_most(bmc: RedfishStandin, client: RedfishClient) -> None:
    bmc.statuses[ROOT] = 401
    for _ in range(3):
        with pytest.raises(FetchError):
            client.get(ROOT)
    assert len(bmc.sessions or {}) <= 1


def test_a_wrong_password_is_tried_once(bmc: RedfishStandin, tmp_path: Path) -> None:
    client = RedfishClient(settings_of(bmc, tmp_path, "wrong-one"), SystemClock())
    with pytest.raises(FetchError) as caught:
        client.get(ROOT)
    client.close()
    assert (caught.value.failure.reason, bmc.logins, bmc.requests) == ("unauthorised", 1, [])
    assert "wrong-one" not in caught.value.failure.detail


def test_a_bmc_that_has_no_session_left_says_so(bmc: RedfishStandin, client: RedfishClient) -> None:
    bmc.most_sessions = 0
    with pytest.raises(FetchError, match="may have no more of them"):
        client.get(ROOT)


def test_the_session_is_ended_when_the_agent_stops(bmc: RedfishStandin, tmp_path: Path) -> None:
    source = open_redfish(settings_of(bmc, tmp_path), SystemClock(), every_us=10_000_000, patience_us=20_000_000)
    assert source.read(0) == [HostReading(domain="chassis", source="redfish", power_mw=565_000)]
    assert len(bmc.sessions or {}) == 1
    source.close()
    assert bmc.sessions == {}
