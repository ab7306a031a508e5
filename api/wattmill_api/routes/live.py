"""GET /api/v1/live: server-sent events with the last minutes' figures, for a screen that is watched.

All listeners who may see the same share one question to the database; it is asked at most every `EVERY_S`, and only
while someone listens.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from wattmill_api import auth, efficiency, visibility
from wattmill_api.errors import Busy, WattmillError
from wattmill_api.parameters import DIMENSIONS, MINUTE, EnergyScope, Question, RangeQuestion, window
from wattmill_api.routes.documents import answer, problems
from wattmill_api.store import findings, prices, query
from wattmill_api.store.database import Database

router = APIRouter(tags=["live"])
EVERY_S = 2.0
KEEP_ALIVE_S = 15.0
MOST_LISTENERS = 200
MOST_GROUPS = 1000
SPAN = 5 * MINUTE
EVERYTHING: dict[str, list[str] | None] = dict.fromkeys(DIMENSIONS)


class LiveQuestion(Question):
    scope: EnergyScope = Field("accelerator", description="Whose energy: boards, nodes with their hosts, with PUE.")
    events: int | None = Field(None, ge=1, le=1_000_000, description="End after this many events; without it never.")


class Feed:
    """The latest event, shared by all listeners of this process who see the same teams and ask for the same scope."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        # when it was asked for, and the event
        self._events: dict[tuple[visibility.Teams, EnergyScope], tuple[float, bytes]] = {}
        self.listeners = 0

    def latest(self, now: dt.datetime, scope: EnergyScope) -> bytes:
        """The event as bytes; the same bytes until something changed. Errors: DatabaseAway."""
        with self._lock:
            whose = visibility.teams(), scope
            asked, event = self._events.get(whose, (float("-inf"), b""))
            if time.monotonic() - asked >= EVERY_S:
                event = bytes(answer(_figures(self._database, now, scope)).body)
                asked = time.monotonic()
                # What nobody listens to any more is forgotten.
                self._events = {who: kept for who, kept in self._events.items() if asked - kept[0] < KEEP_ALIVE_S}
                self._events[whose] = (asked, event)
            return event


def _figures(database: Database, now: dt.datetime, scope: EnergyScope) -> dict[str, Any]:
    with database.reading() as connection:
        known = prices.load(connection)
        cuts = known.cuts()
        asked = window(RangeQuestion(start=now - SPAN, end=now), "1m", now)
        cuts = [cut for cut in cuts if asked.start < cut < asked.end]
        facts = query.energy(
            connection,
            asked,
            by=["workload"],
            filters=EVERYTHING,
            cuts=cuts,
            with_host=scope != "accelerator",
            limit=MOST_GROUPS * (SPAN // MINUTE + 1),
        )
        open_findings = findings.count_open(connection)
    return {
        "start": asked.start,
        "end": asked.end,
        "scope": scope,
        "rows": efficiency.rows(facts, known, scope=scope, start=asked.start, cuts=cuts),
        "open_findings": open_findings,
    }


@router.get(
    "/live",
    operation_id="live",
    summary="The last five minutes, again whenever they change",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Events named `figures`: rows of /efficiency by workload and minute, and open findings.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **problems(401, 403, 422, 503),
    },
    dependencies=[auth.needs("read")],
)
async def live(request: Request, question: Annotated[LiveQuestion, Query()]) -> StreamingResponse:
    """An event carries its number, so that a browser that reconnects says where it was; each event is complete."""
    feed: Feed = request.app.state.feed
    if feed.listeners >= MOST_LISTENERS:
        raise Busy(f"{MOST_LISTENERS} listeners are connected already.")
    first = await run_in_threadpool(feed.latest, request.app.state.now(), question.scope)
    return StreamingResponse(
        _events(request, feed, first, question),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _events(request: Request, feed: Feed, event: bytes, question: LiveQuestion) -> AsyncIterator[bytes]:
    feed.listeners += 1
    try:
        yield b"retry: 5000\n\n"
        sent, number, said = b"", 0, time.monotonic()
        while True:
            if event != sent:
                number += 1
                sent, said = event, time.monotonic()
                yield b"id: %d\nevent: figures\ndata: %s\n\n" % (number, event)
                if number == question.events:
                    return
            elif time.monotonic() - said >= KEEP_ALIVE_S:
                said = time.monotonic()
                yield b": still here\n\n"
            await asyncio.sleep(EVERY_S)
            try:
                event = await run_in_threadpool(feed.latest, request.app.state.now(), question.scope)
            except WattmillError:
                return  # the browser comes back by itself, and gets the reason then
    finally:
        feed.listeners -= 1
