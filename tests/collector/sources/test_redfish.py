"""A BMC asked for its node's power: over real sockets, against a stand-in, with everything that may go wrong."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.fake_clock import FakeClock
from support.redfish_standin import PASSWORD, ROOT, USER, RedfishStandin, chassis, collection, link, server_chassis
from wattmill_collector.clock import SystemClock
from wattmill_collector.sources.addresses import Failure, FetchError
from wattmill_collector.sources.chassis import Draw
from wattmill_collector.sources.redfish import RedfishChassis, open_redfish
from wattmill_collector.sources.redfish_client import RedfishClient
from wattmill_collector.targets import BmcSettings
from wattmill_collector.wire import HostReading

SECOND = 1_000_000
ENVIRONMENT = f"{ROOT}/1/EnvironmentMetrics"


@pytest.fixture
def bmc() -> Iterator[RedfishStandin]:
    with RedfishStandin() as one:
        yield one


@pytest.fixture
def opened() -> Iterator[list[RedfishClient]]:
    clients: list[RedfishClient] = []
    yield clients
    for client in clients:
        client.close()


class Node:
    """The agent's side: a client and the chassis that it reads."""

    def __init__(self, opened: list[RedfishClient], settings: BmcSettings, answer_s: float = 10.0) -> None:
        self.client = RedfishClient(settings, SystemClock(), answer_s=answer_s)
        opened.append(self.client)
        self.chassis = RedfishChassis(settings, self.client)

    def power_mw(self) -> int | None:
        return self.chassis.ask().power_mw

    def failure(self) -> Failure:
        with pytest.raises(FetchError) as caught:
            self.chassis.ask()
        return caught.value.failure


def environment(bmc: RedfishStandin, **metrics: Any) -> None:
    bmc.documents |= {ROOT: collection(f"{ROOT}/1"), f"{ROOT}/1": chassis("1", EnvironmentMetrics=link(ENVIRONMENT))}
    bmc.documents[ENVIRONMENT] = metrics


def password_file(folder: Path, text: str = PASSWORD + "\n", mode: int = 0o640) -> Path:
    file = folder / "password"
    file.write_text(text)
    file.chmod(mode)
    return file


def test_the_node_is_looked_for_once_and_then_read_over_one_connection(
    bmc: RedfishStandin, opened: list[RedfishClient]
) -> None:
    bmc.documents |= server_chassis(watts=565)
    node = Node(opened, BmcSettings(bmc.url))
    assert node.power_mw() == 565_000
    bmc.documents |= server_chassis(watts=566)
    bmc.requests.clear()
    assert node.power_mw() == 566_000
    assert bmc.requests == [f"{ROOT}/1/Power"]
    assert bmc.connections == 1


def test_environment_metrics_are_preferred_to_the_older_power_resource(
    bmc: RedfishStandin, opened: list[RedfishClient]
) -> None:
    bmc.documents |= server_chassis(watts=344)
    bmc.documents[f"{ROOT}/1"]["EnvironmentMetrics"] = link(ENVIRONMENT)
    bmc.documents[ENVIRONMENT] = {"PowerWatts": {"Reading": 374}}
    assert Node(opened, BmcSettings(bmc.url)).power_mw() == 374_000


def test_where_the_newer_resource_is_empty_the_older_one_is_read(
    bmc: RedfishStandin, opened: list[RedfishClient]
) -> None:
    bmc.documents |= server_chassis(watts=344)
    bmc.documents[f"{ROOT}/1"]["EnvironmentMetrics"] = link(ENVIRONMENT)
    bmc.documents[ENVIRONMENT] = {"FanSpeedsPercent": []}
    assert Node(opened, BmcSettings(bmc.url)).power_mw() == 344_000


