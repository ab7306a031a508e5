"""Webhooks: who is told of findings, whether it arrives, and a test. Secrets and addresses are never answered."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from wattmill_api import auth
from wattmill_api.errors import NotFound
from wattmill_api.parameters import Name, Names, Question
from wattmill_api.routes.documents import answer, problems
from wattmill_api.routes.findings import said_by
from wattmill_api.store import webhooks as store
from wattmill_api.store.webhooks import Delivery, Webhook
from wattmill_api.webhooks import notify, wanted
from wattmill_api.webhooks.address import MOST_CHARACTERS
from wattmill_api.webhooks.post import Outcome

router = APIRouter(prefix="/webhooks", tags=["findings"])
WebhookId = Annotated[int, Path(ge=1, le=2**63 - 1)]


class WebhooksQuestion(Question):
    pass


class DeliveriesQuestion(Question):
    limit: int = Field(100, ge=1, le=1000, description="Most deliveries in the answer.")


class NewWebhook(BaseModel):
    """Where to post and what. Empty lists keep everything."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[Name, Field(min_length=1)] = Field(description="What it is called; `receiver` in what is posted.")
    url: str = Field(max_length=MOST_CHARACTERS, description="http:// or https://; never answered again.")
    secret: Name = Field("", description="Name of the secret that signs; empty: the service's default, if it has one.")
    kinds: Names = Field([], description="Detectors, for example idle-loaded.")
    teams: Names = Field([], description="Names of teams.")
    sites: Names = Field([], description="Names of sites.")
    min_energy_mj: int = Field(0, ge=0, le=2**63 - 1, description="Only what has wasted this much, as soon as it has.")
    send_resolved: bool = Field(True, description="Tell when a finding is over, too.")


class WebhookModel(BaseModel):
    """A webhook and how it does. `url`: its host alone. `failures`: posts in a row that nobody took."""

    id: int
    name: str
    url: str
    secret: str | None
    kinds: list[str]
    teams: list[str]
    sites: list[str]
    min_energy_mj: int
    send_resolved: bool
    by: str | None
    created: dt.datetime
    failures: int
    waiting: int
    delivered: dt.datetime | None
    error: str | None


class WebhooksAnswer(BaseModel):
    rows: list[WebhookModel]


class DeliveryModel(BaseModel):
    """One alert to one webhook. `reason`: why the last try failed."""

    id: int
    finding: int
    status: Literal["firing", "resolved"]
    state: Literal["waiting", "delivered", "gave up"]
    attempts: int
    created: dt.datetime
    ended: dt.datetime | None
    reason: str | None


class DeliveriesAnswer(BaseModel):
    rows: list[DeliveryModel]


class TestedModel(BaseModel):
    """What became of a test. `status`: the receiver's, null where there was no answer."""

    delivered: bool
    status: int | None
    reason: str | None


@router.get(
    "",
    operation_id="webhooks",
    summary="Who is told of findings",
    response_model=WebhooksAnswer,
    responses=problems(401, 403, 422, 503),
    dependencies=[auth.needs("admin")],
)
def get_webhooks(request: Request, _question: Annotated[WebhooksQuestion, Query()]) -> Response:
    with request.app.state.database.reading() as connection:
        return answer({"rows": [_document(each) for each in store.all_webhooks(connection)]})


@router.post(
    "",
    operation_id="add_webhook",
    summary="Tell somebody of findings",
    response_model=WebhookModel,
    responses=problems(400, 401, 403, 409, 413, 422, 503),
    dependencies=[auth.needs("admin")],
)
def add_webhook(
    request: Request,
    new: Annotated[
        NewWebhook,
        Body(examples=[{"name": "on-call", "url": "https://alerts.example/wattmill", "kinds": ["throttled"]}]),
    ],
) -> Response:
    allowed = notify.outside(request.app.state.settings).allowed
    with request.app.state.database.writing() as connection:
        added = wanted.add(connection, {**new.model_dump(), "by": said_by(request, connection)}, allowed)
    return answer(_document(added))


@router.delete(
    "/{webhook_id}",
    operation_id="remove_webhook",
    summary="Tell somebody no more",
    response_model=WebhookModel,
    responses=problems(401, 403, 404, 422, 503),
    dependencies=[auth.needs("admin")],
)
def remove_webhook(request: Request, webhook_id: WebhookId) -> Response:
    with request.app.state.database.writing() as connection:
        removed = store.remove(connection, webhook_id)
    return answer(_document(_there(removed, webhook_id)))


@router.get(
    "/{webhook_id}/deliveries",
    operation_id="webhook_deliveries",
    summary="What was told, newest first",
    response_model=DeliveriesAnswer,
    responses=problems(401, 403, 404, 422, 503),
    dependencies=[auth.needs("admin")],
)
def get_deliveries(
    request: Request, webhook_id: WebhookId, question: Annotated[DeliveriesQuestion, Query()]
) -> Response:
    with request.app.state.database.reading() as connection:
        _there(store.find(connection, webhook_id), webhook_id)
        rows = store.deliveries(connection, webhook_id, question.limit)
    return answer({"rows": [_delivery(row) for row in rows]})


@router.post(
    "/{webhook_id}/test",
    operation_id="test_webhook",
    summary="Post a test now",
    response_model=TestedModel,
    responses=problems(401, 403, 404, 422, 503),
    dependencies=[auth.needs("admin")],
)
def test_webhook(request: Request, webhook_id: WebhookId) -> Response:
    with request.app.state.database.reading() as connection:
        webhook = _there(store.find(connection, webhook_id), webhook_id)
    # No connection is held while the receiver thinks.
    state = request.app.state
    return answer(_tested(notify.test(webhook, str(uuid.uuid4()), state.now(), notify.outside(state.settings))))


def _there(webhook: Webhook | None, webhook_id: int) -> Webhook:
    if webhook is None:
        raise NotFound(f"There is no webhook {webhook_id}.")
    return webhook


def _document(webhook: Webhook) -> dict[str, Any]:
    return {
        "id": webhook.webhook_id,
        "name": webhook.name,
        "url": wanted.shown_url(webhook.url),
        "secret": webhook.secret or None,
        **{name: getattr(webhook, name) for name in ("kinds", "teams", "sites", "min_energy_mj", "send_resolved")},
        "by": webhook.by or None,
        **{name: getattr(webhook, name) for name in ("created", "failures", "waiting", "delivered")},
        "error": webhook.error or None,
    }


def _delivery(delivery: Delivery) -> dict[str, Any]:
    return {
        "id": delivery.delivery_id,
        "finding": delivery.finding_id,
        "status": "firing" if delivery.firing else "resolved",
        "state": delivery.state,
        "attempts": delivery.attempts,
        "created": delivery.created,
        "ended": delivery.ended,
        "reason": delivery.reason or None,
    }


def _tested(outcome: Outcome) -> dict[str, Any]:
    return {"delivered": outcome.delivered, "status": outcome.status, "reason": outcome.reason or None}
