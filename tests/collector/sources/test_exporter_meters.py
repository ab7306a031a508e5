"""Golden pages of meters: each vendor's units, sums of cords, and never a total with its parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from wattmill_collector.sources.exporters.meters import MeterPage, MeterValues
from wattmill_collector.sources.promtext import PageReader
from wattmill_collector.targets import MeterSettings

PAGES = Path(__file__).parents[2] / "fixtures" / "exporters"
MINUTE_US = 60_000_000
URL = "http://127.0.0.1:9116/snmp?target=10.0.0.5&module=x"


class Reader:
    """One meter whose page a test changes."""

    def __init__(self, kind: str = "auto", metric: str = "", unit: str = "", **select: str) -> None:
        self.page = MeterPage(MeterSettings(URL, "rack-12-a", kind=kind, metric=metric, unit=unit, select=select))
        self.reader = PageReader(self.page.names(), repeats=True)

    def read(self, page: str | bytes, time_us: int = 0) -> MeterValues:
        texts = self.reader.read(page if isinstance(page, bytes) else page.encode())
        return self.page.read(self.reader.series, texts, time_us)


def golden(name: str) -> str:
    return (PAGES / f"{name}.prom").read_text()


@pytest.mark.parametrize(
    ("page", "kind", "power_mw", "energy_mj"),
    [
        ("snmp_apc", "apc", (1043 + 12) * 10_000, (123_456 + 7) * 360_000_000),
        ("snmp_servertech", "servertech", (4211 + 3999) * 1000, (100_001 + 20_002) * 360_000_000),
        ("snmp_raritan", "raritan", 5_312_700 + 100_000, (987_654 + 12) * 3_600_000),
        ("snmp_cyberpower", "cyberpower", (512 + 498) * 1000, 3345 * 360_000_000),
        ("snmp_infrapower", "infrapower", 1_234_560, None),
        ("snmp_liebert", "liebert", 2_750_000, None),
        ("redfish", "redfish", 5_120_000, None),
        ("ipmi", "ipmi", 1_372_000, None),
    ],
)
def test_a_meter_is_read_in_its_vendors_units(page: str, kind: str, power_mw: int, energy_mj: int | None) -> None:
    for asked in ("auto", kind):
        values = Reader(asked).read(golden(page))
        assert (values.power_mw, values.energy_mj, values.problem) == (power_mw, energy_mj, None)


def test_only_one_of_a_chain_is_read_where_the_operator_selects_it() -> None:
    values = Reader(rPDU2DeviceStatusIndex="2").read(golden("snmp_apc"))
    assert (values.power_mw, values.energy_mj) == (120_000, 7 * 360_000_000)


def test_phases_are_read_only_where_there_is_no_total() -> None:
    page = "\n".join(line for line in golden("snmp_apc").splitlines() if "DeviceStatusPower" not in line) + "\n"
    assert Reader().read(page).power_mw == (350 + 350 + 343) * 10_000


@pytest.mark.parametrize(
    ("unit", "power_mw", "energy_mj"),
    [
        ("W", 2_500_000, None),
        ("kW", 2_500_000_000, None),
        ("0.01kW", 25_000_000, None),
        ("mW", 2500, None),
        ("J", None, 2_500_000),
        ("kJ", None, 2_500_000_000),
        ("mJ", None, 2500),
        ("Wh", None, 9_000_000_000),
        ("kWh", None, 9_000_000_000_000),
        ("0.1kWh", None, 900_000_000_000),
    ],
)
def test_any_metric_is_read_in_the_unit_that_the_operator_says(
    unit: str, power_mw: int | None, energy_mj: int | None
) -> None:
    page = 'hall{feed="A",phase="1"} 1500\nhall{feed="A",phase="2"} 1000\nhall{feed="B",phase="1"} 99\n'
    values = Reader(metric="hall", unit=unit, feed="A").read(page)
    assert (values.power_mw, values.energy_mj) == (power_mw, energy_mj)


def test_a_page_of_no_meter_says_what_to_do() -> None:
    problem = Reader().read("ifHCInOctets 5\n").problem
    assert problem is not None
    assert problem[0] == "not_understood"
    assert "metric, unit and select" in problem[1]
    problem = Reader(metric="hall", unit="W", feed="C").read('hall{feed="A"} 5\n').problem
    assert problem is not None
    assert 'hall with feed="C"' in problem[1]


def test_an_energy_that_was_set_back_by_hand_is_another_epoch() -> None:
    page = golden("snmp_apc")
    reader = Reader()
    first, again = reader.read(page), reader.read(page.replace("123456", "123460"))
    reset = reader.read(page.replace("123456", "0").replace("03:04:05", "11:12:13"))
    assert first.epoch == again.epoch != 0
    assert reset.epoch not in (first.epoch, 0)


def test_a_missing_cord_is_no_smaller_meter_until_it_stays_away() -> None:
    page = golden("snmp_servertech")
    without = "\n".join(line for line in page.splitlines() if "Link_Cord_A" not in line) + "\n"
    reader = Reader()
    whole = reader.read(page)
    for minute in (1, 5, 10):
        problem = reader.read(without, minute * MINUTE_US).problem
        assert problem is not None
        assert problem[0] == "parts_missing"
    less = reader.read(without, 11 * MINUTE_US)
    assert (less.power_mw, less.energy_mj) == (4_211_000, 100_001 * 360_000_000)
    assert less.epoch != whole.epoch  # so that the fall of the sum is no fall of the counter
    assert reader.read(page, 12 * MINUTE_US).epoch == whole.epoch


def test_a_cord_that_shows_no_number_leaves_no_sum() -> None:
    page = golden("snmp_servertech").replace("} 3999", "} NaN").replace("} 20002", "} NaN")
    assert Reader().read(page).problem == ("no_number", "the meter's series show no numbers that can be used")


def test_a_restarted_agent_finds_the_same_epoch() -> None:
    assert Reader().read(golden("snmp_raritan")).epoch == Reader().read(golden("snmp_raritan")).epoch
