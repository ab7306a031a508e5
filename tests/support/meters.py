"""Nodes with a chassis, packages and power meters beside their boards, all moved by hand."""

from __future__ import annotations

import datetime as dt
from typing import Any, LiteralString

import psycopg
from fastapi.testclient import TestClient

from support.mill import START_US, Node
from wattmill_api import accounting
from wattmill_api.store.ingest import Interner
from wattmill_collector.wire import HostReading, MeterReading, NodeHeader

START = dt.datetime.fromtimestamp(START_US / 1e6, dt.UTC)
MINUTE = dt.timedelta(minutes=1)
WATT = 10_000  # mJ in a tick of ten seconds


def close(connection: psycopg.Connection[Any], *nodes: Node) -> None:
    for node in nodes:
        node.post(connection, Interner())
    while accounting.roll_up(connection):
        pass


def one(connection: psycopg.Connection[Any], statement: LiteralString) -> Any:
    row = connection.execute(statement).fetchone()
    assert row is not None
    return row[0]


def host_mj(connection: psycopg.Connection[Any], domain: str) -> int | None:
    row = connection.execute("SELECT sum(energy_mj)::bigint FROM host_minute WHERE domain = %s", [domain]).fetchone()
    return row[0] if row else None


def labelled(name: str, **labels: str) -> Node:
    node = Node(name)
    node.header = NodeHeader(name=name, site="hall", interval_us=10_000_000, labels=labels)
    return node


class Counters:
    """The counters, by name."""

    def __init__(self) -> None:
        self.energy_mj: dict[str, int] = {}

    def __call__(self, name: str, by_mj: int) -> int:
        self.energy_mj[name] = self.energy_mj.get(name, 10**9) + by_mj
        return self.energy_mj[name]

    def host(self, domain: str, by_mj: int) -> HostReading:
        return HostReading(domain=domain, epoch=5, energy_uj=1000 * self(domain, by_mj))

    def meter(self, name: str, by_mj: int, level: str = "rack", covers: tuple[str, ...] = ("rack=r1",)) -> MeterReading:
        return MeterReading(meter=name, level=level, covers=covers, source="snmp_exporter", energy_mj=self(name, by_mj))


def over(minutes: int) -> dict[str, str]:
    return {"start": START.isoformat(), "end": (START + minutes * MINUTE).isoformat()}


def ask(client: TestClient, minutes: int = 5, **parameters: str) -> list[dict[str, Any]]:
    answer = client.get("/api/v1/meters", params={**over(minutes), **parameters})
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json()["rows"]
    return rows
