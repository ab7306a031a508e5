"""A small fleet written straight into the ledger's tables, so that what the API should answer is known by heart."""

from __future__ import annotations

import datetime as dt
from typing import Any, LiteralString

import psycopg

from wattmill_api.parameters import EPOCH
from wattmill_api.store import rollup

T0 = dt.datetime(2026, 3, 2, 10, 0, tzinfo=dt.UTC)
MINUTE = dt.timedelta(minutes=1)
SERVING, IDLE_LOADED, IDLE_EMPTY, UNATTRIBUTED = 1, 2, 3, 4


class Books:
    """Writes rows that roll-up would write: minutes, the meter beside them, and on demand the hours of both."""

    def __init__(self, url: str) -> None:
        self.connection: psycopg.Connection[Any] = psycopg.connect(url, autocommit=True)

    def close(self) -> None:
        self.connection.close()

    def one(self, statement: LiteralString, *parameters: Any) -> Any:
        row = self.connection.execute(statement, parameters).fetchone()
        assert row is not None
        return row[0]

    def do(self, statement: LiteralString, *parameters: Any) -> None:
        self.connection.execute(statement, parameters)

    def node(self, name: str, site: str = "ams1", *, labels: str = "{}", first_seen: dt.datetime = T0) -> int:
        site_id = self.one(
            "INSERT INTO site (name) VALUES (%s) ON CONFLICT (name) DO UPDATE SET name = EXCLUDED.name"
            " RETURNING site_id",
            site,
        )
        return int(
            self.one(
                "INSERT INTO node (site_id, name, labels, interval_us, first_seen, last_seen)"
                " VALUES (%s, %s, %s, 10000000, %s, %s) RETURNING node_id",
                *(site_id, name, labels, first_seen, T0 + 10 * MINUTE),
            )
        )

    def board(self, node_id: int, uuid: str, model: str = "H100", *, first_seen: dt.datetime = T0) -> int:
        return int(
            self.one(
                "INSERT INTO accelerator (uuid, node_id, device_index, model, first_seen, last_seen)"
                " VALUES (%s, %s, 0, %s, %s, %s) RETURNING accelerator_id",
                *(uuid, node_id, model, first_seen, T0 + 10 * MINUTE),
            )
        )

    def placement(
        self, node_id: int, boards: list[int], workload: str, *, model: str = "qwen3", team: str = "search",
        target: str = "http://127.0.0.1:8000/metrics",
    ) -> int:  # fmt: skip
        engine_id = self.one(
            "INSERT INTO engine (node_id, target, series, engine_kind, first_seen, last_seen)"
            " VALUES (%s, %s, '', 'vllm', %s, %s)"
            " ON CONFLICT (node_id, target, series) DO UPDATE SET version = '' RETURNING engine_id",
            *(node_id, target, T0, T0 + 10 * MINUTE),
        )
        workload_id = self.one(
            "INSERT INTO workload (name, model, team) VALUES (%s, %s, %s)"
            " ON CONFLICT (name, model, team) DO UPDATE SET name = EXCLUDED.name RETURNING workload_id",
            *(workload, model, team),
        )
        return int(
            self.one(
                "INSERT INTO placement (engine_id, workload_id, accelerator_ids, method, since, until)"
                " VALUES (%s, %s, %s, 'configured', %s, %s) RETURNING placement_id",
                *(engine_id, workload_id, boards, T0, T0 + 10 * MINUTE),
            )
        )

    def spent(
        self, node_id: int, board: int, placement: int, account: int, energy_mj: int, *, at: dt.datetime = T0,
        tokens: tuple[int | None, int | None, int | None] = (None, None, None), estimated_mj: int = 0,
        covered_us: int = 60_000_000, metered: bool = True,
    ) -> None:  # fmt: skip
        self.do(
            "INSERT INTO ledger_minute (time, energy_mj, estimated_mj, input_tokens, cached_input_tokens,"
            " output_tokens, covered_us, span_us, node_id, accelerator_id, placement_id, revision, account)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, 60000000, %s, %s, %s, 1, %s)",
            *(at, energy_mj, estimated_mj, *tokens, covered_us, node_id, board, placement, account),
        )
        if metered and board:
            self.do(
                "INSERT INTO accelerator_minute (time, energy_mj, estimated_mj, covered_us, accelerator_id, node_id,"
                " power_mw, anomalies) VALUES (%s, %s, %s, %s, %s, %s, %s, 0)"
                " ON CONFLICT (time, accelerator_id) DO UPDATE"
                " SET energy_mj = accelerator_minute.energy_mj + EXCLUDED.energy_mj",
                *(at, energy_mj, estimated_mj, covered_us, board, node_id, energy_mj // 60),
            )

    def host(self, node_id: int, energy_mj: int, *, at: dt.datetime = T0, domain: str = "package-0") -> None:
        self.do(
            "INSERT INTO host_minute (time, energy_mj, estimated_mj, covered_us, node_id, domain)"
            " VALUES (%s, %s, 0, 60000000, %s, %s)",
            *(at, energy_mj, node_id, domain),
        )

    def close_hours(self) -> None:
        """Sum the minutes into hours, and these into days, as roll-up does."""
        nodes = [row[0] for row in self.connection.execute("SELECT node_id FROM node ORDER BY 1")]
        [(first, last)] = self.connection.execute(
            "SELECT date_trunc('hour', min(time)), date_trunc('hour', max(time)) + interval '1 hour' FROM ("
            "SELECT time FROM ledger_minute UNION SELECT time FROM host_minute"
            " UNION SELECT time FROM accelerator_minute) m"
        )
        rollup.sum_hours(self.connection, nodes, _us(first), _us(last))


def _us(time: dt.datetime) -> int:
    return (time - EPOCH) // dt.timedelta(microseconds=1)
