"""What `wattmill doctor` looks at on a host, one function a subject; each yields checks that say what to do."""

from __future__ import annotations

import ctypes
import dataclasses
import email.utils
import http.client
import json
import os
import platform
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from wattmill_collector import __version__
from wattmill_collector.clock import Clock, boot_id
from wattmill_collector.reader import Reader
from wattmill_collector.settings import MINUTE_US, Settings
from wattmill_collector.transport import KeySource, Transport
from wattmill_collector.wire import (
    AbsenceReading,
    AcceleratorReading,
    EngineReading,
    HostReading,
    MeterReading,
    Reading,
)

Status = Literal["OK", "WARN", "FAIL"]
LEAST_FREE_BYTES = 256 << 20
WORRYING_SKEW_S = 2
REFUSED_SKEW_S = 300  # readings from further in the future are refused by the service
UNSYNCHRONISED = 5  # TIME_ERROR of adjtimex(2)


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; `fix` says what to do unless all is well."""

    subject: str
    status: Status
    text: str
    fix: str = ""


def check_settings(settings: Settings) -> Iterable[Check]:
    """Unknown names are refused here, though the agent runs with them."""
    where = str(settings.config) if settings.config else "no configuration file; variables and defaults"
    yield Check("settings", "OK", f"{where}; node {settings.node}, site {settings.site}")
    for warning in settings.warnings:
        yield Check("settings", "FAIL", warning, "Correct the spelling or take it away.")
    for bmc in settings.bmc:
        if bmc.url.startswith("https:") and not bmc.verify:
            fix = "Name who issued it by `ca_file` of the bmc, and take `verify: false` away."
            yield Check("settings", "WARN", f"The certificate of the BMC {bmc.url} is not checked.", fix)


def check_host() -> Iterable[Check]:
    """The system below."""
    system = f"Wattmill {__version__}, {platform.system()} {platform.release()}, Python {platform.python_version()}"
    if platform.system() != "Linux":
        yield Check("host", "FAIL", system, "The agent reads Linux interfaces; run it on a Linux host.")
    elif not boot_id():
        fix = "Mount /proc of the host; without a boot id a restart of the host can't be told from a counter's wrap."
        yield Check("host", "WARN", f"{system}; no boot id in /proc/sys/kernel/random", fix)
    else:
        yield Check("host", "OK", system)


def check_sources(readers: Sequence[Reader], clock: Clock, *, discover: bool) -> Iterable[Check]:
    """Every source is opened and read as at a tick, and what it says is judged."""
    time_us = clock.wall_us()
    found: list[Reading] = []
    for reader in readers:
        readings = reader.read(time_us)
        if (
            discover and reader.name == "engine"
        ):  # found by one read, read by the next; at an edge all absences are said
            readings = reader.read(time_us - time_us % MINUTE_US)
        yield from judge_source(reader, readings)
        if reader.subject == "host" and reader.stats.state == "reading" and not readings:
            yield judge_silence(reader.name, found)
        found += readings
    for reader in readers:
        reader.close()
    if not any(
        isinstance(reading, AcceleratorReading | EngineReading | HostReading | MeterReading) for reading in found
    ):
        fix = "Run it on a host with accelerators, or name an engine; `wattmill up` shows a simulated fleet."
        yield Check("sources", "FAIL", "An agent with these settings would read nothing here.", fix)


def judge_silence(name: str, found: Sequence[Reading]) -> Check:
    """What it means that a source of the host is read and says nothing: somebody else said it, or it is slow."""
    others = [reading.source for reading in found if isinstance(reading, HostReading) and reading.domain == "chassis"]
    if others:
        return Check(name, "OK", f"Not needed: {others[0]} says what the whole node draws.")
    return Check(name, "WARN", "It did not answer yet.", "Run this again; a BMC may take long at first.")


def judge_source(reader: Reader, readings: Sequence[Reading]) -> Iterable[Check]:
    """What one source came to."""
    state, detail = reader.stats.state, reader.stats.detail
    if state == "not_here":
        status: Status = "FAIL" if reader.wanted else "OK"
        fix = f"Install its driver, or set sources.{reader.name} to auto or off." if reader.wanted else ""
        yield Check(reader.name, status, detail, fix)
        return
    if state != "reading":
        yield Check(reader.name, "FAIL", detail or "It could not be read.", "Repair what the sentence names.")
        return
    for reading in readings:
        yield from judge_reading(reading)
    if reader.name == "engine" and not readings:
        fix = "Name it under `engines:`, as `- target: http://127.0.0.1:8000/metrics`."
        yield Check("engine", "WARN", "No engine is configured and none was found, so no tokens are counted.", fix)


def judge_reading(reading: Reading) -> Iterable[Check]:
    """One board, domain or engine, or its absence."""
    match reading:
        case AcceleratorReading():
            yield _board(reading)
        case HostReading():
            kind = "energy counter" if reading.energy_uj is not None else "power only"
            source = f" by {reading.source}" if reading.source else ""
            yield Check("host", "OK", f"{reading.domain}: {kind}{source}")
        case MeterReading():
            shown = [
                f"{reading.power_mw / 1000:.0f} W" if reading.power_mw is not None else "no power",
                f"energy at {reading.energy_mj / 3.6e9:.1f} kWh"
                if reading.energy_mj is not None
                else "no energy counter",
            ]
            yield Check("meter", "OK", f"{reading.meter} ({reading.level}): {', '.join(shown)}")
        case EngineReading():
            yield from _engine(reading)
        case AbsenceReading():
            status: Status = "WARN" if reading.subject == "host" or reading.reason == "no_endpoint" else "FAIL"
            what = f"{reading.id or reading.subject}: {reading.reason}"
            yield Check(reading.subject, status, what, reading.detail or "Look at its log and at the agent's.")


def _engine(reading: EngineReading) -> Iterable[Check]:
    """What it serves, and where; a front end is nowhere, a worker serves nothing."""
    who = f"{reading.target} {reading.series}".rstrip()
    tokens = "no output tokens" if reading.output_tokens is None else f"{reading.output_tokens} output tokens"
    what = f"{reading.engine_kind} serving {reading.model or '?'}, {tokens}"
    if reading.role == "worker":
        what = f"works for {reading.workload}"
    elif reading.role:
        what = f"{what} ({reading.role})"
    yield Check("engine", "OK", f"{who}: {what}")
    if reading.method:
        parts = reading.accelerator_shares_ppm or (1_000_000,) * len(reading.accelerators)
        boards = ", ".join(
            board if part == 1_000_000 else f"{part / 10_000:.1f} % of {board}"
            for board, part in zip(reading.accelerators, parts, strict=True)
        )
        how = f"found by: {reading.method}{f', divided by: {reading.share_by}' if reading.share_by else ''}"
        yield Check("placement", "OK", f"{who} holds {boards} ({how}; confidence: {reading.confidence or '?'})")
    elif reading.role != "frontend":
        fix = "Set its `accelerators:`; until then its energy counts as unattributed."
        yield Check("placement", "WARN", f"{who}: it is not known which accelerators it holds.", fix)


def _board(reading: AcceleratorReading) -> Check:
    values = {
        "power": reading.power_mw,
        "utilisation": reading.utilisation_ratio,
        "memory": reading.memory_used_bytes,
        "clocks": reading.sm_clock_mhz,
        "temperature": reading.temperature_celsius,
        "event reasons": reading.clock_event_reasons,
        "processes": reading.process_count,
    }
    missing = ", ".join(name for name, value in values.items() if value is None)
    about = f"{reading.uuid} {reading.model}{f' (cannot say: {missing})' if missing else ''}"
    if reading.energy_mj is None:
        fix = "Boards since Volta have one; without it energy is estimated from power."
        return Check("accelerator", "WARN", f"{about}: no energy counter", fix)
    return Check("accelerator", "OK", f"{about}: energy counter at {reading.energy_mj / 1e6:.1f} kJ")


def check_spool(path: Path, max_bytes: int) -> Iterable[Check]:
    """Whether batches can be written and synced, and whether the disk has room for the cap."""
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    fix = f"Create {path} for the agent's user: install -d -o wattmill {path}; or set spool.path."
    if not os.access(existing, os.W_OK | os.X_OK):
        yield Check("spool", "FAIL", f"{existing} is not writable for user id {os.getuid()}.", fix)
        return
    if path.exists():
        try:
            probe_disk(path / f".doctor-{os.getpid()}")
        except OSError as error:
            yield Check("spool", "FAIL", f"{path} can't be written: {error.strerror}.", fix)
            return
    free = shutil.disk_usage(existing).free
    room = f"{path}: {free >> 20} MiB free, at most {max_bytes >> 20} MiB used"
    if free < LEAST_FREE_BYTES:
        yield Check("spool", "FAIL", room, "Free some space, or set spool.path to another disk.")
    elif free < max_bytes:
        yield Check("spool", "WARN", room, "Free some space, or lower spool.max_bytes to what there is.")
    elif filesystem(existing) in ("tmpfs", "ramfs"):
        yield Check(
            "spool", "WARN", f"{room}; it is in memory", "Set spool.path to a disk: this one is lost at a reboot."
        )
    else:
        yield Check("spool", "OK", room)


def probe_disk(file: Path) -> None:
    """Write, sync and remove one file. Errors: OSError."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, b"wattmill doctor\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
        file.unlink()


