"""Which of a BMC's chassis is the node, and which of its numbers the power of the whole: never a part, never a sum."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.redfish_standin import ROOT, chassis, link
from wattmill_collector.sources.redfish_documents import (
    Metrics,
    candidates,
    control_mw,
    hosts_of,
    metrics_mw,
    metrics_of,
    path_of,
    paths_of,
    supplies_mw,
    watts,
)


def named(*documents: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {document["@odata.id"]: document for document in documents}


def names(groups: list[list[str]]) -> list[list[str]]:
    return [[path.rpartition("/")[2] for path in group] for group in groups]


def contains(*children: str) -> dict[str, Any]:
    return {"Contains": [link(f"{ROOT}/{child}") for child in children]}


def inside(parent: str) -> dict[str, Any]:
    return {"ContainedBy": link(f"{ROOT}/{parent}")}


def test_a_servers_drive_cages_and_adapters_are_parts_of_it() -> None:
    found = named(
        chassis("1"),
        chassis("DE00A000", "StorageEnclosure", systems=(), links=inside("1")),
        chassis("NetworkFabric.1", "Module", systems=()),
    )
    assert names(candidates(found)) == [["1"]]


def test_of_a_gpu_tray_the_tray_is_the_node_and_not_the_baseboard_beside_it() -> None:
    """As a GB300 tray shows itself: 42 chassis, two roots; the baseboard's is a zone and its system the boards'."""
    found = named(
        chassis("BMC_0", "Module", systems=("System_0",), links=inside("Chassis_0")),
        chassis("Chassis_0", "Shelf", systems=("System_0",), links=contains("BMC_0", "Riser_Slot2_BlueField_3_Card")),
        chassis("CPLD_0", "Module", systems=("System_0",)),
        chassis("HGX_Chassis_0", "Zone", systems=("HGX_Baseboard_0",), links=contains("HGX_ProcessorModule_0")),
        chassis("HGX_GPU_0", "Component", systems=("HGX_Baseboard_0",), links=inside("HGX_ProcessorModule_0")),
        chassis("HGX_ProcessorModule_0", "Module", systems=("HGX_Baseboard_0",), links=inside("HGX_Chassis_0")),
        chassis("Riser_Slot2_BlueField_3_Card", "Component", systems=("Bluefield",), links=inside("Chassis_0")),
    )
    assert names(candidates(found)) == [["Chassis_0"]]


def test_a_baseboard_is_never_the_node_whatever_type_it_says() -> None:
    assert candidates(named(chassis("HGX_Chassis_0", "RackMount", systems=("HGX_Baseboard_0",)))) == []


def test_an_enclosure_of_several_nodes_is_none_of_them() -> None:
    """Four sleds behind one manager: they are four computers, and the enclosure is no candidate."""
    sleds = [chassis(f"Sled{n}", "Sled", systems=(f"Node{n}",), links=inside("Enclosure")) for n in range(4)]
    enclosure = chassis("Enclosure", "Enclosure", systems=(), links=contains(*(f"Sled{n}" for n in range(4))))
    groups = candidates(named(enclosure, *sleds))
    assert names(groups) == [["Sled0", "Sled1", "Sled2", "Sled3"]]
    assert len(hosts_of(sleds)) == 4


def test_an_enclosure_around_one_node_is_the_node() -> None:
    found = named(
        chassis("Self", "Enclosure", systems=(), links=contains("Board")), chassis("Board", links=inside("Self"))
    )
    assert names(candidates(found)) == [["Self"], ["Board"]]


def test_a_rack_is_no_node() -> None:
    assert names(candidates(named(chassis("Rack", "Rack"), chassis("1")))) == [["1"]]


def test_what_is_absent_is_no_node() -> None:
    assert candidates(named(chassis("1", Status={"State": "Absent"}))) == []


def test_a_chassis_that_contains_itself_ends_no_search() -> None:
    assert names(candidates(named(chassis("1", links=contains("1") | inside("1"))))) == [["1"]]


@pytest.mark.parametrize(
    ("value", "milliwatts"),
    [
        (565, 565_000),
        (Decimal("1349.263802"), 1_349_263),
        ("69", 69_000),
        ({"Reading": 374, "DataSourceUri": "/x"}, 374_000),
        ({"Reading": None}, None),
        (0, None),
        (-1, None),
        (True, None),
        ("n/a", None),
        (Decimal("1e999999999"), None),
        (10**4000, None),
        ([5], None),
        (None, None),
    ],
)
def test_watts(value: Any, milliwatts: int | None) -> None:
    assert watts(value) == milliwatts


def test_of_several_controls_the_whole_is_taken_and_its_parts_are_not_added() -> None:
    """As Lenovo's and Intel's BMCs list them: 1200 W of the server, of which 300 W processors and 50 W memory."""
    parts = [
        {"Name": "CPU Sub-system Power", "PowerConsumedWatts": 300},
        {"Name": "Memory Sub-system Power", "PowerConsumedWatts": 50},
    ]
    whole = {"Name": "Server Power Control", "PowerConsumedWatts": 1200}
    assert control_mw({"PowerControl": [whole, *parts]}) == 1_200_000
    assert control_mw({"PowerControl": [*parts, whole]}) == 1_200_000
    assert control_mw({"PowerControl": parts}) is None


@pytest.mark.parametrize(
    ("control", "milliwatts"),
    [
        ({"PowerConsumedWatts": 324}, 324_000),  # Cisco: one control, not a list
        ([{"PowerConsumedWatts": None}, {"PowerConsumedWatts": 12}], 12_000),
        ([{"PowerConsumedWatts": 0}], None),
        ([{"PowerConsumedWatts": 4}], None),  # a PowerEdge XR8620t whose supply took 180 W
        ([{"PowerConsumedWatts": 900, "Status": {"State": "Absent"}}], None),
        ([{"PhysicalContext": "GPU", "PowerConsumedWatts": 700}], None),
        ("Power", None),
        (None, None),
    ],
)
def test_power_control(control: Any, milliwatts: int | None) -> None:
    assert control_mw({"PowerControl": control}) == milliwatts


def test_supplies_are_summed_only_when_all_that_are_there_say_what_they_take() -> None:
    one, two, empty = {"PowerInputWatts": Decimal("400.5")}, {"PowerInputWatts": 410}, {"Status": {"State": "Absent"}}
    assert supplies_mw({"PowerSupplies": [one, two, empty]}) == 810_500
    assert supplies_mw({"PowerSupplies": [two, {"LastPowerOutputWatts": 222}]}) is None
    assert supplies_mw({"PowerSupplies": []}) is None
    assert metrics_mw([{"InputPowerWatts": {"Reading": 937}}, {"InputPowerWatts": {"Reading": 3}}]) == 940_000
    assert metrics_mw([{"InputPowerWatts": {"Reading": 937}}, {}]) is None


def test_energy_in_joules_is_a_counter_in_microjoules() -> None:
    found = metrics_of({"PowerWatts": {"Reading": 10}, "EnergyJoules": {"Reading": Decimal("230057772.094")}})
    assert found == Metrics(10_000, 230_057_772_094_000, is_fine=True)


@pytest.mark.parametrize(
    ("text", "microjoules", "is_fine"),
    [
        ("12", 43_200_000_000_000, False),
        ("12.5", 45_000_000_000_000, False),
        ("12.501", 45_003_600_000_000, True),
        ("63.90493674390172", 230_057_772_278_046, True),
    ],
)
def test_a_counter_in_kilowatt_hours_is_relied_on_only_in_small_steps(
    text: str, microjoules: int, is_fine: bool
) -> None:
    """1 kWh is 3.6e12 µJ; a server of 5 kW moves 83 Wh in a minute, which a counter of whole kWh does not show."""
    document = json.loads(f'{{"EnergykWh": {{"Reading": {text}}}}}', parse_float=Decimal)
    assert metrics_of(document) == Metrics(None, microjoules, is_fine)


def test_the_lifetime_reading_is_preferred_to_one_that_is_reset() -> None:
    found = metrics_of({"EnergykWh": {"Reading": Decimal("0.001"), "LifetimeReading": Decimal("100.001")}})
    assert found.energy_uj == 360_003_600_000_000


@pytest.mark.parametrize("value", ["//evil.example/x", "http://evil.example/x", "x", "/a b", "/a\r\nX: y", 5, None])
def test_a_link_leads_nowhere_but_into_the_bmc(value: Any) -> None:
    assert path_of({"@odata.id": value}) == ""


def test_links_are_the_same_with_and_without_the_slash_at_their_end() -> None:
    assert paths_of([link("/redfish/v1/Chassis/1/"), link("/redfish/v1/Chassis/1"), "text", None]) == [f"{ROOT}/1"]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.decimals(allow_nan=True),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
KEYS = ("PowerWatts", "EnergykWh", "EnergyJoules", "PowerControl", "PowerSupplies", "InputPowerWatts", "Reading")
LINKS = ("ChassisType", "Links", "Status", "Contains", "ContainedBy", "ComputerSystems", "@odata.id")


@given(st.dictionaries(st.sampled_from(KEYS + LINKS), ANYTHING, max_size=6))
def test_no_document_is_too_strange(document: dict[str, Any]) -> None:
    found = metrics_of(document)
    for number in (
        found.power_mw,
        found.energy_uj,
        control_mw(document),
        supplies_mw(document),
        metrics_mw([document]),
    ):
        assert number is None or 0 <= number < 2**63
    candidates({f"{ROOT}/1": document, f"{ROOT}/2": {"Links": document}})
