"""Exporters behind a user and password: what is sent, to whom, and what is said when the password can't be read."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fake_clock import FakeClock
from support.fake_exporter import FakeExporter
from wattmill_collector.sources.exporters.source import ExporterSource
from wattmill_collector.targets import ExporterSettings, MeterSettings, parse_exporters, parse_meters
from wattmill_collector.wire import AbsenceReading, HostReading, MeterReading, Reading

PAGES = Path(__file__).parents[2] / "fixtures" / "recorded" / "exporters"
PASSWORD = "pa:ss wörd"
LOGIN = "Basic " + base64.b64encode(f"watt:{PASSWORD}".encode()).decode()


@pytest.fixture
def exporter() -> Iterator[FakeExporter]:
    pages = {"/ipmi": (PAGES / "ipmi.prom").read_bytes(), "/snmp": (PAGES / "snmp_sentry4.prom").read_bytes()}
    with FakeExporter(pages) as one:
        one.login = LOGIN
        yield one


@pytest.fixture
def password(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n", encoding="utf-8")
    file.chmod(0o640)
    return file


def read(exporters: list[ExporterSettings], meters: list[MeterSettings]) -> list[Reading]:
    source = ExporterSource(exporters, meters, node="n1", clock=FakeClock(), patience_us=2_000_000)
    readings = source.read(1_764_030_010_000_000)
    source.close()
    return readings


def reasons(readings: list[Reading]) -> list[tuple[str, str]]:
    return [(one.subject, one.reason) for one in readings if isinstance(one, AbsenceReading)]


def test_user_and_password_open_the_pages_of_exporters_and_meters(exporter: FakeExporter, password: Path) -> None:
    login = {"user": "watt", "password_file": str(password)}
    readings = read(
        list(parse_exporters([{"target": exporter.url("/ipmi"), **login}])),
        list(parse_meters([{"target": exporter.url("/snmp"), "name": "rack", **login}])),
    )
    assert [one.power_mw for one in readings if isinstance(one, HostReading | MeterReading)] == [1_372_000, 8_210_000]


def test_without_them_the_page_stays_shut(exporter: FakeExporter) -> None:
    assert reasons(read([ExporterSettings(exporter.url("/ipmi"))], [])) == [("accelerator", "http_401")]


def test_a_password_that_everybody_may_read_is_not_sent_and_takes_no_other_exporter_along(
    exporter: FakeExporter, password: Path
) -> None:
    password.chmod(0o644)
    shut = ExporterSettings(exporter.url("/ipmi"), "ipmi", "watt", password)
    exporter.login = ""
    readings = read([shut], [MeterSettings(exporter.url("/snmp"), "rack")])
    assert reasons(readings) == [("host", "password_file_open")]
    assert [one.power_mw for one in readings if isinstance(one, MeterReading)] == [8_210_000]
    assert exporter.requests == ["/snmp"]


def test_a_user_without_a_password_file_is_named(exporter: FakeExporter) -> None:
    (said,) = read([ExporterSettings(exporter.url("/ipmi"), "ipmi", "watt")], [])
    assert isinstance(said, AbsenceReading)
    assert (said.reason, "user and password_file" in said.detail) == ("no_password", True)


def test_a_login_is_used_for_its_address_whoever_of_its_readers_names_it(
    exporter: FakeExporter, password: Path
) -> None:
    meter = MeterSettings(exporter.url("/ipmi"), "rack", "ipmi", user="watt", password_file=password)
    readings = read([ExporterSettings(exporter.url("/ipmi"))], [meter])
    assert reasons(readings) == []
    assert [one.power_mw for one in readings if isinstance(one, HostReading | MeterReading)] == [1_372_000, 1_372_000]


def test_what_asks_a_device_is_not_pressed_when_that_fails(exporter: FakeExporter) -> None:
    source = ExporterSource([], [MeterSettings(exporter.url("/snmp"), "rack")], node="n1", clock=FakeClock())
    exporter.status = 500
    for tick in range(30):
        source.read(1_764_030_010_000_000 + tick * 1_000_000)
    source.close()
    assert len(exporter.requests) == 3  # each 10 s
