"""Why a target's answer is no page of an engine: what it is instead, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence

from wattmill_collector.sources.engine_tables import EngineKind, begins, recognise
from wattmill_collector.sources.engine_tables.foreign import FOREIGN
from wattmill_collector.sources.promtext import ParseError, number, split_line, value_text

LOOK_LINES = 50


class NotUnderstoodError(ValueError):
    """The target answers, but with no page of an engine in the table. The text says with what, and what to do."""


def refusal(kinds: Sequence[EngineKind], page: bytes) -> NotUnderstoodError:
    """What to say of a page that is of none of these kinds."""
    return NotUnderstoodError(_why_not(kinds, page))


def _why_not(kinds: Sequence[EngineKind], page: bytes) -> str:
    body = page.lstrip()
    if not body:
        return "the page is empty; are the engine's metrics switched on?"
    if body[:1] in (b"{", b"["):
        return "the target answers JSON; TensorRT-LLM shows its counters at /prometheus/metrics"
    if body[:9].lower() == b"<!doctype" or body[:5].lower() in (b"<html", b"<?xml"):
        return "the target answers a web page, not metrics; correct its path"
    wanted = kinds[0].name if len({k.name for k in kinds}) == 1 else ""
    if wanted and (other := recognise(page)) is not None:
        return f"the page has no metric of {wanted}, it is {other.name}'s; correct `kind` of this engine"
    for marker, name, advice in FOREIGN:
        if begins(page, marker):
            return f"the page is that of {name}{advice}"
    lines = [line for line in body[:16_384].split(b"\n")[:LOOK_LINES] if line.strip() and line[:1] != b"#"]
    if lines and not any(map(_is_series, lines)):
        return f"the target does not answer metrics: {lines[0][:60]!r}"
    return f"the page has no metric of {wanted or 'any engine that is known here'}; correct its path, or `kind`"


def _is_series(line: bytes) -> bool:
    split = split_line(line)
    try:
        return split is not None and number(value_text(line[split[2] :])) is not None
    except ParseError:
        return False
