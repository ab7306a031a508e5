"""What a post says: Alertmanager's webhook payload, version 4, with one finding as its one alert. Pure.

Alertmanager's own `group_by: ['...']` gives the same: a group of one, so that a receiver which opens and closes an
incident by `groupKey` never closes one that is still open. Names come from agents: they are text, and nothing more.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from wattmill_api.routes.documents import rfc3339

ALERT, TEST_ALERT = "WattmillFinding", "WattmillTest"
NOT_OVER = "0001-01-01T00:00:00Z"  # Alertmanager's zero time
# Which page says what to do about a kind, and how much of a hurry there is. Adding a detector adds a line.
KINDS: Mapping[str, tuple[str, str]] = {
    "cache-miss": ("WattmillWasteFound", "info"),
    "idle-empty": ("WattmillWasteFound", "info"),
    "idle-loaded": ("WattmillWasteFound", "info"),
    "kv-thrash": ("WattmillWasteFound", "warning"),
    "low-batch": ("WattmillWasteFound", "info"),
    "over-provisioned": ("WattmillWasteFound", "info"),
    "queue-starved": ("WattmillWasteFound", "warning"),
    "regression": ("WattmillRegression", "warning"),
    "spin-idle": ("WattmillWasteFound", "info"),
    "straggler": ("WattmillHardwareSlowed", "warning"),
    "telemetry-untrusted": ("WattmillTelemetryUntrusted", "warning"),
    "throttled": ("WattmillHardwareSlowed", "warning"),
}
_OTHER_KIND = ("WattmillWasteFound", "info")


def of_finding(
    document: Mapping[str, Any],
    *,
    receiver: str,
    firing: bool,
    teams: Sequence[str],
    external_url: str,
    runbooks_url: str,
) -> str:
    """The body of a post about a finding. `document`: as the API answers it; `teams`: those it concerns, sorted."""
    runbook, severity = KINDS.get(document["kind"], _OTHER_KIND)
    identity = {"alertname": ALERT, "kind": document["kind"], "subject": document["subject"]}
    labels = {
        **identity,
        "severity": severity,
        "site": document["site"],
        "node": document["node"],
        "workload": document["workload"],
        "team": ", ".join(teams),
        "simulated": "true" if document["simulated"] else "",
    }
    annotations = {
        "summary": document["summary"],
        "description": _description(document),
        "remedy": document["remedy"],
        "runbook_url": f"{runbooks_url.rstrip('/')}/{runbook}.md",
        "finding": str(document["id"]),
    }
    return _body(
        identity=identity,
        labels={name: value for name, value in labels.items() if value},
        annotations={name: value for name, value in annotations.items() if value},
        receiver=receiver,
        firing=firing,
        since=document["since"],
        until=document["until"] or document["last_seen"],
        link=f"#finding-{document['id']}",
        external_url=external_url,
    )


def of_test(*, receiver: str, now: dt.datetime, external_url: str) -> str:
    """The body of a test: says that it is one, and that nothing is wrong."""
    return _body(
        identity={"alertname": TEST_ALERT},
        labels={"alertname": TEST_ALERT, "severity": "info"},
        annotations={"summary": "A test of this webhook", "description": "Somebody asked for it. Nothing is wrong."},
        receiver=receiver,
        firing=True,
        since=now,
        until=now,
        link="",
        external_url=external_url,
    )


def _body(
    *,
    identity: Mapping[str, str],
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
    receiver: str,
    firing: bool,
    since: dt.datetime,
    until: dt.datetime,
    link: str,
    external_url: str,
) -> str:
    status, base = "firing" if firing else "resolved", external_url.rstrip("/")
    group = ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in sorted(identity.items()))
    alert = {
        "status": status,
        "labels": labels,
        "annotations": annotations,
        "startsAt": rfc3339(since),
        "endsAt": NOT_OVER if firing else rfc3339(until),
        "generatorURL": f"{base}/{link}" if base else "",
        "fingerprint": _fingerprint(identity),
    }
    return json.dumps(
        {
            "version": "4",
            "groupKey": f"{{}}:{{{group}}}",
            "truncatedAlerts": 0,
            "status": status,
            "receiver": receiver,
            "groupLabels": identity,
            "commonLabels": labels,
            "commonAnnotations": annotations,
            "externalURL": base,
            "alerts": [alert],
        }
    )


def _fingerprint(identity: Mapping[str, str]) -> str:
    """16 hex digits: the same for the same kind and subject, however its other labels change."""
    return hashlib.sha256(json.dumps(sorted(identity.items())).encode()).hexdigest()[:16]


def _description(document: Mapping[str, Any]) -> str:
    impact = document["impact"]
    over = document["until"] is not None
    said = [f"{impact['kwh']:.4g} kWh"]
    if impact["cost"] is not None:
        said.append(f"{impact['cost']['total']:.2f} {impact['cost']['currency']}")
    if impact["co2_grams"] is not None:
        said.append(f"{impact['co2_grams'] / 1000:.4g} kg CO2")
    text = f"{', '.join(said)} {'in all' if over else 'so far'}, since {rfc3339(document['since'])}"
    if over:
        return f"{text}, until {rfc3339(document['until'])}."
    per_day = impact["energy_mj_per_day"]
    rate = f" At this rate {per_day / 3.6e9:.4g} kWh a day." if per_day else ""
    return f"{text}.{rate}"
