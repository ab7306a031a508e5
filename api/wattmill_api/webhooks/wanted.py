"""What people ask of a webhook, checked the same for the API and the command."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

from wattmill_api.errors import Conflict, invalid
from wattmill_api.store import webhooks as store
from wattmill_api.store.database import Connection
from wattmill_api.store.webhooks import Webhook
from wattmill_api.webhooks import signing
from wattmill_api.webhooks.address import Network, parse_url, refusal
from wattmill_api.webhooks.payload import KINDS


def add(connection: Connection, wanted: Mapping[str, Any], allowed: tuple[Network, ...]) -> Webhook:
    """Keep a webhook. Errors: Invalid naming the field and the limit, Conflict where its name is taken."""
    check(wanted, allowed)
    try:
        added = store.add(connection, wanted)
    except ValueError as error:
        raise Conflict(f"webhooks: {error}.") from None
    if added is None:
        raise Conflict(f"name: there is a webhook {wanted['name']} already.")
    return added


def check(wanted: Mapping[str, Any], allowed: tuple[Network, ...]) -> None:
    """Errors: Invalid. A host given by name is looked up at every post, not here: an address may change."""
    try:
        target = parse_url(wanted["url"])
    except ValueError as error:
        raise invalid("url", str(error)) from None
    try:
        ipaddress.ip_address(target.host)
    except ValueError:
        pass
    else:
        if why := refusal(target.host, allowed):
            raise invalid("url", f"its address {why}")
    if not wanted["name"].strip():
        raise invalid("name", "must not be empty")
    if wanted["secret"] and re.fullmatch(signing.NAME, wanted["secret"]) is None:
        raise invalid("secret", "must be the name of a secret: a-z, 0-9, . and -, up to 63 characters")
    for kind in wanted["kinds"]:
        if kind not in KINDS:
            raise invalid("kinds", f"must be some of {', '.join(KINDS)}")


def shown_url(url: str) -> str:
    """An address without what may be a token in it."""
    try:
        return parse_url(url).shown
    except ValueError:
        return "…"
