"""Epochs of hardware counters: a name for the stretch over which a counter is known to continue.

An epoch is a pure function of observable evidence (boot id, driver version, device), so that a restarted agent finds
the same one. The agent only reports the evidence; what a change means is decided by the service.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def epoch_of(*evidence: str) -> int:
    """Signed 64-bit name of the evidence; never 0, which means "no evidence" on the wire."""
    digest = hashlib.blake2b("\0".join(evidence).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True) or 1


def read_boot_id(path: Path = BOOT_ID) -> str:
    """The kernel's random name of this boot; empty where the kernel has none to show."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