def test_supplies_are_the_last_resort(bmc: RedfishStandin, opened: list[RedfishClient]) -> None:
    """Four of six bays hold a supply, each taking 1500 W: 6 kW."""
    subsystem = f"{ROOT}/DGX/PowerSubsystem"
    bays = [f"{subsystem}/PowerSupplies/PSU{n}" for n in range(6)]
    bmc.documents |= {
        ROOT: collection(f"{ROOT}/DGX"),
        f"{ROOT}/DGX": chassis("DGX", PowerSubsystem=link(subsystem)),
        subsystem: {"PowerSupplies": link(f"{subsystem}/PowerSupplies")},
        f"{subsystem}/PowerSupplies": collection(*bays),
    }
    for number, bay in enumerate(bays):
        bmc.documents[bay] = {
            "Metrics": link(f"{bay}/Metrics"),
            "Status": {"State": "Enabled" if number < 4 else "Absent"},
        }
        bmc.documents[f"{bay}/Metrics"] = {"InputPowerWatts": {"Reading": 1500}}
    node = Node(opened, BmcSettings(bmc.url))
    assert node.power_mw() == 6_000_000
    bmc.documents[f"{bays[0]}/Metrics"] = {"InputPowerWatts": {"Reading": None}}
    assert node.failure().reason == "no_power_reading"  # 4.5 kW of three supplies would be a lie


def test_a_running_node_that_says_four_watts_is_read_by_what_goes_into_its_supplies(
    bmc: RedfishStandin, opened: list[RedfishClient]
) -> None:
    """A PowerEdge XR8620t's own words."""
    bmc.documents |= server_chassis(watts=4)
    bmc.documents[f"{ROOT}/1/Power"]["PowerSupplies"] = [
        {"Name": "PS1 Status", "PowerInputWatts": 180.0, "Status": {"State": "Enabled"}},
        {"Name": "PS2 Status", "PowerInputWatts": 0.0, "Status": {"State": "Absent"}},
    ]
    assert Node(opened, BmcSettings(bmc.url)).power_mw() == 180_000


def test_the_boards_baseboard_beside_the_node_is_not_added_and_not_taken(
    bmc: RedfishStandin, opened: list[RedfishClient]
) -> None:
    bmc.documents |= server_chassis(watts=9000)
    bmc.documents[ROOT] = collection(f"{ROOT}/HGX_Chassis_0", f"{ROOT}/1")
    bmc.documents[f"{ROOT}/HGX_Chassis_0"] = chassis("HGX_Chassis_0", "Zone", Power=link(f"{ROOT}/HGX_Chassis_0/Power"))
    bmc.documents[f"{ROOT}/HGX_Chassis_0/Power"] = {"PowerControl": [{"PowerConsumedWatts": 20_000}]}
    assert Node(opened, BmcSettings(bmc.url)).power_mw() == 9_000_000


def test_of_two_that_may_be_the_node_the_one_that_draws_more_is_taken_and_kept(
    bmc: RedfishStandin, opened: list[RedfishClient]
) -> None:
    bmc.documents |= server_chassis(watts=100, name="Board") | server_chassis(watts=900, name="Self")
    bmc.documents[ROOT] = collection(f"{ROOT}/Board", f"{ROOT}/Self")
    node = Node(opened, BmcSettings(bmc.url))
    assert node.power_mw() == 900_000
    bmc.documents |= server_chassis(watts=90, name="Self")
    assert node.power_mw() == 90_000


def test_a_chassis_that_the_url_names_is_taken_at_its_word(bmc: RedfishStandin, opened: list[RedfishClient]) -> None:
    bmc.documents |= server_chassis(watts=400, name="Sled3") | {ROOT: collection()}
    assert Node(opened, BmcSettings(f"{bmc.url}{ROOT}/Sled3")).power_mw() == 400_000


def test_a_node_on_the_second_page_of_chassis_is_found_and_pages_in_a_circle_end(
    bmc: RedfishStandin, opened: list[RedfishClient]
) -> None:
    bmc.documents |= server_chassis(watts=565)
    second = f"{ROOT}?$skip=1"
    bmc.documents[f"{ROOT}/Fans"] = chassis("Fans", "Zone")
    bmc.documents[ROOT] = {**collection(f"{ROOT}/Fans"), "Members@odata.nextLink": second}
    bmc.documents[second] = {**collection(f"{ROOT}/1"), "Members@odata.nextLink": ROOT}
    assert Node(opened, BmcSettings(bmc.url)).power_mw() == 565_000


