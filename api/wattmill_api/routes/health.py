"""At the root: is it alive, is it ready, and what it did so far."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from wattmill_api import __version__
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
    summary="This service's own metrics, for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(request: Request) -> Response:
    page: bytes = request.app.state.metrics.page()
    return Response(page, media_type=CONTENT_TYPE_LATEST)
