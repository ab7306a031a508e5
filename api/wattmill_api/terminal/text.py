"""How figures and names are written for people: no control character survives, rounded columns still add up. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

MJ_PER_KWH = 3_600_000_000
MOST_DIGITS = 10
# Every energy is of one of these.
SCOPES = {"accelerator": "accelerators", "node": "whole nodes", "facility": "facility (× PUE)"}
NO_TRAFFIC, NOT_KNOWN, NOT_SET = "no traffic", "not known", "not set"
_MARKDOWN = re.compile(r"([\\`*_\[\]<>#|~$&@]|:(?=//)|(?<=www)\.)", re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


def printable(value: object, most: int | None = None) -> str:
    """A name as one line that a terminal may be given: what it would obey is shown as \\x1b or \\u202e instead.

    `most`: longest result in characters; an ellipsis says that there was more.
    """
    text = "".join(_visible(character) for character in str(value))
    return text if most is None or len(text) <= most else text[: most - 1] + "…"


def _visible(character: str) -> str:
    # Not printable: control, format (direction marks, zero width), surrogates, unassigned, separators but the space.
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65_536 else f"\\U{code:08x}"


def markdown(value: object) -> str:
    """A name inside Markdown, a cell of a table included: nothing in it is markup, HTML, a link or a new cell."""
    return _MARKDOWN.sub(r"\\\1", printable(value))


def first_sentence(text: str) -> str:
    return _SENTENCE.split(text.strip(), maxsplit=1)[0]


def to_json(document: Any, *, indent: int | None = None) -> str:
    """ASCII without control characters in strings and without NaN: safe on any terminal, exact for any integer."""
    return json.dumps(document, indent=indent, allow_nan=False).replace("\x7f", "\\u007f")


def digits_for(total: Fraction, least: int) -> int:
    """Decimals with which a total shows five figures, at least `least`, so that small periods are not all zeroes."""
    digits = least
    while total and abs(total) * 10**digits < 10_000 and digits < MOST_DIGITS:
        digits += 1
    return digits


def rounded(parts: Sequence[Fraction], digits: int) -> list[Fraction]:
    """Each part to so many decimals such that they add up to their sum rounded once (largest remainder)."""
    scaled = [part * 10**digits for part in parts]
    units = [part.numerator // part.denominator for part in scaled]
    missing = round(sum(scaled, Fraction(0))) - sum(units)
    by_remainder = sorted(range(len(parts)), key=lambda i: (units[i] - scaled[i], i))
    for index in by_remainder[:missing]:
        units[index] += 1
    return [Fraction(unit, 10**digits) for unit in units]


def decimal(value: Fraction, digits: int) -> str:
    """`1,234.500` of a value that has no more than these decimals, or is rounded to them."""
    units = round(value * 10**digits)
    whole, rest = divmod(abs(units), 10**digits)
    return f"{'-' if units < 0 else ''}{whole:,}" + (f".{rest:0{digits}d}" if digits else "")


def count(value: int | None) -> str:
    return NOT_KNOWN if value is None else f"{value:,}"


def figure(value: float | None, otherwise: str = "—") -> str:
    """A ratio with three or more figures; `otherwise` where there is none."""
    if value is None:
        return otherwise
    size = abs(value)
    return f"{value:,.0f}" if size >= 1000 else f"{value:.1f}" if size >= 100 else f"{value:.3g}"


def percent(value: float | None) -> str:
    """Never 100 % while anything is missing."""
    if value is None:
        return "—"
    return f"{min(value * 100, 99.9) if value < 1 else value * 100:.1f} %"


def per_kwh(tokens: int | None, energy_mj: int) -> float | None:
    """Tokens for each kilowatt-hour; None without either."""
    return tokens * MJ_PER_KWH / energy_mj if tokens and energy_mj else None


def joules_per_token(tokens: int | None, energy_mj: int) -> float | None:
    return energy_mj / (1000 * tokens) if tokens and energy_mj else None


def why_none(tokens: int | None, energy_mj: int | None) -> str:
    """What stands where an efficiency would, had there been one."""
    if tokens is None:
        return NOT_KNOWN
    return NO_TRAFFIC if not tokens else "no energy" if energy_mj == 0 else NOT_KNOWN