def test_a_manager_of_several_nodes_is_asked_for_a_name(bmc: RedfishStandin, opened: list[RedfishClient]) -> None:
    bmc.documents |= {
        ROOT: collection(f"{ROOT}/Rack"),
        f"{ROOT}/Rack": chassis("Rack", "Rack", Power=link(f"{ROOT}/Rack/Power")),
        f"{ROOT}/Rack/Power": {"PowerControl": [{"PowerConsumedWatts": 40_000}]},
    }
    failure = Node(opened, BmcSettings(bmc.url)).failure()
    assert failure.reason == "no_power_reading"
    assert "/redfish/v1/Chassis/NAME" in failure.detail


def test_of_several_sleds_behind_one_manager_none_is_guessed(bmc: RedfishStandin, opened: list[RedfishClient]) -> None:
    for number in (1, 2):
        bmc.documents |= server_chassis(watts=500 * number, name=f"Sled{number}")
        bmc.documents[f"{ROOT}/Sled{number}"]["Links"]["ComputerSystems"] = [link(f"/redfish/v1/Systems/Node{number}")]
    bmc.documents[ROOT] = collection(f"{ROOT}/Sled1", f"{ROOT}/Sled2")
    assert Node(opened, BmcSettings(bmc.url)).failure().reason == "several_nodes"
    assert Node(opened, BmcSettings(f"{bmc.url}{ROOT}/Sled1")).power_mw() == 500_000


def test_power_that_moved_after_an_update_is_found_again(bmc: RedfishStandin, opened: list[RedfishClient]) -> None:
    bmc.documents |= server_chassis(watts=500)
    node = Node(opened, BmcSettings(bmc.url))
    node.power_mw()
    bmc.documents.clear()
    environment(bmc, PowerWatts={"Reading": 501})
    assert node.power_mw() == 501_000


def test_one_chassis_that_can_not_be_read_hides_no_other(bmc: RedfishStandin, opened: list[RedfishClient]) -> None:
    bmc.documents |= server_chassis(watts=500)
    bmc.documents[ROOT] = collection(f"{ROOT}/Broken", f"{ROOT}/1")
    bmc.statuses[f"{ROOT}/Broken"] = 500
    assert Node(opened, BmcSettings(bmc.url)).power_mw() == 500_000


def test_an_energy_counter_in_small_steps_is_taken_with_the_power(
    bmc: RedfishStandin, opened: list[RedfishClient]
) -> None:
    environment(bmc, PowerWatts={"Reading": 5000}, EnergykWh={"Reading": 100.125})
    assert Node(opened, BmcSettings(bmc.url)).chassis.ask() == Draw(5_000_000, 360_450_000_000_000)


def test_an_energy_counter_in_large_steps_is_left_for_the_power(
    bmc: RedfishStandin, opened: list[RedfishClient]
) -> None:
    environment(bmc, PowerWatts={"Reading": 5000}, EnergykWh={"Reading": 100})
    assert Node(opened, BmcSettings(bmc.url)).chassis.ask() == Draw(5_000_000, None)


def test_a_counter_once_taken_is_kept_to(bmc: RedfishStandin, opened: list[RedfishClient]) -> None:
    """100.125 kWh, then a round 100.5: the same counter. Without it nothing is said: power would count twice."""
    environment(bmc, PowerWatts={"Reading": 5000}, EnergykWh={"Reading": 100.125})
    node = Node(opened, BmcSettings(bmc.url))
    node.chassis.ask()
    bmc.documents[ENVIRONMENT]["EnergykWh"]["Reading"] = 100.5
    assert node.chassis.ask().energy_uj == 361_800_000_000_000
    del bmc.documents[ENVIRONMENT]["EnergykWh"]
    assert node.failure().reason == "no_energy_counter"


def test_over_tls_with_the_bmcs_own_authority_and_a_password(tmp_path: Path, opened: list[RedfishClient]) -> None:
    with RedfishStandin(tmp_path, password=PASSWORD) as bmc:
        bmc.documents |= server_chassis(watts=565)
        settings = BmcSettings(bmc.url, USER, password_file(tmp_path), ca_file=bmc.certificate)
        assert Node(opened, settings).power_mw() == 565_000


