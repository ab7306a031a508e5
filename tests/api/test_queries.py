"""Every named statement of the answers plans against the real schema, is used, and binds time."""

from __future__ import annotations

import datetime as dt
import inspect
import re
from collections import defaultdict
from types import ModuleType
from typing import Any, LiteralString

import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from support.ledger import Books
from wattmill_api.store import (
    detection,
    findings,
    frontier,
    gateways,
    inventory,
    keys,
    lifecycle,
    load,
    meters,
    prices,
    query,
    savings,
    statements,
    suppressions,
)

FILES: dict[str, ModuleType] = {
    "query": query,
    "prices": prices,
    "finding": findings,
    "frontier": frontier,
    "gateways": gateways,
    "inventory": inventory,
    "load": load,
    "meters": meters,
    "keys": keys,
    "detection": detection,
    "lifecycle": lifecycle,
    "saving": savings,
    "suppression": suppressions,
}
NOW = dt.datetime(2026, 3, 2, tzinfo=dt.UTC)
VALUES: dict[str, Any] = {
    **dict.fromkeys(("start", "end", "until", "hour_start", "hour_end", "day_start", "day_end", "valid_from"), NOW),
    **{name: ["x"] for name in ("by", "node", "site", "workload", "model", "team", "engine", "accelerator", "names")},
    **{name: ["x"] for name in ("accelerator_model", "kind")},
    **dict.fromkeys(("limit", "after", "finding_id", "price_per_kwh", "grams_per_kwh", "pue"), 1),
    **dict.fromkeys(
        (
            "first",
            "last",
            "since",
            "last_seen",
            "known",
            "found",
            "counted_from",
            "ended",
            "ends_after",
            "oldest",
            "oldest_peak",
            "now",
        ),
        NOW,
    ),
    **dict.fromkeys(("energy_mj", "carried_mj", "mj_per_day", "before_mj", "before_units", "spent_mj", "units"), 1),
    **dict.fromkeys(("saved_mj", "suppression_id", "into", "before", "behind"), 1),
    **{name: [1] for name in ("engine_ids", "board_ids", "placement_ids", "workload_ids")},
    **{name: [1] for name in ("node_ids", "meter_ids", "groups", "ids", "moved_mj")},
    **{name: [1] for name in ("of_kinds", "below_groups", "below_kinds", "broken", "hourly")},
    **{name: [NOW] for name in ("firsts", "lasts", "broken_days", "hourly_days")},
    "newest": NOW,
    "kinds": ["x"],
    "alone": [True],
    "teams": ["x"],
    "wordless": ["x"],
    "follow": dt.timedelta(days=7),
    "simulated": False,
    "evidence": Jsonb({}),
    "step": dt.timedelta(hours=1),
    "cuts": [NOW],
    "by_account": True,
    "sha256": b"x",
}
TIMELESS = {"ledger_entry", "shared_entry"}  # fragments, planned inside `energy`
SERIES = re.compile(
    r"\b(ledger_minute|ledger_hour|ledger_day|host_minute|host_hour|meter_hour|node_day|accelerator_minute|engine_minute"
    r"|absence)\b"
)


@pytest.mark.parametrize("file", FILES)
def test_every_statement_plans(books: Books, file: str) -> None:
    for name, statement in statements(file).items():
        if name in TIMELESS or name in ("one_snapshot", "told") or name.startswith("copy_"):
            continue
        fragments, told = statements("query"), sql.SQL(statements("inventory")["told"])
        entries: list[LiteralString] = (
            [fragments[part] for part in sorted(TIMELESS)] if "{entry}" in statement else [""]
        )
        for entry in entries:
            text = sql.SQL("EXPLAIN ") + sql.SQL(statement).format(
                entry=sql.SQL(entry).format(every=sql.SQL("")),
                every=sql.SQL(""),
                told=told,
            )
            parameters = defaultdict(lambda: "x", VALUES)
            assert books.connection.execute(text, parameters).fetchall(), name


@pytest.mark.parametrize("file", FILES)
def test_every_statement_is_used_and_every_use_has_a_statement(file: str) -> None:
    source = inspect.getsource(FILES[file])
    named = set(statements(file))
    used = set(re.findall(r'_SQL\["(\w+)"\]', source))
    assert used <= named
    made = {f"expected_{d}s" for d in ("accelerator", "engine")} | {f"{d}_islands" for d in ("accelerator", "engine")}
    made |= {f"{d}_series" for d in ("accelerator", "engine")} | TIMELESS
    made |= {f"{long}{meter}" for long in ("", "long_") for meter in ("meter", "host_meter")}
    made |= {"sites", "nodes", "accelerators", "engines", "workloads"}
    made |= {f"put_{kind}" for kind in ("tariff", "carbon", "pue")}
    assert named - used <= made


def test_every_question_about_a_series_binds_time() -> None:
    for name, statement in [*statements("query").items(), *statements("inventory").items()]:
        if SERIES.search(statement):
            assert "time >= %(start)s" in statement, name
            assert "time < %(" in statement, name