def filesystem(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """The type of the file system that holds `path`, or "" where that can't be known."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    target, best, found = str(path.resolve()), -1, ""
    for line in lines:
        fields = line.split(" ")
        point = fields[1].rstrip("/")
        if len(point) > best and (target == point or target.startswith(point + "/")):
            best, found = len(point), fields[2]
    return found


def kernel_clock_state() -> int | None:
    """What adjtimex(2) returns without changing anything: 0 to 4 synchronised, 5 not; None where it can't be asked."""
    try:
        timex = ctypes.create_string_buffer(256)  # struct timex has 208 bytes; all zero means: only read
        state = int(ctypes.CDLL(None, use_errno=True).adjtimex(timex))
    except (OSError, AttributeError):
        return None
    return state if state >= 0 else None


def check_clock(state: Callable[[], int | None] = kernel_clock_state) -> Iterable[Check]:
    """Whether something keeps the wall clock right."""
    match state():
        case None:
            yield Check(
                "clock", "WARN", "The kernel does not say whether the clock is synchronised.", "Run an NTP client."
            )
        case 5:
            fix = "Run chrony, systemd-timesyncd or another NTP client; energy and tokens of hosts are joined by time."
            yield Check("clock", "WARN", "The clock is not synchronised.", fix)
        case _:
            yield Check("clock", "OK", "The clock is synchronised.")


def check_service(
    settings: Settings, transport: Transport | None, now_s: Callable[[], float] = time.time
) -> Iterable[Check]:
    """Whether the service answers, takes our key and has the same time."""
    if transport is None:
        fix = "Set `server:` to the service's address; until then readings stay in the spool, within its limits."
        yield Check("service", "WARN", "No server is set.", fix)
        return
    source = KeySource(settings.key_file, settings.key)
    key = source.current()
    if source.error:
        yield Check(
            "service", "FAIL", source.error, "Make the key file readable for the agent's user, and nobody else."
        )
    headers = {"Content-Type": "application/x-ndjson"} | ({"Authorization": f"Bearer {key}"} if key else {})
    try:
        answer = transport.post(b"{}\n", headers)
    except (OSError, http.client.HTTPException) as error:
        reason = str(error) or type(error).__name__
        yield Check(
            "service", "FAIL", f"{settings.server} does not answer: {reason}", "Check address, network and TLS."
        )
        return
    yield judge_answer(settings.server, answer.status, answer.headers, key)
    yield from judge_skew(answer.headers.get("date", ""), now_s())


def judge_answer(server: str, status: int, headers: Mapping[str, str], key: str) -> Check:
    """What the answer to an empty batch means."""
    ours = "json" in headers.get("content-type", "")
    if status in (401, 403):
        said = "refuses the key" if key else "asks for a key"
        fix = "Create one with `wattmill key create --scope ingest` and set key_file."
        return Check("service", "FAIL", f"{server} {said} (HTTP {status}).", fix)
    if status in (200, 400, 409, 422) and ours:
        return Check("service", "OK", f"{server} answers and takes {'the key' if key else 'readings without a key'}.")
    if status == 503 and ours:
        return Check(
            "service", "FAIL", f"{server} is there but without its database.", "Look at the service's /readyz."
        )
    return Check(
        "service", "FAIL", f"{server} answers like something else (HTTP {status}).", "Check the address and path."
    )


def judge_skew(date: str, now_s: float) -> Iterable[Check]:
    """Our clock against the service's `Date` header, which has whole seconds."""
    try:
        theirs_s = email.utils.parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError):
        return
    skew_s = now_s - theirs_s
    text = f"This host's clock is {abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} the service's."
    if abs(skew_s) > REFUSED_SKEW_S:
        yield Check("clock", "FAIL", text, "Set the clock; the service refuses readings from the future.")
    elif abs(skew_s) > WORRYING_SKEW_S:
        yield Check("clock", "WARN", text, "Run an NTP client on both sides.")