def test_a_certificate_that_nobody_vouches_for_is_refused_unless_told_not_to_look(
    tmp_path: Path, opened: list[RedfishClient]
) -> None:
    with RedfishStandin(tmp_path, password=PASSWORD) as bmc:
        bmc.documents |= server_chassis(watts=565)
        password = password_file(tmp_path)
        failure = Node(opened, BmcSettings(bmc.url, USER, password)).failure()
        assert failure.reason == "tls"
        assert "ca_file" in failure.detail
        assert bmc.requests == []
        assert Node(opened, BmcSettings(bmc.url, USER, password, verify=False)).power_mw() == 565_000


def test_a_ca_file_that_is_none_is_named(tmp_path: Path, opened: list[RedfishClient]) -> None:
    missing = tmp_path / "ca.pem"
    failure = Node(opened, BmcSettings("https://127.0.0.1:9", ca_file=missing)).failure()
    assert (failure.reason, str(missing) in failure.detail) == ("tls", True)


def test_a_wrong_password_is_said_without_the_password(tmp_path: Path, opened: list[RedfishClient]) -> None:
    with RedfishStandin(password=PASSWORD) as bmc:
        failure = Node(opened, BmcSettings(bmc.url, USER, password_file(tmp_path, "wrong-one"))).failure()
    assert failure.reason == "unauthorised"
    assert "wrong-one" not in failure.detail


def test_a_password_is_read_anew_when_it_was_changed(tmp_path: Path, opened: list[RedfishClient]) -> None:
    with RedfishStandin(password=PASSWORD) as bmc:
        bmc.documents |= server_chassis(watts=565)
        node = Node(opened, BmcSettings(bmc.url, USER, password_file(tmp_path, "old")))
        assert node.failure().reason == "unauthorised"
        password_file(tmp_path)
        assert node.power_mw() == 565_000


@pytest.mark.parametrize(
    ("text", "mode", "reason"),
    [(PASSWORD, 0o644, "password_file_open"), (PASSWORD, 0o602, "password_file_open"), ("\n", 0o600, "no_password")],
)
def test_a_password_file_that_is_no_secret_is_not_used(
    tmp_path: Path, bmc: RedfishStandin, opened: list[RedfishClient], text: str, mode: int, reason: str
) -> None:
    assert Node(opened, BmcSettings(bmc.url, USER, password_file(tmp_path, text, mode))).failure().reason == reason
    assert bmc.requests == []


def test_a_user_without_a_password_file_is_named(bmc: RedfishStandin, opened: list[RedfishClient]) -> None:
    assert Node(opened, BmcSettings(bmc.url, USER)).failure().reason == "no_password"


def test_no_password_goes_over_plain_http_to_another_machine(tmp_path: Path, opened: list[RedfishClient]) -> None:
    settings = BmcSettings("http://bmc.example", USER, password_file(tmp_path))
    client = RedfishClient(settings, SystemClock(), resolve_=lambda host, port: [("192.0.2.7", port)])
    with pytest.raises(FetchError) as caught:
        client.get(ROOT)
    assert caught.value.failure.reason == "insecure"


@pytest.mark.parametrize("address", ["169.254.169.254", "fd00:ec2::254", "224.0.0.1"])
def test_a_metadata_service_is_no_bmc(address: str) -> None:
    client = RedfishClient(
        BmcSettings("https://bmc.example"), SystemClock(), resolve_=lambda h, port: [(address, port)]
    )
    with pytest.raises(FetchError) as caught:
        client.get(ROOT)
    assert caught.value.failure.reason == "address_denied"


def test_a_redirect_within_the_bmc_is_followed(bmc: RedfishStandin, opened: list[RedfishClient]) -> None:
    bmc.documents |= server_chassis(watts=565)
    bmc.documents[f"{ROOT}/"] = bmc.documents.pop(ROOT)
    bmc.redirects[ROOT] = f"{ROOT}/"
    assert Node(opened, BmcSettings(bmc.url)).power_mw() == 565_000


