"""Two teams on one service: everything that the ledger, findings and learning know of each, with names that tell."""

from __future__ import annotations

import datetime as dt
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient

from support.ledger import IDLE_EMPTY, IDLE_LOADED, MINUTE, SERVING, T0, UNATTRIBUTED, Books
from wattmill_api import auth
from wattmill_api.store import keys

NOW = T0 + 7 * MINUTE
HOUR = dt.timedelta(hours=1)
# What only the other team has is called secret.
SECRET = "secret"


def key_for(books: Books, scope: auth.Scope, *teams: str) -> str:
    made = auth.new_key(scope)
    keys.add(books.connection, key_id=made.key_id, sha256=made.sha256, scope=scope, name="", teams=list(teams) or None)
    return made.text


def tenant(books: Books, node: int, uuid: str, word: str, team: str, factor: int) -> tuple[int, int]:
    """A team's board, engine and everything that is known of them; returns board and placement."""
    board = books.board(node, uuid, f"{word}-board")
    target = f"http://{word}:8000/metrics"
    placement = books.placement(node, [board], f"{word}-chat", model=f"{word}-model", team=team, target=target)
    engine, workload = books.connection.execute(
        "SELECT engine_id, workload_id FROM placement WHERE placement_id = %s", [placement]
    ).fetchone() or (0, 0)
    for minute in range(3):
        at = T0 + minute * MINUTE
        tokens = (40 * factor, 10 * factor, 25 * factor)
        books.spent(node, board, placement, SERVING, 5_000_011 * factor, at=at, tokens=tokens)
        books.spent(node, board, placement, IDLE_LOADED, 1_000_003 * factor, at=at)
        books.do(
            "INSERT INTO engine_minute (time, input_tokens, cached_input_tokens, output_tokens, requests_finished,"
            " covered_us, engine_id, node_id, placement_id, anomalies, requests_running)"
            " VALUES (%s, %s, %s, %s, %s, 60000000, %s, %s, %s, 0, %s)",
            *(at, *tokens, factor, engine, node, placement, factor),
        )
        latency(books, "latency_minute", at, engine, node, placement, factor)
    latency(books, "latency_hour", T0, engine, node, placement, 3 * factor)
    learnt(books, word, workload, factor)
    about(books, word, engine, board, factor)
    return board, placement


def latency(books: Books, table: str, at: dt.datetime, engine: int, node: int, placement: int, factor: int) -> None:
    books.do(
        "INSERT INTO latency_bounds (le_us) VALUES ('{10000,50000}') ON CONFLICT DO NOTHING",
    )
    books.connection.execute(
        f"INSERT INTO {table} (time, engine_id, node_id, placement_id, bounds_id, metric, counts)"
        " VALUES (%s, %s, %s, %s, (SELECT bounds_id FROM latency_bounds), 1, %s)".encode(),
        (at, engine, node, placement, [20 * factor, 5 * factor, factor]),
    )


def learnt(books: Books, word: str, workload: int, factor: int) -> None:
    day = T0.replace(hour=0)
    books.do(
        "INSERT INTO phase_day VALUES (%s, %s, %s, 180000000, %s, %s, %s, %s, 0, 0, 3, 0, 0.1, 0.9, %s, 1, 0, %s,"
        " '{1,2,3}', '{0.1,0.1,0.1}', '{}')",
        *(day, 18 * factor, 18 * factor, 120 * factor, 75 * factor, 30 * factor, 18 * factor, workload, word),
    )
    family = books.one(
        "INSERT INTO curve_family (model, accelerator_model, engine_kind, boards, simulated)"
        " VALUES (%s, %s, 'vllm', 1, false) RETURNING family_id",
        *(f"{word}-model", f"{word}-board"),
    )
    books.do(
        "INSERT INTO curve_day VALUES (%s, %s, %s, %s, '{}', '{}', '{}', '{}', '{}', '{}')",
        *(day, factor, family, f"{word}-1.0"),
    )


def about(books: Books, word: str, engine: int, board: int, factor: int) -> None:
    """Findings, windows, targets and gaps that name a team's things."""
    for kind, engines, workload in (("low-batch", [engine], f"{word}-chat"), ("spin-idle", [], "")):
        finding = books.one(
            "INSERT INTO finding (kind, subject, site, node, workload, since, last_seen, energy_mj, evidence, summary,"
            " remedy, engine_ids, board_ids) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, '{}', %s, %s, %s, %s)"
            " RETURNING finding_id",
            *(kind, f"engine:{word}", f"{word}-site", f"{word}-node", workload, T0, T0 + MINUTE, 7 * factor),
            *(f"{word} wastes.", f"Change {word}.", engines, [board]),
        )
        books.do(
            "INSERT INTO finding_event (finding_id, time, what, note) VALUES (%s, %s, 'opened', %s)", finding, T0, word
        )
        books.do("INSERT INTO finding_saving VALUES (%s, %s, %s, 'idle', 1, 1, 1, 1, %s)", finding, T0, NOW, factor)
    books.do(
        "INSERT INTO suppression (workload, since, until, reason, created) VALUES (%s, %s, %s, %s, %s)",
        *(f"{word}-chat", T0, T0 + HOUR, word, T0),
    )
    books.do("INSERT INTO latency_target VALUES (%s, %s, %s, NULL, %s)", f"{word}-chat", T0 - HOUR, 20_000 * factor, T0)
    books.do(
        "INSERT INTO absence SELECT %s, node_id, 'engine', target, %s, 'refused', %s FROM engine WHERE engine_id = %s",
        *(T0 + 3 * MINUTE, T0 + 3 * MINUTE, word, engine),
    )