def check_own_pages(listen: str) -> Iterable[Check]:
    """Whether the agent's own pages can be served, or what the agent that serves them says of itself."""
    if not listen:
        yield Check("agent", "OK", "Own /metrics and /healthz are switched off.")
        return
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, int(port)), family=family).close()
    except OSError as error:
        verdict = ask_agent(host, int(port))
        if verdict is None:
            fix = "Set listen: to a free port, or '' to switch it off."
            yield Check("agent", "WARN", f"{listen} can't be listened on: {error.strerror}.", fix)
        elif verdict.get("status") == "ok":
            yield Check("agent", "OK", f"An agent is running on {listen} and all is well.")
        else:
            reasons = verdict.get("reasons")
            text = " ".join(map(str, reasons)) if isinstance(reasons, list) else ""
            yield Check("agent", "FAIL", f"The running agent is {verdict.get('status')}: {text}", "See its log.")
    else:
        yield Check("agent", "OK", f"{listen} is free for /metrics and /healthz.")


def ask_agent(host: str, port: int) -> dict[str, object] | None:
    """What /healthz of a running agent says; None when it is no agent."""
    connection = http.client.HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", "/healthz")
        said = json.loads(connection.getresponse().read(65_536))
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return said if isinstance(said, dict) and "status" in said else None
