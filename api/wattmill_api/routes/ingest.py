"""POST /api/v1/ingest: the wire. See `wattmill_collector.wire` for the format of a line and of a receipt."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Header, Request, Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from wattmill_api import auth
from wattmill_api.coalescer import Coalescer
from wattmill_api.errors import TooLarge, TooSlowToArrive, UnsupportedMedia, problem
from wattmill_api.ingest import LIMITS, parse_post
from wattmill_api.routes.documents import problems
from wattmill_api.store import query
from wattmill_api.store.database import Database
from wattmill_api.store.ingest import ParsedBatch
from wattmill_collector.catalogue import INT64_MAX, MAX_BOUNDS, MAX_LISTED
from wattmill_collector.wire import MAX_LABELS, MAX_READINGS_PER_BATCH, METRICS, READING_KINDS, WIRE_VERSION, Receipt

router = APIRouter(tags=["ingest"])

RECEIVE_SECONDS = 30.0
_TYPES = {"", "application/x-ndjson", "application/ndjson", "application/jsonl", "application/json"}
_INLINE_BYTES = 32 * 1024  # a larger body is parsed on a thread, so that others are not kept waiting

_EXAMPLE = {
    "wattmill": 1,
    "stream": "6f1c2a",
    "sequence": 17,
    "time_us": 1_732_492_800_000_000,
    "node": {"name": "gpu-017", "site": "ams1", "interval_us": 10_000_000},
    "readings": [{"kind": "accelerator", "uuid": "GPU-1", "energy_mj": 123_456, "epoch": 42}],
}


_COUNT = {"type": "integer", "minimum": 0, "maximum": INT64_MAX}
_HISTOGRAM = {
    "type": "object",
    "required": ["le_us", "counts"],
    "properties": {
        "le_us": {
            "type": "array",
            "items": _COUNT,
            "minItems": 1,
            "maxItems": MAX_BOUNDS,
            "description": "Upper bounds, rising; +Inf is left out.",
        },
        "counts": {
            "type": "array",
            "items": _COUNT,
            "minItems": 2,
            "maxItems": MAX_BOUNDS + 1,
            "description": "Observations so far at or under each bound, and all of them as the last.",
        },
    },
}


def _reading_schema(kind: str) -> dict[str, Any]:
    """What a reading of one kind may carry, from the catalogue."""
    properties: dict[str, Any] = {"kind": {"const": kind}}
    for metric in METRICS[kind]:
        limits: dict[str, Any]
        if metric.type == "text":
            limits = {"type": "string", "minLength": int(metric.low), "maxLength": int(metric.high)}
        elif metric.type == "texts":
            limits = {"type": "array", "items": {"type": "string", "maxLength": 128}, "maxItems": int(metric.high)}
        elif metric.type == "ints":
            each = {"type": "integer", "minimum": metric.low, "maximum": metric.high}
            limits = {"type": "array", "items": each, "maxItems": MAX_LISTED}
        elif metric.type == "histogram":
            limits = _HISTOGRAM
        else:
            number = "integer" if metric.type == "int" else "number"
            limits = {"type": number, "minimum": metric.low, "maximum": metric.high}
        unit = f" ({metric.unit})" if metric.unit else ""
        size = f"; at most {metric.high_bytes} bytes" if 0 < metric.high_bytes < 4 * metric.high else ""
        properties[metric.name] = {**limits, "description": f"{metric.kind}: {metric.help}{unit}{size}"}
    required = ["kind", *(metric.name for metric in METRICS[kind] if metric.required)]
    return {"type": "object", "title": kind, "properties": properties, "required": required}


_BATCH_SCHEMA = {
    "type": "object",
    "title": "Batch",
    "required": ["wattmill", "stream", "sequence", "time_us", "node", "readings"],
    "properties": {
        "wattmill": {"const": WIRE_VERSION, "description": "Version of the wire."},
        "stream": {"type": "string", "minLength": 1, "maxLength": 64, "description": "Name of one spool."},
        "sequence": {"type": "integer", "minimum": 1, "description": "Number of the batch in its stream."},
        "time_us": {"type": "integer", "description": "The tick, in microseconds since 1970 (UTC)."},
        "node": {
            "type": "object",
            "required": ["name"],
            "properties": {
                "name": {"type": "string", "minLength": 1, "maxLength": 256},
                "site": {"type": "string", "minLength": 1, "maxLength": 256, "default": "default"},
                "interval_us": {"type": "integer", "minimum": 100_000, "maximum": 3_600_000_000},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": MAX_LABELS},
                "boot_id": {"type": "string", "maxLength": 64},
                "agent_version": {"type": "string", "maxLength": 64},
                "simulated": {"type": "boolean", "default": False},
            },
        },
        "readings": {
            "type": "array",
            "maxItems": MAX_READINGS_PER_BATCH,
            "items": {"oneOf": [_reading_schema(kind) for kind in READING_KINDS]},
        },
    },
}


class RejectionModel(BaseModel):
    """A reading that was not stored; index -1 is the whole batch."""

    index: int
    field: str
    reason: str


class ReceiptModel(BaseModel):
    """The answer for one line."""

    stream: str
    sequence: int
    sha256: str
    status: Literal["stored", "duplicate", "conflict", "rejected"]
    stored: int
    duplicates: int
    rejected: list[RejectionModel]
    committed_through: int


class IngestAnswer(BaseModel):
    """One receipt a line, in order."""

    receipts: list[ReceiptModel]


@router.post(
    "/ingest",
    operation_id="ingest",
    summary="Store batches of readings",
    response_model=IngestAnswer,
    responses=problems(400, 401, 403, 408, 409, 413, 415, 422, 503),
    dependencies=[auth.needs("ingest")],
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "One batch a line (NDJSON). With `Content-Encoding: gzip` one or more gzip members.",
            "content": {
                "application/x-ndjson": {
                    "schema": {"type": "string"},
                    "example": msgspec.json.encode(_EXAMPLE).decode(),
                },
                "application/json": {"schema": _BATCH_SCHEMA, "example": _EXAMPLE},
            },
        }
    },
)
async def ingest(
    request: Request,
    content_type: Annotated[str, Header(include_in_schema=False)] = "",
    content_encoding: Annotated[str, Header(include_in_schema=False)] = "",
) -> Response:
    """Exactly once: a line whose stream, sequence and hash are known is answered with the receipt it got before.

    200 if any line was stored or is a repeat; else 409 if any sequence holds another batch; else 422.
    """
    gzipped = _check_headers(content_type, content_encoding)
    limit = LIMITS.compressed_bytes if gzipped else LIMITS.inflated_bytes
    try:
        async with asyncio.timeout(RECEIVE_SECONDS):
            body = await _receive(request, limit)
    except TimeoutError:
        raise TooSlowToArrive(f"The body did not arrive within {RECEIVE_SECONDS:g} s.") from None
    now_us = time.time_ns() // 1000
    oldest_us = now_us - request.app.state.settings.retain_samples_days * 86_400_000_000

    def parse() -> Any:
        return parse_post(body, gzipped=gzipped, now_us=now_us, oldest_us=oldest_us)

    post = parse() if len(body) <= _INLINE_BYTES else await run_in_threadpool(parse)
    coalescer: Coalescer = request.app.state.coalescer
    stored = iter(await coalescer.store(post.batches) if post.batches else [])
    receipts = [next(stored) if isinstance(line, ParsedBatch) else line for line in post.lines]
    if any(receipt.stream for receipt in receipts if receipt.status == "rejected"):
        receipts = await run_in_threadpool(_told_how_far, request.app.state.database, receipts)
    return _answer(receipts)


def _told_how_far(database: Database, receipts: list[Receipt]) -> list[Receipt]:
    """Refused lines told how far their stream is: a 0 would make their agent believe that everything was lost."""
    with database.reading() as connection:
        through = query.committed_through(connection, (receipt.stream for receipt in receipts))
    return [
        dataclasses.replace(r, committed_through=max(r.committed_through, through.get(r.stream, 0))) for r in receipts
    ]


def _check_headers(content_type: str, content_encoding: str) -> bool:
    """Whether the body is gzipped. Errors: UnsupportedMedia."""
    if content_type.partition(";")[0].strip().lower() not in _TYPES:
        raise UnsupportedMedia(
            "Content-Type: must be application/x-ndjson or application/json",
            faults=[{"field": "Content-Type", "reason": "must be application/x-ndjson or application/json"}],
        )
    encoding = content_encoding.strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip"):
        raise UnsupportedMedia(
            "Content-Encoding: must be gzip or identity",
            faults=[{"field": "Content-Encoding", "reason": "must be gzip or identity"}],
            headers={"Accept-Encoding": "gzip, identity"},
        )
    return encoding in ("gzip", "x-gzip")


async def _receive(request: Request, limit: int) -> bytes:
    """The body, never more than `limit` bytes of it. Errors: TooLarge."""
    reason = f"has more than {limit} bytes"
    too_large = TooLarge(f"body: {reason}", faults=[{"field": "body", "reason": reason}])
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > limit:
        raise too_large
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise too_large
        chunks.append(chunk)
    return b"".join(chunks)


def _answer(receipts: list[Receipt]) -> Response:
    wire = [dataclasses.asdict(receipt) for receipt in receipts]
    statuses = {receipt.status for receipt in receipts}
    if statuses & {"stored", "duplicate"}:
        return Response(msgspec.json.encode({"receipts": wire}), media_type="application/json")
    faults = [{"field": r.field, "reason": r.reason} for receipt in receipts for r in receipt.rejected[:5]][:50]
    detail = "; ".join(f"{fault['field']}: {fault['reason']}" for fault in faults[:3]) or "Nothing of this was stored."
    return problem(409 if "conflict" in statuses else 422, detail, faults=faults, extra={"receipts": wire})
