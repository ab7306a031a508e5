"""What `wattmill doctor` looks at on a host, one function a subject; each yields checks that say what to do."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import platform
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Literal

from wattmill_collector import __version__
from wattmill_collector.clock import Clock, boot_id
from wattmill_collector.reader import Reader
from wattmill_collector.settings import MINUTE_US, Settings
from wattmill_collector.sources.engine_fronts import TURNS
from wattmill_collector.wire import (
    AbsenceReading,
    AcceleratorReading,
    EngineReading,
    GatewayReading,
    HostReading,
    MeterReading,
    Reading,
)

Status = Literal["OK", "WARN", "FAIL"]
LEAST_FREE_BYTES = 256 << 20
ENGINE_READS = 6  # two engines that a balancer takes by chance are the same one at all of them once in 32 times
QUICK_US = 1_000_000
FRONTS = ("several_processes", "same_page")  # a router or a balancer before engines, which is nowhere itself
# What a healthy host says, too: it works, or will, but for what the sentence names.
BEARABLE = ("no_endpoint", "not_computed")
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
        if reader.name == "engine":
            readings = _read_again(reader, readings, time_us, discover=discover)
        yield from judge_source(reader, readings)
        if reader.subject == "host" and reader.stats.state == "reading" and not readings:
            yield judge_silence(reader.name, found)
        found += readings
    for reader in readers:
        reader.close()
    if not any(not isinstance(reading, AbsenceReading) or _is_fresh_gateway(reading) for reading in found):
        fix = "Run it on a host with accelerators, or name an engine; `wattmill up` shows a simulated fleet."
        yield Check("sources", "FAIL", "An agent with these settings would read nothing here.", fix)


def _read_again(reader: Reader, readings: list[Reading], time_us: int, *, discover: bool) -> list[Reading]:
    """Engines once more: those found by one read are read by the next, and a balancer shows several in turn.

    Of a page that is another process's within moments it is said what the agent will find as soon as one comes back.
    """
    edge_us = time_us - time_us % MINUTE_US  # at an edge all absences are said
    epochs: dict[tuple[str, str], set[int]] = {}
    for nth in range(ENGINE_READS):
        if nth > discover and reader.stats.last_duration_us > QUICK_US:
            break
        if nth:
            readings = reader.read(edge_us)
        for one in readings:
            if isinstance(one, EngineReading) and one.epoch:
                epochs.setdefault((one.target, one.series), set()).add(one.epoch)
    told = {one.id for one in readings if isinstance(one, AbsenceReading) and one.reason in FRONTS}
    several = dict.fromkeys(target for (target, _), seen in epochs.items() if len(seen) > 1 and target not in told)
    reason, detail = TURNS
    return [*readings, *(AbsenceReading(subject="engine", id=one, reason=reason, detail=detail) for one in several)]


def _is_fresh_gateway(reading: AbsenceReading) -> bool:
    return reading.subject == "gateway" and reading.reason == "no_series"


def _is_beside_the_point(reading: Reading, fronts: Collection[str]) -> bool:
    """Whether it is what a front says of an engine behind it, or where a front is."""
    if isinstance(reading, EngineReading):
        return reading.target in fronts
    return isinstance(reading, AbsenceReading) and reading.id in fronts and reading.reason not in FRONTS


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
    fronts = {one.id for one in readings if isinstance(one, AbsenceReading) and one.reason in FRONTS}
    for reading in readings:
        if not _is_beside_the_point(reading, fronts):
            yield from judge_reading(reading)
    yield from _gateways([one for one in readings if isinstance(one, GatewayReading)])
    if reader.name == "engine" and not readings:
        fix = "Name it under `engines:`, as `- target: http://127.0.0.1:8000/metrics`."
        yield Check("engine", "WARN", "No engine is configured and none was found, so no tokens are counted.", fix)


def judge_reading(reading: Reading) -> Iterable[Check]:
    """One board, domain or engine, or its absence; consumers of a gateway are judged together."""
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
            what = f"{reading.id or reading.subject}: {reading.reason}"
            if _is_fresh_gateway(reading):
                fix = "It shows none before its first request: send one and run this again (docs/chargeback.md)."
                yield Check("gateway", "WARN", f"{what}, it answers but has no token counters yet", fix)
                return
            status: Status = "WARN" if reading.subject == "host" or reading.reason in BEARABLE else "FAIL"
            yield Check(reading.subject, status, what, reading.detail or "Look at its log and at the agent's.")


def _gateways(readings: Sequence[GatewayReading]) -> Iterable[Check]:
    """A line a gateway that shows tokens."""
    for (target, kind), count in Counter((one.target, one.gateway_kind) for one in readings).items():
        yield Check("gateway", "OK", f"{target}: {kind} with {count} consumers")


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
