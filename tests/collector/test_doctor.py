"""The doctor: every trouble is named with what to do, and only a healthy host gets 0."""

from __future__ import annotations

import itertools
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from support.fake_clock import FakeClock
from support.fake_engine import FakeEngine
from wattmill_collector import checks as host_checks
from wattmill_collector import doctor
from wattmill_collector.checks import (
    Check,
    check_clock,
    check_settings,
    check_sources,
    check_spool,
    filesystem,
    judge_reading,
)
from wattmill_collector.checks_service import check_own_pages, check_service, judge_answer, judge_skew
from wattmill_collector.doctor import as_json, as_text, examine_service
from wattmill_collector.errors import Broken, NotHere
from wattmill_collector.listener import Listener
from wattmill_collector.log import Throttle
from wattmill_collector.reader import Reader
from wattmill_collector.settings import EngineSettings, Settings, SpoolSettings
from wattmill_collector.sources.engine import EngineSource
from wattmill_collector.targets import BmcSettings
from wattmill_collector.transport import Answer
from wattmill_collector.wire import (
    AbsenceReading,
    AcceleratorReading,
    EngineReading,
    GatewayReading,
    HostReading,
    Reading,
)

BOARD = AcceleratorReading(
    uuid="GPU-1",
    model="H100",
    energy_mj=5_000_000,
    power_mw=1,
    utilisation_ratio=0.0,
    memory_used_bytes=1,
    sm_clock_mhz=1,
    temperature_celsius=30,
    clock_event_reasons=0,
    process_count=0,
)


def settings(tmp_path: Path, **changes: Any) -> Settings:
    return Settings(spool=SpoolSettings(tmp_path / "spool"), node="gpu-017", **changes)


def one(check: Any) -> Check:
    [found] = list(check)
    assert isinstance(found, Check)
    return found


class Fixed:
    name = "nvml"

    def __init__(self, *readings: Reading) -> None:
        self.readings = readings

    def read(self, time_us: int) -> list[Reading]:
        return list(self.readings)

    def close(self) -> None:
        return


def reader_of(source: Fixed | Exception, *, wanted: bool = False) -> Reader:
    def open_source() -> Fixed:
        if isinstance(source, Exception):
            raise source
        return source

    clock = FakeClock()
    return Reader("nvml", "accelerator", open_source, clock, Throttle(clock), wanted=wanted)


def host_reader(name: str, *readings: Reading) -> Reader:
    clock = FakeClock()
    return Reader(name, "host", lambda: Fixed(*readings), clock, Throttle(clock))


