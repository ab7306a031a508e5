"""The node's power as its BMC says it over IPMI: DCMI's Get Power Reading, by a transport that is given.

What it promises: watts that the BMC calls an active reading, or a sentence that says why there are none. Below 10 W is
none.
What it does not: set anything, read other sensors, or go over the network.
Note: on machines with separate supplies for the boards some BMCs measure the system board only; the service then finds
a chassis that draws less than its boards, and says so.

Sources: DCMI 1.5 section 6.6.1; IPMI 2.0 table 5-2 for completion codes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from wattmill_collector.clock import Clock
from wattmill_collector.sources.addresses import FetchError
from wattmill_collector.sources.chassis import ChassisSource, Draw

GROUP_EXTENSION = 0x2C  # network function; its answers begin with the group
DCMI = 0xDC
GET_POWER_READING = 0x02
SYSTEM_POWER_STATISTICS = bytes((DCMI, 0x01, 0x00, 0x00))
LENGTH = 19
ACTIVE = 0x40
LEAST_WATTS, NO_WATTS = 10, 0xFFFF
BUSY = b"\xc0"

_CODES = {
    0xC0: ("busy", "the BMC is busy"),
    0xC1: ("not_supported", "the BMC does not know the command: it has no DCMI power reading"),
    0xC3: ("timeout", "the BMC ran out of time"),
    0xC9: ("not_supported", "the BMC refuses the request: it has no such power reading"),
    0xCB: ("not_supported", "the BMC has no power sensor"),
    0xCC: ("not_supported", "the BMC refuses the request: it has no such power reading"),
    0xD3: ("unreachable", "the BMC can't reach what measures the power"),
    0xD4: ("permission_denied", "the BMC does not allow it over the system interface; allow it in the BMC's settings"),
    0xD5: ("no_power_reading", "the BMC can't measure in its present state"),
    0xD6: ("not_supported", "power readings are switched off in the BMC's settings"),
}


class Transport(Protocol):
    """Carries one request to the BMC."""

    def exchange(self, network_function: int, command: int, data: bytes) -> bytes:
        """Completion code and data of the answer. Errors: FetchError."""
        ...


class PowerReading:
    """The BMC's DCMI power reading."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def ask(self) -> Draw:
        """The power now; asks a busy BMC once more. Takes up to seconds. Errors: FetchError."""
        answer = self._transport.exchange(GROUP_EXTENSION, GET_POWER_READING, SYSTEM_POWER_STATISTICS)
        if answer[:1] == BUSY:
            answer = self._transport.exchange(GROUP_EXTENSION, GET_POWER_READING, SYSTEM_POWER_STATISTICS)
        return Draw(power_of(answer))


def power_of(answer: bytes) -> int:
    """Power in mW from the answer: completion code, group, current, least, most and mean watts, time, period, state.

    Errors: FetchError when it holds no power that is being measured.
    """
    if not answer:
        raise FetchError("not_understood", "The BMC's answer is empty.")
    if answer[0]:
        unknown = ("bmc_error", "the BMC can't say what the node draws")
        reason, sentence = _CODES.get(answer[0], unknown)
        raise FetchError(reason, f"DCMI power reading: {sentence} (completion code 0x{answer[0]:02X}).")
    if len(answer) < LENGTH or answer[1] != DCMI:
        shown = answer[:24].hex(" ")
        raise FetchError("not_understood", f"The BMC's answer is no DCMI power reading: {shown} ({len(answer)} bytes).")
    if not answer[18] & ACTIVE:
        raise FetchError("power_reading_inactive", "The BMC says that it is not measuring power at the moment.")
    watts = int.from_bytes(answer[2:4], "little")
    if watts < LEAST_WATTS or watts == NO_WATTS:
        raise FetchError("no_power_reading", f"The BMC says {watts} W, which a running node does not draw.")
    return watts * 1000


def open_ipmi(root: Path, clock: Clock, *, every_us: int, patience_us: int = 0, optional: bool = True) -> ChassisSource:
    """The node's BMC as a source that is being asked. Errors: NotHere when its device is not there or not ours."""
    from wattmill_collector.sources.ipmi_device import IpmiDevice, find_device

    device = IpmiDevice(find_device((root, Path("/"))))
    ask = PowerReading(device).ask
    source = ChassisSource("ipmi", ask, clock, every_us=every_us, optional=optional, release=device.close)
    return source.start(patience_us)
