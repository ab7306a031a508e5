"""What `wattmill doctor` looks at around the agent: the service, its clock, and the agent's own pages."""

from __future__ import annotations

import email.utils
import http.client
import json
import socket
import time
from collections.abc import Callable, Iterable, Mapping

from wattmill_collector.checks import Check
from wattmill_collector.settings import Settings
from wattmill_collector.transport import KeySource, Transport

WORRYING_SKEW_S = 2
REFUSED_SKEW_S = 300  # readings from further in the future are refused by the service


def check_service(
    settings: Settings, transport: Transport | None, now_s: Callable[[], float] = time.time
) -> Iterable[Check]:
    """Whether the service answers, takes our key and has the same time."""
    if transport is None:
        fix = "Set `server:` to the service's address; until then readings stay in the spool, within its limits."
        yield Check("service", "WARN", "No server is set.", fix)
        return
    source = KeySource(settings.key_file, settings.key)
    key = source.current()
    if source.error:
        yield Check(
            "service", "FAIL", source.error, "Make the key file readable for the agent's user, and nobody else."
        )
    headers = {"Content-Type": "application/x-ndjson"} | ({"Authorization": f"Bearer {key}"} if key else {})
    try:
        answer = transport.post(b"{}\n", headers)
    except (OSError, http.client.HTTPException) as error:
        reason = str(error) or type(error).__name__
        yield Check(
            "service", "FAIL", f"{settings.server} does not answer: {reason}", "Check address, network and TLS."
        )
        return
    yield judge_answer(settings.server, answer.status, answer.headers, key)
    yield from judge_skew(answer.headers.get("date", ""), now_s())


def judge_answer(server: str, status: int, headers: Mapping[str, str], key: str) -> Check:
    """What the answer to an empty batch means."""
    ours = "json" in headers.get("content-type", "")
    if status in (401, 403):
        said = "refuses the key" if key else "asks for a key"
        fix = "Create one with `wattmill key create --scope ingest` and set key_file."
        return Check("service", "FAIL", f"{server} {said} (HTTP {status}).", fix)
    if status in (200, 400, 409, 422) and ours:
        return Check("service", "OK", f"{server} answers and takes {'the key' if key else 'readings without a key'}.")
    if status == 503 and ours:
        return Check(
            "service", "FAIL", f"{server} is there but without its database.", "Look at the service's /readyz."
        )
    return Check(
        "service", "FAIL", f"{server} answers like something else (HTTP {status}).", "Check the address and path."
    )


def judge_skew(date: str, now_s: float) -> Iterable[Check]:
    """Our clock against the service's `Date` header, which has whole seconds."""
    try:
        theirs_s = email.utils.parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError):
        return
    skew_s = now_s - theirs_s
    text = f"This host's clock is {abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} the service's."
    if abs(skew_s) > REFUSED_SKEW_S:
        yield Check("clock", "FAIL", text, "Set the clock; the service refuses readings from the future.")
    elif abs(skew_s) > WORRYING_SKEW_S:
        yield Check("clock", "WARN", text, "Run an NTP client on both sides.")


def check_own_pages(listen: str) -> Iterable[Check]:
    """Whether the agent's own pages can be served, or what the agent that serves them says of itself."""
    if not listen:
        yield Check("agent", "OK", "Own /metrics and /healthz are switched off.")
        return
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, int(port)), family=family).close()
    except OSError as error:
        verdict = ask_agent(host, int(port))
        if verdict is None:
            fix = "Set listen: to a free port, or '' to switch it off."
            yield Check("agent", "WARN", f"{listen} can't be listened on: {error.strerror}.", fix)
        elif verdict.get("status") == "ok":
            yield Check("agent", "OK", f"An agent is running on {listen} and all is well.")
        else:
            reasons = verdict.get("reasons")
            text = " ".join(map(str, reasons)) if isinstance(reasons, list) else ""
            yield Check("agent", "FAIL", f"The running agent is {verdict.get('status')}: {text}", "See its log.")
    else:
        yield Check("agent", "OK", f"{listen} is free for /metrics and /healthz.")


def ask_agent(host: str, port: int) -> dict[str, object] | None:
    """What /healthz of a running agent says; None when it is no agent."""
    connection = http.client.HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", "/healthz")
        said = json.loads(connection.getresponse().read(65_536))
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return said if isinstance(said, dict) and "status" in said else None
