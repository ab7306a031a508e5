"""How the values of settings are checked and made into what the agent works with. Pure.

Every function takes what a person wrote and raises ValueError with a phrase that says what is allowed; the caller adds
the setting and where it was set. Values are text (no YAML types), lists or mappings of text.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from wattmill_collector.wire import MAX_LABELS, MAX_NAME_BYTES

MINUTE_US = 60_000_000
INTERVALS = "1s, 2s, 3s, 4s, 5s, 6s, 10s, 12s, 15s, 20s, 30s or 60s"
Switch = Literal["auto", "on", "off"]


def text_of(value: Any, allowed: str) -> str:
    """A text without the blanks around it. Errors: ValueError saying what is allowed, as of all functions here."""
    if not isinstance(value, str):
        raise ValueError(allowed)
    return value.strip()


def duration_us(value: Any, allowed: str) -> int:
    """10s, 500ms, 2h; without a unit seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)?", text_of(value, allowed))
    if not found:
        raise ValueError(allowed)
    unit_us = {
        "ms": 1_000,
        "s": 1_000_000,
        "m": MINUTE_US,
        "h": 3_600_000_000,
        "d": 86_400_000_000,
        "w": 604_800_000_000,
    }
    return round(float(found[1]) * unit_us[found[2] or "s"])


def parse_interval_us(value: Any) -> int:
    """A tick every `value`; must divide a minute, so that every minute's edge is a tick."""
    interval_us = duration_us(value, INTERVALS)
    if not 1_000_000 <= interval_us <= MINUTE_US or MINUTE_US % interval_us:
        raise ValueError(f"a whole part of a minute: {INTERVALS}")
    return interval_us


def parse_age_us(value: Any) -> int:
    """How long something is kept."""
    allowed = "a time from 1h to 3650d, such as 14d"
    age_us = duration_us(value, allowed)
    if not 3_600_000_000 <= age_us <= 3650 * 86_400_000_000:
        raise ValueError(allowed)
    return age_us


def parse_size_bytes(value: Any) -> int:
    """How much something may take: KiB, MiB, GiB, TiB, or kB, MB, GB, TB of powers of ten."""
    allowed = "a size from 16MiB to 16TiB, such as 2GiB"
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?)b?|b)?", text_of(value, allowed).lower())
    if not found:
        raise ValueError(allowed)
    power = "kmgt".index(found[2]) + 1 if found[2] else 0
    size = math.floor(float(found[1]) * float(1024 if found[3] else 1000) ** power)
    if not 16 << 20 <= size <= 16 << 40:
        raise ValueError(allowed)
    return size


def parse_url(value: Any) -> str:
    """An http or https address without user, password, query or fragment, and without the slash at its end."""
    allowed = "an address such as http://wattmill:8080, without user, password or '?'"
    url = text_of(value, allowed)
    parts = urlsplit(url)
    try:
        port_fits = parts.port is None or parts.port > 0
    except ValueError:
        port_fits = False
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_fits:
        raise ValueError(allowed)
    if "@" in parts.netloc or parts.query or parts.fragment or re.search(r"[\s\x00-\x1f]", url):
        raise ValueError(allowed)
    return url.rstrip("/")


def parse_target(value: Any) -> str:
    """An address to scrape: as `parse_url`, and a query is allowed (snmp_exporter's is which device to ask)."""
    allowed = "an address such as http://127.0.0.1:8000/metrics, without user or password"
    url, mark, query = text_of(value, allowed).partition("?")
    if "#" in query or re.search(r"[\s\x00-\x1f]", query):
        raise ValueError(allowed)
    try:
        return parse_url(url) + mark + query
    except ValueError:
        raise ValueError(allowed) from None


def parse_listen(value: Any) -> str:
    """HOST:PORT, or "" for off."""
    allowed = "HOST:PORT such as 127.0.0.1:9477, or '' to switch it off"
    listen = text_of(value, allowed)
    if listen:
        host, _, port = listen.rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
            raise ValueError(allowed)
    return listen


def parse_switch(value: Any) -> Switch:
    """Whether to read a source."""
    match text_of(value, "auto, on or off").lower():
        case "auto":
            return "auto"
        case "on" | "true" | "yes":
            return "on"
        case "off" | "false" | "no":
            return "off"
    raise ValueError("auto, on or off")


def parse_bool(value: Any) -> bool:
    """Yes or no."""
    word = text_of(value, "true or false").lower()
    if word not in ("true", "on", "yes", "1", "false", "off", "no", "0"):
        raise ValueError("true or false")
    return word in ("true", "on", "yes", "1")


def parse_name(value: Any) -> str:
    """A name that the wire takes."""
    allowed = f"a name of 1 to 256 characters, {MAX_NAME_BYTES} bytes in UTF-8"
    name = text_of(value, allowed)
    if not 1 <= len(name) <= 256 or len(name.encode(errors="replace")) > MAX_NAME_BYTES or "\x00" in name:
        raise ValueError(allowed)
    return name


def parse_path(value: Any) -> Path:
    """A path; ~ is the user's home."""
    text = text_of(value, "a path")
    if not text or "\x00" in text:
        raise ValueError("a path")
    return Path(text).expanduser()


def parse_labels(value: Any) -> dict[str, str]:
    """Labels of the node: a mapping, or "rack=r12,row=3"."""
    allowed = f"at most {MAX_LABELS} labels such as rack=r12,row=3; names to 128 and values to 256 characters"
    if isinstance(value, str):
        pairs = [item.partition("=") for item in value.split(",") if item.strip()]
        if any(not mark for _, mark, _ in pairs):
            raise ValueError(allowed)
        value = {name.strip(): text.strip() for name, _, text in pairs}
    if not isinstance(value, dict) or len(value) > MAX_LABELS:
        raise ValueError(allowed)
    for name, text in value.items():
        if not isinstance(text, str) or not 1 <= len(name) <= 128 or len(text) > 256 or "\x00" in name + text:
            raise ValueError(allowed)
    return dict(value)