def prices(books: Books, name: str, factor: int) -> None:
    books.do("INSERT INTO tariff VALUES (%s, %s, 'EUR', %s, %s)", name, T0 - HOUR, factor, T0)
    books.do("INSERT INTO carbon VALUES (%s, %s, %s, %s, %s)", name, T0 - HOUR, factor, name, T0)
    books.do("INSERT INTO pue VALUES (%s, %s, %s, %s)", name, T0 - HOUR, factor, T0)


def mine(books: Books) -> None:
    """What the team `search` has, and what is nobody's and everybody's."""
    node = books.node("gpu-1", "ams1")
    board, _ = tenant(books, node, "GPU-own", "own", "search", 1)
    books.spent(node, board, 0, IDLE_EMPTY, 400_000, at=T0 + 3 * MINUTE)
    for minute in range(4):
        books.host(node, 900_007, at=T0 + minute * MINUTE)
    drew(books, "search", "own-model", 11)
    drew(books, "search", "nobodys-model", 13)
    prices(books, "ams1", 2)
    prices(books, "*", 3)
    # Words about a whole node may be about anybody.
    books.do(
        "INSERT INTO absence VALUES (%s, %s, 'node', '', %s, 'wedged', %s)",
        T0 + 4 * MINUTE,
        node,
        T0 + 4 * MINUTE,
        SECRET,
    )
    books.do(
        "INSERT INTO suppression (site, since, until, reason, by, created) VALUES ('ams1', %s, %s, %s, %s, %s)",
        *(T0, T0 + HOUR, SECRET, SECRET, T0),
    )


def theirs(books: Books) -> None:
    """What the team `secret-team` has: on the same node, and on a site of its own. Times differ where prices would."""
    node = books.one("SELECT node_id FROM node WHERE name = 'gpu-1'")
    tenant(books, node, "GPU-secret-1", "secret", "secret-team", 7)
    far = books.node("secret-node", "secret-site")
    board, _ = tenant(books, far, "GPU-secret-2", "secret2", "secret-team", 11)
    books.spent(far, board, 0, UNATTRIBUTED, 300_000, at=T0 + 3 * MINUTE)
    books.host(far, 800_000)
    for model in ("own-model", "secret-model", "secret3-model"):
        drew(books, "secret-team", model, 17)
    prices(books, "secret-site", 5)
    books.do("INSERT INTO exposed_waste VALUES (1, 1, %s, false, 'low-batch', 'secret-site', 'secret-chat')", T0)
    books.do(
        "INSERT INTO suppression (node, since, until, created) VALUES ('secret-node', %s, %s, %s)", T0, T0 + HOUR, T0
    )


def drew(books: Books, team: str, model: str, tokens: int) -> None:
    """A caller of a gateway on the shared node."""
    node = books.one("SELECT node_id FROM node WHERE name = 'gpu-1'")
    client = books.one(
        "INSERT INTO gateway_client (node_id, fingerprint, target, gateway_kind, model, provider, workload, team,"
        ' api_key, "user", agent) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) RETURNING client_id',
        *(node, f"{team} {model}", "http://127.0.0.1:4000/metrics", "litellm", model, "vllm", ""),
        *(team, f"{team}-key", f"{team}-user", f"{team}-agent"),
    )
    books.do(
        "INSERT INTO gateway_minute (time, input_tokens, cached_input_tokens, output_tokens, client_id, node_id)"
        " SELECT %s, %s, 0, %s, client_id, node_id FROM gateway_client WHERE client_id = %s",
        *(T0, tokens, tokens, client),
    )
    books.do("INSERT INTO gateway_hour SELECT * FROM gateway_minute WHERE client_id = %s", client)


class Asker:
    """A service on a database, and keys of it."""

    def __init__(self, app: FastAPI, url: str, *, with_theirs: bool) -> None:
        self.books = Books(url)
        mine(self.books)
        if with_theirs:
            theirs(self.books)
        self.books.close_hours()
        self.team = key_for(self.books, "read", "search")
        self.all = key_for(self.books, "read")
        self.client = TestClient(app, follow_redirects=False)

    def get(self, path: str, parameters: dict[str, Any], key: str = "") -> Any:
        return self.client.get(path, params=parameters, headers={"Authorization": f"Bearer {key or self.team}"})
