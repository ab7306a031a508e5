"""One file of the host that holds one number: a counter in µJ or a power in µW. Opened once, read at every tick.

What it promises: a file that can't be read is an absence with a reason and the way out, never a 0, and is tried again.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

REASONS: dict[type[OSError], str] = {PermissionError: "permission_denied", FileNotFoundError: "not_found"}
Opener = Callable[[Path, int], int]


@dataclasses.dataclass(slots=True)
class Domain:
    """One energy domain and the file that shows it. `source` is what the reading says of where it comes from.

    `wraps`: the counter begins anew at `range_uj`, which the file beside it says.
    """

    name: str
    path: Path
    source: str
    is_counter: bool
    wraps: bool = False
    advice: str = ""
    epoch: int = 0
    range_uj: int | None = None
    fd: int | None = None
    reason: str = ""
    detail: str = ""
    said_minute: int = -1


def open_file(domain: Domain, opener: Opener) -> None:
    """Open the file, or leave the reason in the domain."""
    try:
        if domain.wraps:
            domain.range_uj = _range_uj(domain.path.with_name("max_energy_range_uj"))
            if domain.range_uj is None:
                domain.reason, domain.detail = "no_range", f"{domain.path.parent} does not say where its counter wraps."
                return
        domain.fd = opener(domain.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        _explain(domain, error)


def read_number(domain: Domain) -> int | None:
    """The file's number; None with the reason in the domain."""
    if domain.fd is None:
        return None
    try:
        raw = os.pread(domain.fd, 32, 0)
    except OSError as error:
        _explain(domain, error)
        close_file(domain)
        return None
    if not raw.strip().isdigit():
        domain.reason, domain.detail = "not_understood", f"{domain.path} holds {raw[:20]!r}, not a number."
        return None
    return int(raw)


def close_file(domain: Domain) -> None:
    """Close the file, if it is open."""
    if domain.fd is not None:
        os.close(domain.fd)
        domain.fd = None


def text_of(path: Path) -> str:
    """What a small file says, without blanks around it; empty where it can't be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _explain(domain: Domain, error: OSError) -> None:
    domain.reason = REASONS.get(type(error), "read_error")
    if isinstance(error, PermissionError) and domain.advice:
        domain.detail = domain.advice.format(path=domain.path)
    else:
        domain.detail = f"{domain.path} can't be read: {error.strerror}."


def _range_uj(path: Path) -> int | None:
    text = text_of(path)
    return int(text) if text.isdigit() and int(text) > 0 else None
