"""Exporters and meters over HTTP: who reads what, what is said when nothing can be read, and what may come late."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.fake_clock import FakeClock
from support.fake_engine import FakeEngine
from support.fake_exporter import FakeExporter
from wattmill_collector.lineup import line_up
from wattmill_collector.log import Throttle
from wattmill_collector.settings import EngineSettings, Settings, SourceSettings, SpoolSettings
from wattmill_collector.sources.epochs import epoch_of, read_boot_id
from wattmill_collector.sources.exporters.kinds import EXPORTER_KINDS, named
from wattmill_collector.sources.exporters.pages import ExporterPage
from wattmill_collector.sources.exporters.source import ExporterSource
from wattmill_collector.sources.promtext import ParseError
from wattmill_collector.targets import ExporterSettings, MeterSettings
from wattmill_collector.wire import (
    AbsenceReading,
    AcceleratorReading,
    EngineReading,
    HostReading,
    MeterReading,
    Reading,
    decode_reading,
    encode_reading,
)

PAGES = Path(__file__).parents[2] / "fixtures" / "exporters"
SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
T0 = 1_764_030_010 * SECOND_US  # ten seconds into a minute
U0, U1 = (f"GPU-5f2c1a40-1111-2222-3333-00000000000{c}" for c in "ab")


def page(name: str) -> bytes:
    return (PAGES / f"{name}.prom").read_bytes()


class Agent:
    """An exporter source with what the agent itself has read, ticking every `interval_s`."""

    def __init__(self, exporters: Sequence[str], meters: Sequence[MeterSettings] = (), interval_s: int = 10) -> None:
        self.own: list[Reading] = []
        self.clock = FakeClock()
        self.interval_us = interval_s * SECOND_US
        self.time_us = T0 - self.interval_us
        self.source = ExporterSource(
            [ExporterSettings(url) for url in exporters],
            meters,
            node="n1",
            clock=self.clock,
            interval_us=self.interval_us,
            own=lambda: self.own,
        )

    def tick(self) -> list[Reading]:
        self.time_us += self.interval_us
        self.clock.advance(self.interval_us)
        readings = self.source.read(self.time_us)
        for reading in readings:
            assert decode_reading(encode_reading(reading)) == reading
        return readings


@pytest.fixture
def exporter() -> Iterator[FakeExporter]:
    with FakeExporter({}) as one:
        yield one


Start = Callable[..., Agent]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[Agent] = []

    def open_(*args: Any, **kwargs: Any) -> Agent:
        started.append(Agent(*args, **kwargs))
        return started[-1]

    yield open_
    for agent in started:
        agent.source.close()


def boards(readings: Sequence[Reading]) -> dict[str, int | None]:
    return {r.uuid: r.energy_mj for r in readings if isinstance(r, AcceleratorReading)}


def absences(readings: Sequence[Reading]) -> list[tuple[str, str, str]]:
    return [(r.subject, r.id, r.reason) for r in readings if isinstance(r, AbsenceReading)]


def test_boards_of_an_exporter_are_readings_with_their_source_and_evidence(
    start: Start, exporter: FakeExporter
) -> None:
    exporter.pages["/metrics"] = page("dcgm")
    agent = start([exporter.url()])
    first, _ = (r for r in agent.tick() if isinstance(r, AcceleratorReading))
    assert (first.uuid, first.energy_mj, first.power_mw) == (U0, 9_876_543_210_123, 641_518)
    assert (first.source, first.vendor, first.index) == ("dcgm-exporter", "nvidia", 0)
    # what NVML's own reading of the counter would carry: the boot, the driver and the board
    assert first.epoch == epoch_of(read_boot_id(), "570.133.20", U0)


def test_an_energy_without_evidence_of_its_own_still_names_board_and_exporter(
    start: Start, exporter: FakeExporter
) -> None:
    exporter.pages["/metrics"] = page("gaudi")
    epochs = [r.epoch for r in start([exporter.url()]).tick() if isinstance(r, AcceleratorReading)]
    assert len({0, *epochs}) == 3
    exporter.pages["/metrics"] = page("ascend")
    assert [r.epoch for r in start([exporter.url()]).tick() if isinstance(r, AcceleratorReading)] == [0, 0]


def test_a_board_that_nvml_reads_is_left_out_and_that_is_said_once(
    start: Start, exporter: FakeExporter, caplog: pytest.LogCaptureFixture
) -> None:
    exporter.pages["/metrics"] = page("dcgm")
    agent = start([exporter.url()])
    agent.own = [AcceleratorReading(uuid=U0, vendor="nvidia", energy_mj=5)]
    with caplog.at_level(logging.INFO):
        assert [set(boards(agent.tick())) for _ in range(3)] == [{U1}] * 3
        agent.own = []  # a tick without NVML is no reason to take over its counter
        assert set(boards(agent.tick())) == {U1}
    assert sum(U0 in record.getMessage() for record in caplog.records) == 1


def test_a_board_goes_to_its_exporter_once_nvml_has_been_away_for_long(start: Start, exporter: FakeExporter) -> None:
    exporter.pages["/metrics"] = page("dcgm")
    agent = start([exporter.url()], interval_s=60)
    agent.own = [AcceleratorReading(uuid=U0, vendor="nvidia", energy_mj=5)]
    agent.tick()
    agent.own = []
    assert [U0 in boards(agent.tick()) for _ in range(11)] == [False] * 9 + [True] * 2


def test_of_two_exporters_the_first_reads_a_board_even_while_it_is_silent(start: Start, exporter: FakeExporter) -> None:
    exporter.pages |= {"/a": page("dcgm"), "/b": page("nvidia_gpu")}
    agent = start([exporter.url("/a"), exporter.url("/b")])
    sources = [r.source for r in agent.tick() if isinstance(r, AcceleratorReading)]
    assert sources == ["dcgm-exporter"] * 2
    del exporter.pages["/a"]
    assert boards(agent.tick()) == {}


def test_boards_without_a_uuid_are_read_from_one_exporter_of_their_vendor(start: Start, exporter: FakeExporter) -> None:
    """A serial number at one and an index at the other: nothing tells whether these are the same boards."""
    exporter.pages |= {"/a": page("amd_device"), "/b": page("amd_smi")}
    readings = start([exporter.url("/a"), exporter.url("/b")]).tick()
    assert {r.source for r in readings if isinstance(r, AcceleratorReading)} == {"amd-device-metrics-exporter"}
    assert {r.domain for r in readings if isinstance(r, HostReading)} == {"package-0", "package-1"}
    readings = start([exporter.url("/b"), exporter.url("/a")]).tick()
    assert {r.source for r in readings if isinstance(r, AcceleratorReading)} == {"amd_smi_exporter"}


def test_a_kind_of_domain_that_the_agent_reads_itself_is_left_out(start: Start, exporter: FakeExporter) -> None:
    exporter.pages |= {"/node": page("node"), "/ceems": page("ceems")}
    agent = start([exporter.url("/node"), exporter.url("/ceems")])
    agent.own = [HostReading(domain="package-0", energy_uj=1)]
    found = {r.domain: r.source for r in agent.tick() if isinstance(r, HostReading)}
    # DRAM by the first exporter, the node by the second, and no package: one of them cut in two would be lost or twice
    assert found == {"dram-0": "node_exporter", "dram-1": "node_exporter", "chassis": "ceems_exporter"}


def test_what_can_not_be_read_is_said_when_it_begins_and_at_every_minutes_edge(
    start: Start, exporter: FakeExporter
) -> None:
    exporter.pages["/metrics"] = page("dcgm")
    agent = start([exporter.url()])
    agent.tick()
    exporter.status = 503
    said = [absences(agent.tick()) for _ in range(12)]
    ours = [("accelerator", exporter.url(), "http_503")]
    assert [bool(one) for one in said] == [i in (0, 4, 10) for i in range(12)]
    assert said[0] == said[4] == ours
    exporter.status = 200
    assert absences(agent.tick()) == []


def test_a_page_of_nothing_that_is_known_says_what_to_do(start: Start, exporter: FakeExporter) -> None:
    exporter.pages["/metrics"] = b"<html><body>login</body></html>\n"
    (absence,) = start([exporter.url()]).tick()
    assert isinstance(absence, AbsenceReading)
    assert (absence.subject, absence.id, absence.reason) == ("accelerator", exporter.url(), "not_understood")
    assert "correct the target" in absence.detail


def test_a_known_page_without_power_says_what_to_switch_on(start: Start, exporter: FakeExporter) -> None:
    exporter.pages["/metrics"] = b'ipmi_up{collector="chassis"} 1\nipmi_dcmi_power_consumption_watts 0\n'
    (absence,) = start([exporter.url()]).tick()
    assert isinstance(absence, AbsenceReading)
    assert (absence.subject, absence.reason) == ("host", "not_understood")
    assert "collector dcmi" in absence.detail


def test_an_exporter_that_could_not_ask_its_controller_is_no_exporter_that_lacks_a_collector(
    start: Start, exporter: FakeExporter
) -> None:
    exporter.pages["/metrics"] = b'ipmi_scrape_duration_seconds 0.1\nipmi_up{collector="dcmi"} 0\n'
    (absence,) = start([exporter.url()]).tick()
    assert isinstance(absence, AbsenceReading)
    assert (absence.subject, absence.reason) == ("host", "unreachable")
    assert "ipmi_up is 0" in absence.detail


def test_a_board_that_is_no_longer_shown_is_said_until_it_is_forgotten(start: Start, exporter: FakeExporter) -> None:
    exporter.pages["/metrics"] = page("dcgm")
    agent = start([exporter.url()], interval_s=60)
    agent.tick()
    exporter.pages["/metrics"] = (
        b"\n".join(line for line in page("dcgm").splitlines() if U1.encode() not in line) + b"\n"
    )
    assert absences(agent.tick()) == [("accelerator", U1, "not_shown")]
    said = [absences(agent.tick()) for _ in range(10)]
    assert said[-1] == []
    assert [board.uuid for board in agent.source.boards()] == [U0]


def test_a_board_without_power_is_a_reading_and_an_absence(start: Start, exporter: FakeExporter) -> None:
    exporter.pages["/metrics"] = page("dcgm_gb200")
    readings = start([exporter.url()]).tick()
    assert absences(readings) == [("accelerator", U1, "no_power")]
    assert U1 in boards(readings)


def test_several_meters_of_one_page_are_asked_for_once(start: Start, exporter: FakeExporter) -> None:
    exporter.pages["/snmp?target=10.0.0.5&module=apcups"] = page("snmp_apc")
    url = exporter.url("/snmp?target=10.0.0.5&module=apcups")
    meters = [
        MeterSettings(url, "rack-12", covers=("rack=r12",), select={"rPDU2DeviceStatusIndex": "1"}),
        MeterSettings(url, "rack-13", level="facility", select={"rPDU2DeviceStatusIndex": "2"}),
    ]
    first, second = start([], meters).tick()
    assert isinstance(first, MeterReading)
    assert isinstance(second, MeterReading)
    assert (first.meter, first.level, first.covers, first.power_mw) == ("rack-12", "rack", ("rack=r12",), 10_430_000)
    assert (second.meter, second.level, second.energy_mj) == ("rack-13", "facility", 7 * 360_000_000)
    assert exporter.requests == ["/snmp?target=10.0.0.5&module=apcups"]


def test_a_meter_that_is_away_is_an_absence_of_the_meter(start: Start) -> None:
    with FakeExporter({}) as gone:
        url = gone.url("/snmp")
    agent = start([], [MeterSettings(url, "rack-12")])
    assert absences(agent.tick()) == [("meter", "rack-12", "connection_refused")]


def test_a_slow_answer_is_taken_up_at_a_later_tick_and_holds_up_none(start: Start, exporter: FakeExporter) -> None:
    exporter.pages["/ipmi"] = page("ipmi")
    exporter.hold()
    agent = start([exporter.url("/ipmi")], interval_s=1)
    assert agent.tick() == []
    assert exporter.asked.wait(10)
    assert agent.tick() == []
    exporter.release()
    (reading,) = agent.tick()
    assert reading == HostReading(domain="chassis", source="ipmi_exporter", power_mw=1_372_000)
    assert len(exporter.requests) == 1


def test_a_controller_is_asked_every_ten_seconds_at_most(start: Start, exporter: FakeExporter) -> None:
    exporter.pages["/ipmi"] = page("ipmi")
    agent = start([exporter.url("/ipmi")], interval_s=2)
    found = [len(agent.tick()) for _ in range(11)]
    assert found == [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]


def test_one_whose_answers_come_a_tick_late_is_still_asked_every_ten_seconds(
    start: Start, exporter: FakeExporter
) -> None:
    exporter.pages["/ipmi"] = page("ipmi")
    exporter.hold()
    agent = start([exporter.url("/ipmi")], interval_s=5)
    assert agent.tick() == []
    exporter.release()
    assert [len(agent.tick()) for _ in range(3)] == [1, 1, 0]


def test_an_answer_that_never_comes_is_a_timeout_and_asked_for_again(start: Start, exporter: FakeExporter) -> None:
    exporter.pages["/ipmi"] = page("ipmi")
    exporter.hold()
    agent = start([exporter.url("/ipmi")], interval_s=30)
    agent.source._patience_s = 0.05  # the wait is real time, the minute is not
    assert [absences(agent.tick()) for _ in range(3)] == [[], [], []]
    assert [reason for _, _, reason in absences(agent.tick())] == ["timeout"]
    exporter.release()
    assert [r.domain for r in agent.tick() if isinstance(r, HostReading)] == ["chassis"]


def test_engines_are_placed_on_the_boards_of_an_exporter(exporter: FakeExporter) -> None:
    exporter.pages["/metrics"] = page("dcgm")
    with FakeEngine("vllm") as engine:
        clock = FakeClock()
        readers = line_up(
            Settings(
                spool=SpoolSettings(Path("unused")),
                node="gpu-017",
                engines=(EngineSettings(engine.url, accelerators=("1",)),),
                exporters=(ExporterSettings(exporter.url()),),
                sources=SourceSettings(nvml="off", host="off", ipmi="off"),
            ),
            clock,
            Throttle(clock),
        )
        readings = [r for reader in readers for r in reader.read(T0)]
        assert [r.accelerators for r in readings if isinstance(r, EngineReading)] == [(U1,)]
        for reader in readers:
            reader.close()


SERIES = b"\n".join(line for file in sorted(PAGES.glob("*.prom")) for line in file.read_bytes().splitlines())
LINES = [line for line in SERIES.splitlines() if line[:1] != b"#"]
WORDS = [
    b"NaN",
    b"-1",
    b"9223372036854775794",
    b"1e400",
    b"",
    b"{",
    b'"',
    b"\\",
    b"} 5 ",
    b"\x00",
    b"\xff",
    b"\xc3\xa9",
]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(LINES), max_size=30),
    st.lists(st.tuples(st.integers(0), st.sampled_from(WORDS)), max_size=8),
)
def test_a_broken_page_gives_readings_that_the_wire_takes_or_a_parse_error(
    lines: list[bytes], cuts: list[tuple[int, bytes]]
) -> None:
    body = b"\n".join(lines) + b"\n"
    for at, word in cuts:
        at %= len(body)
        body = body[:at] + word + body[at + len(word) :]
    reader = ExporterPage(named("auto"), "n1", Path("/nowhere"))
    for _ in range(2):
        try:
            reader.scan(body)
        except ParseError:
            continue
        for _, board in reader.boards():
            reading = AcceleratorReading(uuid=board.name.uuid, model=board.name.model, **board.values)  # type: ignore[arg-type]
            assert decode_reading(encode_reading(reading)) == reading
        for _, domain in reader.domains("", 0, is_local=False):
            assert decode_reading(encode_reading(domain)) == domain


def test_every_kind_can_be_named_and_no_two_of_them_are_known_by_the_same_page() -> None:
    for kind in EXPORTER_KINDS:
        assert kind in named(kind.name)
    for file in PAGES.glob("*.prom"):
        reader = ExporterPage(named("auto"), "n1", Path("/nowhere"))
        reader.scan(file.read_bytes())
        assert len(reader.kinds) == (0 if file.name.startswith("snmp") else 1), file.name