class Scripted:
    """A service that answers what the test says."""

    def __init__(self, answer: Answer | OSError) -> None:
        self.answer = answer
        self.headers: Mapping[str, str] = {}

    def post(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        self.headers = headers
        if isinstance(self.answer, OSError):
            raise self.answer
        return self.answer


def test_unknown_settings_fail_here(tmp_path: Path) -> None:
    checks = list(check_settings(settings(tmp_path, warnings=("The variable WATTMILL_X is unknown; it is ignored.",))))
    assert [check.status for check in checks] == ["OK", "FAIL"]


def test_a_board_with_its_counter_is_fine() -> None:
    found = one(judge_reading(BOARD))
    assert (found.status, found.text) == ("OK", "GPU-1 H100: energy counter at 5.0 kJ")


def test_what_a_board_can_not_say_is_named() -> None:
    found = one(judge_reading(AcceleratorReading(uuid="GPU-1", model="T4", power_mw=1)))
    assert found.status == "WARN"
    assert "cannot say: utilisation" in found.text
    assert found.fix


@pytest.mark.parametrize(("subject", "status"), [("accelerator", "FAIL"), ("engine", "FAIL"), ("host", "WARN")])
def test_an_absence_is_repeated_with_its_advice(subject: str, status: str) -> None:
    found = one(judge_reading(AbsenceReading(subject=subject, id="x", reason="lost", detail="Reset it.")))
    assert (found.status, found.text, found.fix) == (status, "x: lost", "Reset it.")


def test_an_engine_is_fine_but_must_be_placed() -> None:
    engine = EngineReading(target="http://a:1/metrics", engine_kind="vllm", model="qwen", output_tokens=7)
    checks = list(judge_reading(engine))
    assert [(check.subject, check.status) for check in checks] == [("engine", "OK"), ("placement", "WARN")]
    placed = EngineReading(target="http://a:1/metrics", accelerators=("GPU-1",), method="configured")
    assert [check.status for check in judge_reading(placed)] == ["OK", "OK"]


def test_a_host_with_something_to_read_passes() -> None:
    checks = list(
        check_sources(
            [reader_of(Fixed(BOARD, HostReading(domain="package-0", energy_uj=1)))], FakeClock(), discover=False
        )
    )
    assert {check.status for check in checks} == {"OK"}


def test_a_host_with_nothing_to_read_fails() -> None:
    checks = list(check_sources([reader_of(NotHere("No driver."))], FakeClock(), discover=True))
    assert [(check.subject, check.status) for check in checks] == [("nvml", "OK"), ("sources", "FAIL")]


def test_a_bmc_that_gives_what_another_source_gave_is_said_to_be_spare() -> None:
    redfish = HostReading(domain="chassis", source="redfish", power_mw=1000)
    checks = list(check_sources([host_reader("redfish", redfish), host_reader("ipmi")], FakeClock(), discover=False))
    assert [(check.subject, check.status, check.text) for check in checks] == [
        ("host", "OK", "chassis: power only by redfish"),
        ("ipmi", "OK", "Not needed: redfish says what the whole node draws."),
    ]


def test_a_bmc_that_has_not_answered_yet_is_a_warning() -> None:
    first, _ = check_sources([host_reader("ipmi")], FakeClock(), discover=False)
    assert (first.subject, first.status) == ("ipmi", "WARN")


def test_an_unchecked_certificate_of_a_bmc_is_a_warning(tmp_path: Path) -> None:
    bmc = BmcSettings("https://10.0.0.7", "monitor", tmp_path / "password", verify=False)
    checks = list(check_settings(settings(tmp_path, bmc=(bmc,))))
    assert [check.status for check in checks] == ["OK", "WARN"]
    assert "ca_file" in checks[1].fix


def source_reader(name: str, source: Any) -> Reader:
    clock = FakeClock()
    return Reader(name, name, lambda: source, clock, Throttle(clock))


def shown(*readers: Reader) -> list[tuple[str, str, str]]:
    checks = check_sources(readers, FakeClock(), discover=False)
    return [(check.subject, check.status, check.text) for check in checks]


def test_a_gateway_without_a_request_yet_is_a_warning() -> None:
    fresh = AbsenceReading(subject="gateway", id="http://g:1/metrics", reason="no_series", detail="shows none")
    [check] = list(check_sources([source_reader("gateway", Fixed(fresh))], FakeClock(), discover=False))
    assert (check.subject, check.status) == ("gateway", "WARN")
    assert "first request" in check.fix
    of_an_engine = AbsenceReading(subject="engine", id="http://a:1/metrics", reason="no_series", detail="shows none")
    assert one(judge_reading(of_an_engine)).status == "FAIL"


def test_a_gateway_that_shows_tokens_is_one_line_and_something_to_read() -> None:
    drawn = [GatewayReading(target="http://g:1/metrics", gateway_kind="litellm", team=team) for team in "ab"]
    cached = AbsenceReading(subject="gateway", id="http://g:1/metrics", reason="not_computed", detail="Out of a cache.")
    assert shown(source_reader("gateway", Fixed(*drawn, cached))) == [
        ("gateway", "WARN", "http://g:1/metrics: not_computed"),
        ("gateway", "OK", "http://g:1/metrics: litellm with 2 consumers"),
    ]
    refused = AbsenceReading(
        subject="gateway", id="http://g:1/metrics", reason="connection_refused", detail="Start it."
    )
    assert {status for _, status, _ in shown(source_reader("gateway", Fixed(refused)))} == {"FAIL"}


def engines_reader(*urls: str) -> Reader:
    return source_reader("engine", EngineSource([EngineSettings(url) for url in urls], clock=FakeClock()))


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_a_router_before_several_engines_is_told_and_not_to_be_placed(workers: int) -> None:
    """Each answer is another worker's; with seven of them none has come back by the time the doctor is done."""
    pages = []
    for nth in range(workers):
        with FakeEngine("vllm", process_start=1_764_020_000.25 + nth) as worker:
            worker.add(output=10 + nth)
            pages.append(worker.page())
    turns = itertools.cycle(pages)

    def next_worker() -> None:
        router.body = next(turns)

    with FakeEngine("vllm") as router:
        router.read_state = next_worker
        found = shown(engines_reader(router.url))
    if workers == 1:  # it can't be told from an engine
        assert [(subject, status) for subject, status, _ in found] == [("engine", "OK"), ("placement", "WARN")]
    else:
        assert found[0] == ("engine", "FAIL", f"{router.url}: several_processes")
        assert not [subject for subject, _, _ in found if subject == "placement"]


def test_a_router_before_an_engine_that_is_named_too_is_told_and_not_to_be_placed() -> None:
    with FakeEngine("vllm") as engine, FakeEngine("vllm") as router:
        engine.add(output=10)
        router.body = engine.page()
        found = shown(engines_reader(engine.url, router.url))
    assert [(subject, status) for subject, status, _ in found] == [
        ("engine", "OK"),
        ("placement", "WARN"),
        ("engine", "FAIL"),
    ]
    assert found[2][2] == f"{router.url}: same_page"
    assert not [text for _, _, text in found[:2] if router.url in text]


def test_of_a_front_nothing_is_said_but_that_it_is_one() -> None:
    url = "http://a:1/metrics"
    nowhere = AbsenceReading(subject="engine", id=url, reason="placement_unknown", detail="Set its accelerators.")
    front = AbsenceReading(subject="engine", id=url, reason="same_page", detail="Configure one of the two.")
    engine = EngineReading(target=url, engine_kind="vllm")
    found = shown(source_reader("engine", Fixed(engine, nowhere, front)))
    assert found[0] == ("engine", "FAIL", f"{url}: same_page")
    assert [subject for subject, _, _ in found] == ["engine"]


def test_engines_that_take_long_are_read_once() -> None:
    class Slow(Fixed):
        reads = 0

        def read(self, time_us: int) -> list[Reading]:
            self.reads += 1
            clock.advance(2_000_000)
            return list(self.readings)

    clock = FakeClock()
    slow = Slow(AbsenceReading(subject="engine", id="http://a:1/metrics", reason="timeout", detail="Look at it."))
    reader = Reader("engine", "engine", lambda: slow, clock, Throttle(clock))
    checks = list(check_sources([reader], clock, discover=False))
    assert (slow.reads, checks[0].text) == (1, "http://a:1/metrics: timeout")


def test_a_source_asked_for_by_name_fails_when_it_is_not_here() -> None:
    checks = list(check_sources([reader_of(NotHere("No driver."), wanted=True)], FakeClock(), discover=False))
    assert (checks[0].status, checks[0].text) == ("FAIL", "No driver.")
    assert "sources.nvml" in checks[0].fix


def test_a_broken_source_fails() -> None:
    checks = list(check_sources([reader_of(Broken("Permission denied."))], FakeClock(), discover=False))
    assert (checks[0].status, checks[0].text) == ("FAIL", "Permission denied.")


def test_a_writable_spool_is_probed_and_left_as_it_was(tmp_path: Path) -> None:
    assert one(check_spool(tmp_path, 16 << 20)).status in ("OK", "WARN")  # WARN where the tests run in memory
    assert os.listdir(tmp_path) == []


def test_a_spool_that_can_not_be_written_fails(tmp_path: Path) -> None:
    assert one(check_spool(Path("/proc/wattmill"), 16 << 20)).status == "FAIL"
    (tmp_path / "file").write_text("")
    assert one(check_spool(tmp_path / "file", 16 << 20)).status == "FAIL"


def test_a_disk_smaller_than_the_cap_is_a_warning(tmp_path: Path) -> None:
    assert one(check_spool(tmp_path, 1 << 60)).status == "WARN"


def test_the_file_system_of_a_path(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("/dev/a / ext4 rw 0 0\ntmpfs /run tmpfs rw 0 0\n/dev/b /runner xfs rw 0 0\n")
    assert filesystem(Path("/run/wattmill"), mounts) == "tmpfs"
    assert filesystem(Path("/runner"), mounts) == "xfs"
    assert filesystem(Path("/var/lib"), mounts) == "ext4"
    assert filesystem(Path("/"), tmp_path / "absent") == ""


@pytest.mark.parametrize(("state", "status"), [(0, "OK"), (2, "OK"), (5, "WARN"), (None, "WARN")])
def test_the_kernel_knows_whether_its_clock_is_kept_right(state: int | None, status: str) -> None:
    assert one(check_clock(lambda: state)).status == status


def test_the_kernel_can_be_asked_without_any_right() -> None:
    assert host_checks.kernel_clock_state() in (None, 0, 1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("status", "kind", "key", "verdict", "said"),
    [
        (422, "application/problem+json", "k", "OK", "takes the key"),
        (422, "application/problem+json", "", "OK", "without a key"),
        (401, "application/problem+json", "", "FAIL", "asks for a key"),
        (403, "application/problem+json", "k", "FAIL", "refuses the key"),
        (503, "application/problem+json", "k", "FAIL", "database"),
        (200, "text/html", "k", "FAIL", "something else"),
        (404, "text/html", "k", "FAIL", "something else"),
        (301, "text/html", "k", "FAIL", "something else"),
    ],
)
def test_what_the_answer_to_an_empty_batch_means(status: int, kind: str, key: str, verdict: str, said: str) -> None:
    found = judge_answer("http://a", status, {"content-type": kind}, key)
    assert (found.status, said in found.text) == (verdict, True)


def test_the_service_is_asked_with_the_key_and_its_clock_compared(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("wm_ingest_a\n")
    headers = {"content-type": "application/problem+json", "date": "Tue, 25 Nov 2025 00:00:00 GMT"}
    service = Scripted(Answer(422, headers, b"{}"))
    configured = settings(tmp_path, server="http://a", key_file=tmp_path / "key")
    checks = list(check_service(configured, service, lambda: 1_764_028_800.0 + 400))
    assert [check.status for check in checks] == ["OK", "FAIL"]
    assert "400 s ahead" in checks[1].text
    assert service.headers["Authorization"] == "Bearer wm_ingest_a"
    assert "wm_ingest_a" not in as_text(checks)


def test_a_service_that_is_away_or_unset(tmp_path: Path) -> None:
    away = Scripted(ConnectionRefusedError(111, "Connection refused"))
    assert one(check_service(settings(tmp_path, server="http://a"), away)).status == "FAIL"
    assert one(check_service(settings(tmp_path), None)).status == "WARN"


def test_an_unreadable_key_file_fails(tmp_path: Path) -> None:
    away = Scripted(ConnectionRefusedError(111, "Connection refused"))
    checks = list(check_service(settings(tmp_path, server="http://a", key_file=tmp_path / "absent"), away))
    assert "key file" in checks[0].text


@pytest.mark.parametrize(("skew_s", "status"), [(0, None), (1.5, None), (-10, "WARN"), (10, "WARN"), (-400, "FAIL")])
def test_skew(skew_s: float, status: str | None) -> None:
    checks = list(judge_skew("Tue, 25 Nov 2025 00:00:00 GMT", 1_764_028_800 + skew_s))
    assert [check.status for check in checks] == ([status] if status else [])
    assert list(judge_skew("", 0)) == []


def test_the_port_of_the_own_pages() -> None:
    assert one(check_own_pages("")).status == "OK"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        taken.settimeout(0)
        port = taken.getsockname()[1]
    assert one(check_own_pages(f"127.0.0.1:{port}")).status == "OK"


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ('{"status": "ok", "reasons": []}', "OK", "all is well"),
        ('{"status": "degraded", "reasons": ["Shipping is parked."]}', "FAIL", "Shipping is parked."),
        ("<html>", "WARN", "can't be listened on"),
    ],
)
def test_a_running_agent_is_asked_how_it_is(body: str, status: str, said: str) -> None:
    listener = Listener("127.0.0.1:0", lambda path: (200, "application/json", body))
    listener.start()
    found = one(check_own_pages(f"127.0.0.1:{listener.port}"))
    listener.close()
    assert (found.status, said in found.text) == (status, True)


def test_text_and_json_say_the_same() -> None:
    checks = [Check("clock", "OK", "Fine."), Check("spool", "FAIL", "Full.", "Free some space.")]
    assert as_text(checks).splitlines()[1:] == [
        "FAIL spool        Full.",
        "                  -> Free some space.",
        "1 failures, 0 warnings.",
    ]
    said = json.loads(as_json(checks))
    assert (said["ok"], len(said["checks"])) == (False, 2)
    assert as_text(checks[:1]).endswith("All is well.\n")


def test_wrong_settings_are_the_only_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATTMILL_INTERVAL", "7s")
    assert doctor.main(["--json"]) == 1
    [check] = json.loads(capsys.readouterr().out)["checks"]
    assert "WATTMILL_INTERVAL" in check["text"]


def test_the_whole_examination_runs_on_this_host(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text(f"sources: {{nvml: off, host: off}}\ndiscover: false\nlisten: ''\nspool: {tmp_path}\n")
    for name in [name for name in os.environ if name.startswith("WATTMILL_")]:
        monkeypatch.delenv(name)
    assert doctor.main(["--config", str(config)]) == 1
    shown = capsys.readouterr().out
    assert "FAIL sources" in shown
    assert "OK   settings" in shown


def test_every_trouble_says_what_to_do(tmp_path: Path) -> None:
    """Whatever goes wrong, there is a sentence that says how to put it right."""
    away = Scripted(ConnectionRefusedError(111, "Connection refused"))
    strange = settings(tmp_path, warnings=("The variable WATTMILL_X is unknown.",), server="http://a")
    checks = [
        *check_settings(strange),
        *check_sources([reader_of(NotHere("No driver."), wanted=True)], FakeClock(), discover=True),
        *check_sources([reader_of(Broken("Permission denied."))], FakeClock(), discover=True),
        *(check for subject in ("accelerator", "engine", "host") for check in judge_reading(
            AbsenceReading(subject=subject, id="x", reason="lost", detail="")
        )),
        *judge_reading(AcceleratorReading(uuid="GPU-1", model="T4", power_mw=1)),
        *judge_reading(EngineReading(target="http://a:1/metrics")),
        *check_spool(Path("/proc/wattmill"), 1),
        *check_spool(tmp_path, 1 << 60),
        *check_clock(lambda: 5),
        *check_clock(lambda: None),
        *check_service(strange, away),
        *check_service(settings(tmp_path), None),
        *(judge_answer("http://a", status, {"content-type": kind}, "k") for status, kind in (
            (401, ""), (503, "application/json"), (404, "text/html"),
        )),
        *judge_skew("Tue, 25 Nov 2025 00:00:00 GMT", 0),
        *judge_skew("Tue, 25 Nov 2025 00:00:00 GMT", 1_764_028_810),
    ]  # fmt: skip
    troubles = [check for check in checks if check.status != "OK"]
    assert len(troubles) > 15
    assert [check for check in troubles if not check.fix.endswith((".", "."))] == []


def test_names_do_not_reach_the_terminal_as_commands() -> None:
    hostile = Check("engine", "FAIL", "\x1b]0;owned\x07\u202e\x9b31m\nOK   all", "Look\x1b[2J.")
    lines = as_text([hostile]).splitlines()
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    assert as_json([hostile]).isascii()
    assert "\x1b" not in as_json([hostile])


def test_a_database_without_the_service_installed() -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name="psycopg")

    [found] = examine_service("postgresql://db/wattmill", absent)
    assert (found.status, "psycopg" in found.text, "wattmill[service]" in found.fix) == ("FAIL", True, True)


def test_the_service_alone_is_examined_where_no_agent_is_configured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("WATTMILL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("wattmill_collector.settings.DEFAULT_CONFIG", Path("/nowhere/agent.yaml"))
    monkeypatch.setenv("WATTMILL_DATABASE_URL", "postgresql://u:secret@127.0.0.1:1/wattmill")
    assert doctor.main(["--json"]) == 1
    out = capsys.readouterr().out
    [check] = json.loads(out)["checks"]
    assert (check["subject"], check["status"]) == ("database", "FAIL")
    assert "does not answer" in check["text"]
    assert "secret" not in out


def test_what_other_verbs_read_is_known_to_the_agent() -> None:
    """The service's list is the longer one; both must know every name."""
    from wattmill_api.settings import OTHER_OPTIONS
    from wattmill_api.settings import Settings as ServiceSettings
    from wattmill_collector.settings import OTHER_VARIABLES, PREFIX, VARIABLES

    theirs = {PREFIX + name.upper() for name in (*ServiceSettings.model_fields, *OTHER_OPTIONS)}
    assert theirs - OTHER_VARIABLES - set(VARIABLES) == set()
