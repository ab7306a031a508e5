"""How exporters and meters are configured: what is taken, and what is refused with the way out."""

from __future__ import annotations

import pytest

from wattmill_collector.checks import judge_reading
from wattmill_collector.targets import ExporterSettings, parse_exporters, parse_meters
from wattmill_collector.wire import MeterReading

SNMP = "http://127.0.0.1:9116/snmp?target=10.0.0.5&module=apcups"


def test_an_exporter_is_named_by_its_project_or_in_short() -> None:
    items = [{"target": "http://a:9400/metrics", "kind": "DCGM"}, {"target": "http://b:8002/metrics", "kind": "triton"}]
    assert parse_exporters(items) == (
        ExporterSettings("http://a:9400/metrics", "dcgm"),
        ExporterSettings("http://b:8002/metrics", "triton"),
    )
    assert parse_exporters("http://a:9400/metrics,http://b:9100/metrics")[1].kind == "auto"


def test_an_exporter_that_is_not_known_is_refused_with_those_that_are() -> None:
    with pytest.raises(ValueError, match=r"auto or one of .*amd_smi_exporter.*; not collectd"):
        parse_exporters([{"target": "http://a:1/metrics", "kind": "collectd"}])


def test_a_meter_may_say_what_to_read() -> None:
    (meter,) = parse_meters(
        [
            {
                "name": "hall",
                "target": SNMP,
                "level": "facility",
                "metric": "x",
                "unit": "0.1kWh",
                "select": {"feed": "A"},
            }
        ]
    )
    assert (meter.metric, meter.unit, meter.select, meter.level) == ("x", "0.1kWh", {"feed": "A"}, "facility")


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        ({"kind": "megameter"}, "kind is auto or one of apc"),
        ({"metric": "x"}, "metric and unit together"),
        ({"unit": "W"}, "metric and unit together"),
        ({"metric": "x", "unit": "BTU"}, "unit is one of mW, W, kW"),
    ],
)
def test_a_meter_that_nobody_could_read_is_refused(item: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse_meters([{"name": "rack-12", "target": SNMP, **item}])


def test_the_doctor_says_what_a_meter_shows() -> None:
    (check,) = judge_reading(MeterReading(meter="rack-12", level="rack", power_mw=10_550_000, energy_mj=36 * 10**9))
    assert (check.status, check.text) == ("OK", "rack-12 (rack): 10550 W, energy at 10.0 kWh")
    (check,) = judge_reading(MeterReading(meter="rack-12", level="rack", power_mw=1000))
    assert check.text == "rack-12 (rack): 1 W, no energy counter"
