"""Pages that real exporters have sent: snmp_exporter, ipmi_exporter and node_exporter before devices whose numbers are
known. Each page's first line says what it was recorded from.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from wattmill_collector.sources.exporters.kinds import named, recognise
from wattmill_collector.sources.exporters.meters import METER_NAMES, MeterPage, MeterValues
from wattmill_collector.sources.exporters.pages import ExporterPage
from wattmill_collector.sources.promtext import PageReader
from wattmill_collector.targets import MeterSettings
from wattmill_collector.wire import HostReading

PAGES = Path(__file__).parents[2] / "fixtures" / "recorded" / "exporters"
TENTH_KWH_MJ = 360_000_000
METERS = [
    # The PDU says 1230 W of itself in a table of whole watts: hundredths of a kilowatt are the right unit.
    ("snmp_apc_ap8641", "apc", 1_210_000, 19_516 * TENTH_KWH_MJ),
    ("snmp_sentry4", "servertech", (4211 + 3999) * 1000, (100_001 + 20_002) * TENTH_KWH_MJ),
    ("snmp_sentry3", "servertech", (1500 + 1400 + 1300) * 1000, (5000 + 4500 + 4000) * TENTH_KWH_MJ),
    ("snmp_raritan_px", "raritan", 765_000, None),  # not its outlets' 750 W
    ("snmp_raritan_px2", "raritan", 5_312_000, 987_654 * 3_600_000),
    ("snmp_infrapower", "infrapower", 1_234_560 + 50, None),
    ("snmp_liebert", "liebert", 2_750_000, None),
    ("snmp_ups_eaton93e", "ups", (5100 + 3600 + 2700) * 1000, None),
    ("ipmi", "ipmi", 1_372_000, None),
]


def recorded(name: str) -> bytes:
    return (PAGES / f"{name}.prom").read_bytes()


def meter(name: str, kind: str = "auto", metric: str = "", unit: str = "", **select: str) -> MeterValues:
    page = MeterPage(MeterSettings("http://127.0.0.1:9116/snmp", "m", kind, metric=metric, unit=unit, select=select))
    reader = PageReader(page.names(), repeats=True)
    texts = reader.read(recorded(name))
    return page.read(reader.series, texts, 0)


def host(name: str) -> tuple[ExporterPage, dict[str, HostReading]]:
    page = ExporterPage(named("auto"), "n1", Path("/nowhere"))
    page.scan(recorded(name))
    return page, {reading.domain: reading for _, reading in page.domains("", 0, is_local=False)}


@pytest.mark.parametrize(("name", "kind", "power_mw", "energy_mj"), METERS)
def test_a_recorded_meter_is_read_in_its_devices_units(
    name: str, kind: str, power_mw: int, energy_mj: int | None
) -> None:
    for asked in ("auto", kind):
        values = meter(name, asked)
        assert (values.power_mw, values.energy_mj, values.problem) == (power_mw, energy_mj, None)


def test_a_pdu_that_measures_amperes_only_has_no_power() -> None:
    values = meter("snmp_apc_ap7902b")  # -1 for power, energy and each phase's power
    assert values.problem is not None
    assert values.problem[0] == "no_number"


def test_one_cord_or_phase_is_read_by_what_the_exporter_calls_it() -> None:
    assert meter("snmp_sentry4", st4InputCordName="Cord_B").power_mw == 3_999_000
    assert meter("snmp_ups_eaton93e", metric="upsOutputPower", unit="W", upsOutputLineIndex="2").power_mw == 3_600_000


def test_every_recorded_meter_is_one_kind_of_meter_and_no_exporter_of_this_node() -> None:
    for name, kind, _, _ in METERS[:-1]:
        assert recognise(recorded(name), named("auto")) == ()
        assert [each for each in METER_NAMES if meter(name, each).problem is None] == [kind]


def test_a_recorded_bmc_is_read_once_by_dcmi_else_by_its_total() -> None:
    _, by_dcmi = host("ipmi")
    _, by_sensors = host("ipmi_sensors")
    assert {name: one.power_mw for name, one in by_dcmi.items()} == {"chassis": 1_372_000}
    assert {name: one.power_mw for name, one in by_sensors.items()} == {"chassis": 1_368_000}


def test_a_node_that_says_less_than_ten_watts_is_read_by_the_next_best() -> None:
    page = recorded("ipmi").replace(b"ipmi_dcmi_power_consumption_watts 1372", b"ipmi_dcmi_power_consumption_watts 4")
    reader = ExporterPage(named("auto"), "n1", Path("/nowhere"))
    reader.scan(page)
    (chassis,) = (reading for _, reading in reader.domains("", 0, is_local=False))
    assert chassis.power_mw == 1_368_000


def test_a_bmc_that_its_exporter_could_not_ask_is_cut_off_and_one_that_answered_is_not() -> None:
    page, domains = host("ipmi_cut_off")
    assert domains == {}
    assert page.is_cut_off()
    for name in (
        "ipmi",
        "ipmi_sensors",
        "node",
    ):  # one of four collectors failed on the first; the last has no such series
        assert not host(name)[0].is_cut_off()


def test_a_recorded_node_exporter_has_each_package_once_and_the_node_by_its_power_meter() -> None:
    _, domains = host("node")
    assert {name: one.energy_uj for name, one in domains.items() if name != "chassis"} == {
        "package-0": 65_532_500_000,  # an mmio zone shows it again
        "package-1": 123_456_789_012,
        "dram-0": 3_000_000_123,
        "dram-1": 4_000_000_456,
    }
    assert domains["chassis"].power_mw == 1_372_000
    assert domains["package-1"].energy_range_uj == 262_143_328_850
    assert domains["package-0"].energy_range_uj is None  # below the smallest range there is: not known yet
