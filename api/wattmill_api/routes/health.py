"""At the root: is it alive, is it ready, and what it did so far."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from wattmill_api import __version__
from wattmill_api.auth import Guard
from wattmill_api.errors import DatabaseAway
from wattmill_api.routes.documents import answer, problems

router = APIRouter(tags=["health"])


class Alive(BaseModel):
    status: Literal["ok"]
    version: str


class Ready(BaseModel):
    status: Literal["ready"]
    access: Literal["open", "closed"]
    version: str


@router.get("/healthz", operation_id="healthz", summary="Whether this process answers", response_model=Alive)
async def healthz() -> Response:
    """Says nothing of the database: restarting this process would not bring that back."""
    return answer({"status": "ok", "version": __version__})


@router.get(
    "/readyz",
    operation_id="readyz",
    summary="Whether this process can store and answer",
    response_model=Ready,
    responses=problems(503),
)
async def readyz(request: Request) -> Response:
    """Ready: the database answers and has this version's schema. `access` is open until the first key exists."""
    await run_in_threadpool(request.app.state.check_ready)
    closed = await request.app.state.guard.closed()
    return answer({"status": "ready", "access": "closed" if closed else "open", "version": __version__})


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Counters of this service and of the ledger, for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **problems(401, 403)},
)
async def metrics(request: Request) -> Response:
    """Once keys exist, what names workloads and teams is shown to a read key of all teams only; the rest is open."""
    page = request.app.state.metrics.page
    with_ledger = await _may_read(request)
    return Response(await run_in_threadpool(page, with_ledger=with_ledger), media_type=CONTENT_TYPE_LATEST)


async def _may_read(request: Request) -> bool:
    """Errors: Unauthenticated, Forbidden, where a key was sent that does not open this."""
    guard: Guard = request.app.state.guard
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    try:
        if scheme.lower() == "bearer":
            return (await guard.check(key.strip(), "read")).teams is None
        return not await guard.closed()
    except DatabaseAway:
        return False