@pytest.mark.parametrize("place", ["http://127.0.0.2:8000/x", "//evil.example/x", "https://evil.example/x", ROOT])
def test_a_redirect_elsewhere_or_in_circles_is_not(
    bmc: RedfishStandin, opened: list[RedfishClient], place: str
) -> None:
    bmc.redirects[ROOT] = place
    assert Node(opened, BmcSettings(bmc.url)).failure().reason == "redirected"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>", "not_understood"),
        (b"[]", "not_understood"),
        (b"[" * 100_000, "not_understood"),
        (b'{"Members": NaN}', "no_power_reading"),
        (b'{"x": "' + b"x" * 5_000_000 + b'"}', "too_large"),
    ],
    ids=["html", "list", "deep", "nan", "large"],
)
def test_a_body_that_is_no_resource(bmc: RedfishStandin, opened: list[RedfishClient], body: bytes, reason: str) -> None:
    bmc.bodies[ROOT] = body
    assert Node(opened, BmcSettings(bmc.url)).failure().reason == reason


@pytest.mark.parametrize(("status", "reason"), [(403, "forbidden"), (404, "http_404"), (503, "http_503")])
def test_a_refusal_keeps_its_status(bmc: RedfishStandin, opened: list[RedfishClient], status: int, reason: str) -> None:
    bmc.documents[ROOT] = {}
    bmc.statuses[ROOT] = status
    assert Node(opened, BmcSettings(bmc.url)).failure().reason == reason


def test_a_connection_that_the_bmc_closed_at_rest_is_opened_anew(
    bmc: RedfishStandin, opened: list[RedfishClient]
) -> None:
    bmc.documents |= server_chassis(watts=565)
    bmc.closes = True
    node = Node(opened, BmcSettings(bmc.url))
    assert [node.power_mw(), node.power_mw()] == [565_000, 565_000]
    assert bmc.connections == len(bmc.requests)


def test_a_bmc_that_is_not_there_says_so(opened: list[RedfishClient]) -> None:
    assert Node(opened, BmcSettings("http://127.0.0.1:1")).failure().reason == "connection_refused"


def test_an_answer_that_does_not_come_is_a_timeout(bmc: RedfishStandin, opened: list[RedfishClient]) -> None:
    bmc.hangs.set()
    assert Node(opened, BmcSettings(bmc.url), answer_s=0.05).failure().reason == "timeout"


def test_another_thread_may_end_a_question_that_hangs(bmc: RedfishStandin, opened: list[RedfishClient]) -> None:
    bmc.hangs.set()
    node = Node(opened, BmcSettings(bmc.url), answer_s=60)
    failures: list[Failure] = []
    asking = threading.Thread(target=lambda: failures.append(node.failure()))
    asking.start()
    while not bmc.requests:  # the question has gone out once it has come in
        asking.join(0.001)
    node.client.cancel()
    asking.join(30)
    assert [failure.reason for failure in failures] == ["connection_failed"]


def test_as_a_source_with_a_thread_of_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No log line, no reading and no absence contains the password."""
    caplog.set_level(logging.DEBUG, "wattmill")
    with RedfishStandin(tmp_path, password=PASSWORD) as bmc:
        bmc.documents |= server_chassis(watts=565)
        settings = BmcSettings(bmc.url, USER, password_file(tmp_path), verify=False)
        source = open_redfish(settings, SystemClock(), every_us=10 * SECOND, patience_us=20 * SECOND)
        read = source.read(0)
        source.close()
    assert read == [HostReading(domain="chassis", source="redfish", power_mw=565_000)]
    assert "is not checked" in caplog.text
    assert PASSWORD not in caplog.text + repr(settings) + repr(read)


def test_a_url_with_another_path_is_refused(opened: list[RedfishClient]) -> None:
    assert Node(opened, BmcSettings("http://127.0.0.1:1/elsewhere")).failure().reason == "not_understood"


def test_an_answer_that_trickles_ends_at_its_deadline(bmc: RedfishStandin) -> None:
    """The clock of this client is a second on at every look; the body comes in more pieces than it has seconds."""

    class Hasty(FakeClock):
        def monotonic_us(self) -> int:
            self.advance(SECOND)
            return super().monotonic_us()

    bmc.bodies[ROOT] = b'{"x": "' + b"x" * 3_000_000 + b'"}'
    client = RedfishClient(BmcSettings(bmc.url), Hasty(), answer_s=2.0)
    with pytest.raises(FetchError) as caught:
        client.get(ROOT)
    assert caught.value.failure.reason == "timeout"
