"""What an answer of the service means for the batches that were posted. Pure: an answer in, a verdict out."""

from __future__ import annotations

import email.utils
import enum
import json
from typing import Any

from wattmill_collector.transport import Answer
from wattmill_collector.wire import Receipt, WireError, decode_receipt

LONGEST_RETRY_AFTER_US = 15 * 60 * 1_000_000


class Verdict(enum.Enum):
    """The retry class of an answer."""

    RECEIPTS = "receipts"  # each batch is answered for itself
    PARK = "park"  # nothing about the batches: keep all, probe slowly, tell the operator
    SPLIT = "split"  # too much at once
    REFUSED = "refused"  # something in it, or its encoding, is not accepted
    RETRY = "retry"  # for ever, with jitter


def judge(answer: Answer) -> tuple[Verdict, list[Receipt]]:
    """The class of an answer, with its receipts. A page of a proxy is no receipt, whatever its status."""
    receipts = read_receipts(answer) if answer.status in (200, 202, 400, 409, 422) else []
    if receipts:
        return Verdict.RECEIPTS, receipts
    if answer.status in (401, 403, 404, 405, 421) or 300 <= answer.status < 400:
        return Verdict.PARK, []
    if answer.status == 413:
        return Verdict.SPLIT, []
    if answer.status in (400, 409, 415, 422):
        return Verdict.REFUSED, []
    return Verdict.RETRY, []


def read_receipts(answer: Answer) -> list[Receipt]:
    """The receipts of an answer; none when it is not ours or any of them is malformed."""
    document = document_of(answer)
    wire = document.get("receipts")
    if not isinstance(wire, list):
        return []
    try:
        return [decode_receipt(receipt) for receipt in wire]
    except (WireError, KeyError, TypeError, ValueError):
        return []


def document_of(answer: Answer) -> dict[str, Any]:
    """The JSON object of an answer of the service; {} for anything else."""
    if not is_ours(answer):
        return {}
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def is_ours(answer: Answer) -> bool:
    """Whether the answer has a content type that the service uses, and not that of a proxy's page."""
    content_type = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    return content_type in ("application/json", "application/problem+json")


def reason_of(answer: Answer) -> str:
    """The answer in one short line for people: status, and what the service says about it."""
    document = document_of(answer)
    said = [str(document[name]) for name in ("title", "detail") if document.get(name)]
    errors = document.get("errors")
    if isinstance(errors, list):
        said += [f"{e.get('field')}: {e.get('reason')}" for e in errors[:5] if isinstance(e, dict)]
    return f"{answer.status} {'; '.join(said)}".strip()[:500]


def retry_after_us(answer: Answer, wall_us: int) -> int:
    """How long the service asks to be left alone, at most 15 minutes; 0 when it does not ask."""
    text = answer.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return min(int(text[:9]) * 1_000_000, LONGEST_RETRY_AFTER_US)
    try:
        at_us = int(email.utils.parsedate_to_datetime(text).timestamp() * 1_000_000)
    except (TypeError, ValueError, OverflowError):
        return 0
    return min(max(at_us - wall_us, 0), LONGEST_RETRY_AFTER_US)
