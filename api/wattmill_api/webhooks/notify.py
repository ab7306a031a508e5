"""The job that tells receivers of findings: notes what they do not know yet, and posts what is due.

It compares what is open with what each receiver was last told: nothing depends on a change having been watched, and a
finding that flares up and is over between two runs wakes nobody. A delivery is in the outbox before it is posted and
leaves it with an answer: after a crash it is posted again, under the same token. It is tried for a day. Receivers are
posted to at once, each by a thread; one that fails is left alone for longer and longer and holds up nobody else.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from wattmill_api import __version__
from wattmill_api.routes.findings import document
from wattmill_api.settings import Settings
from wattmill_api.store import findings, prices
from wattmill_api.store import webhooks as store
from wattmill_api.store.database import Connection
from wattmill_api.store.webhooks import Claimed, Webhook
from wattmill_api.webhooks import payload
from wattmill_api.webhooks.address import Network, parse_networks
from wattmill_api.webhooks.post import Outcome, post
from wattmill_api.webhooks.signing import HEADER, NoSecret, Secrets, signature

log = logging.getLogger(__name__)

MOST_CHANGES = 500  # of one run; what is left is noted by the next
EACH = 20  # deliveries of one webhook that one run tries
TRIED_FOR = dt.timedelta(days=1)
KEPT_FOR = dt.timedelta(days=30)
# The jobs share one thread: a run ends by then, and what is under way is tried again when its claim is over.
RUN_S = 8.0
CLAIMED_FOR = dt.timedelta(seconds=60)
FIRST_WAIT_S, LONGEST_WAIT_S = 10, 1800
Send = Callable[[str, bytes, Mapping[str, str], Sequence[Network]], Outcome]


@dataclasses.dataclass(frozen=True, slots=True)
class Outside:
    """How the outside is reached and what it calls us."""

    allowed: tuple[Network, ...]
    secrets: Secrets
    external_url: str
    runbooks_url: str
    send: Send = post


def outside(settings: Settings) -> Outside:
    """As the settings say."""
    return Outside(
        parse_networks(settings.webhook_allow),
        Secrets(settings.webhook_secret.get_secret_value(), settings.webhook_secrets),
        settings.external_url,
        settings.runbooks_url,
    )


def notify(connection: Connection, now: dt.datetime, outside: Outside) -> str:
    """One run; returns what it did in a few words. A receiver that does not answer is no failure of the job."""
    noted = note_changes(connection, now, outside)
    claimed = store.claim(connection, now, now + CLAIMED_FOR, EACH)
    tally: Counter[str] = Counter()
    for delivery, outcome in _posted(claimed, now, outside):
        tally[_keep(connection, delivery, outcome, now)] += 1
    said = ", ".join(f"{count} {what}" for what, count in sorted(tally.items()))
    return f"{noted} new, {said or 'nothing due'}, {store.count_waiting(connection)} waiting"


def forget(connection: Connection, now: dt.datetime) -> int:
    """Drop what ended long ago; returns how many deliveries."""
    return store.forget(connection, now - KEPT_FOR)


def note_changes(connection: Connection, now: dt.datetime, outside: Outside) -> int:
    """Put into the outbox what receivers do not know; returns how many deliveries are new."""
    changes = store.changes(connection, MOST_CHANGES)
    known = prices.load(connection) if changes else None
    noted = 0
    for change in changes:
        found = findings.find(connection, finding_id=change.finding_id)
        if known is None or not found:
            continue
        body = payload.of_finding(
            document(found[0], known),
            receiver=change.receiver,
            firing=change.firing,
            teams=change.teams,
            external_url=outside.external_url,
            runbooks_url=outside.runbooks_url,
        )
        wanted = change.firing or change.send_resolved
        noted += store.tell(connection, change, body if wanted else None, now) and wanted
    return noted


def test(webhook: Webhook, token: str, now: dt.datetime, outside: Outside) -> Outcome:
    """Post a test to a webhook, once, whatever is waiting for it."""
    body = payload.of_test(receiver=webhook.name, now=now, external_url=outside.external_url)
    return _send(webhook.url, webhook.secret, token, body, now, outside)


def wait_s(failures: int, retry_after_s: int = 0) -> float:
    """How long to leave a receiver alone after so many failures in a row: full jitter, drawn after the cap."""
    ceiling_s = min(FIRST_WAIT_S << min(failures - 1, 16), LONGEST_WAIT_S)
    return max(random.uniform(ceiling_s / 10, ceiling_s), float(retry_after_s))


def _send(url: str, secret: str, token: str, body: str, now: dt.datetime, outside: Outside) -> Outcome:
    content = body.encode()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"Wattmill/{__version__}",
        "Idempotency-Key": token,
    }
    try:
        secrets = outside.secrets.of(secret)
    except NoSecret as error:
        return Outcome(False, str(error))
    if secrets:
        headers[HEADER] = signature(content, secrets, int(now.timestamp()))
    return outside.send(url, content, headers, outside.allowed)


def _posted(claimed: Sequence[Claimed], now: dt.datetime, outside: Outside) -> Iterator[tuple[Claimed, Outcome]]:
    """Outcomes as they come, until all receivers are through or the run has taken long enough."""
    by_webhook: dict[int, list[Claimed]] = {}
    for delivery in claimed:
        by_webhook.setdefault(delivery.webhook_id, []).append(delivery)
    outcomes: queue.SimpleQueue[tuple[Claimed, Outcome] | None] = queue.SimpleQueue()
    begun, over = time.monotonic(), threading.Event()

    def work(mine: Sequence[Claimed]) -> None:
        for delivery in mine:
            if over.is_set():
                break
            try:
                at = now + dt.timedelta(seconds=time.monotonic() - begun)
                outcome = _send(delivery.url, delivery.secret, delivery.token, delivery.body, at, outside)
            except Exception as error:  # a thread's end nobody would see: say it where people look
                log.exception("posting to webhook %d failed", delivery.webhook_id, extra={"action": "notify"})
                outcome = Outcome(False, f"failed unexpectedly: {type(error).__name__}")
            outcomes.put((delivery, outcome))
            if not outcome.delivered and not outcome.final:
                break
        outcomes.put(None)

    for webhook_id, mine in by_webhook.items():
        # Daemons: a name server that never answers must not keep the service from ending.
        threading.Thread(target=work, args=(mine,), name=f"webhook {webhook_id}", daemon=True).start()
    working = len(by_webhook)
    while working:
        try:
            outcome = outcomes.get(timeout=max(0.0, begun + RUN_S - time.monotonic()))
        except queue.Empty:
            break
        if outcome is None:
            working -= 1
        else:
            yield outcome
    over.set()


def _keep(connection: Connection, delivery: Claimed, outcome: Outcome, now: dt.datetime) -> str:
    """Write down what became of a delivery; returns it in a word or two."""
    if outcome.delivered:
        store.delivered(connection, delivery, now)
        return "delivered"
    if outcome.final:
        log.warning("webhook %d refused: %s", delivery.webhook_id, outcome.reason, extra={"action": "notify"})
        store.refused(connection, delivery, now, outcome.reason)
        return "refused"
    left_alone = now + dt.timedelta(seconds=wait_s(delivery.failures + 1, outcome.retry_after_s))
    next_try = now + dt.timedelta(seconds=wait_s(delivery.attempts + 1, outcome.retry_after_s))
    gave_up = now - delivery.created >= TRIED_FOR
    reason = f"{outcome.reason}; given up after a day" if gave_up else outcome.reason
    if gave_up or not delivery.failures:
        log.warning("webhook %d: %s", delivery.webhook_id, reason, extra={"action": "notify"})
    store.failed(connection, delivery, now, None if gave_up else next_try, left_alone, reason)
    return "given up" if gave_up else "put off"
