"""Stores batches exactly once: one transaction holds the batch ledger's row, the samples and the dirty mark.

What makes it exact: a batch is claimed in `batch_ledger` by (stream, sequence) before its samples are copied, so a
retry finds the claim and gets the stored receipt; and the samples' own key (time, device) refuses a second copy even
from an agent that numbers its batches wrongly. Ids of nodes, boards and engines are handed out in a transaction of
their own first, so that a roll-back never leaves a cached id that does not exist.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from wattmill_api.store import identities, statements
from wattmill_api.store.interner import UNKNOWN, Interner, datetime_of
from wattmill_api.store.sample_rows import TABLES, Table, latencies, row_of
from wattmill_collector.wire import AbsenceReading, EngineReading, NodeHeader, Reading, Receipt, Rejection

__all__ = ["Interner", "ParsedBatch", "store_batches"]

_SQL = statements("ingest")


@dataclasses.dataclass(frozen=True, slots=True)
class ParsedBatch:
    """One line of a post after all checks: the readings that are good, with their index on the wire, and the rest."""

    stream: str
    sequence: int
    time_us: int
    node: NodeHeader
    readings: Sequence[tuple[int, Reading]]
    sha256: bytes
    rejections: Sequence[Rejection] = ()


@dataclasses.dataclass(slots=True)
class _Plan:
    """What one batch will write, once claimed."""

    batch: ParsedBatch
    node_id: int
    stream_id: int
    rows: dict[str, list[tuple[Any, ...]]]
    dropped: list[tuple[int, int]]
    duplicates: int = 0

    @property
    def stored(self) -> int:
        return sum(len(self.rows[table.name]) for table in TABLES if table.is_reading)


def store_batches(
    connection: psycopg.Connection[Any], batches: Sequence[ParsedBatch], interner: Interner
) -> list[Receipt]:
    """Store all batches in one transaction and answer each with its receipt, in order.

    `connection` must be in autocommit mode. Errors: psycopg.Error when the database is away or refuses; then nothing
    of the group was stored. Content never raises: it was checked before.
    """
    try:
        with connection.transaction():
            interner.renew(connection)
            plans = [_plan(batch, interner) for batch in batches]
            while interner.settle(connection):
                plans = [_plan(batch, interner) for batch in batches]
    except BaseException:
        interner.forget()  # the ids that this transaction handed out went with it
        raise
    try:
        with connection.transaction():
            receipts = _store(connection, plans)
            sightings = interner.write_sightings(connection)
    except psycopg.errors.ForeignKeyViolation:
        interner.forget()
        raise
    interner.sightings_stand(sightings)
    return receipts


def _plan(batch: ParsedBatch, interner: Interner) -> _Plan:
    """What a batch will write; of use only when the interner knew every id."""
    node_id = identities.node(interner, batch.node, batch.time_us)
    plan = _Plan(batch, node_id, UNKNOWN, {t.name: [] for t in TABLES}, [])
    if node_id == UNKNOWN:
        return plan
    plan.stream_id = identities.stream(interner, batch.stream, node_id)
    for _, reading in batch.readings:
        table, row = row_of(reading, batch.node, node_id, batch.time_us, interner)
        plan.rows[table].append(row)
        if isinstance(reading, EngineReading):
            plan.rows["latency_sample"] += latencies(reading, row, interner)
        if isinstance(reading, AbsenceReading) and reading.subject == "batch" and reading.last_sequence is not None:
            first = reading.first_sequence if reading.first_sequence is not None else reading.last_sequence
            if 1 <= first <= reading.last_sequence < batch.sequence:
                plan.dropped.append((first, reading.last_sequence))
    return plan


def _store(connection: psycopg.Connection[Any], plans: list[_Plan]) -> list[Receipt]:
    fresh, answers = _claim(connection, plans)
    if fresh:
        for table in TABLES:
            _copy(connection, table, fresh)
        _mark(connection, fresh)
        repeats = [p for p in fresh if p.duplicates]
        if repeats:
            connection.execute(
                _SQL["add_duplicates"],
                {
                    "stream_ids": [p.stream_id for p in repeats],
                    "sequences": [p.batch.sequence for p in repeats],
                    "duplicates": [p.duplicates for p in repeats],
                },
            )
    _advance(connection, {p.stream_id for p in fresh})
    rows = connection.execute(_SQL["committed_through"], {"stream_ids": sorted({p.stream_id for p in plans})})
    through: dict[int, int] = dict(rows)
    receipts = []
    for plan in plans:
        receipt = answers.get(id(plan)) or _receipt(plan, plan.stored - plan.duplicates)
        receipts.append(dataclasses.replace(receipt, committed_through=through.get(plan.stream_id, 0)))
    return receipts


def _receipt(plan: _Plan, stored: int) -> Receipt:
    batch = plan.batch
    status = "rejected" if batch.rejections and not batch.readings else "stored"
    return Receipt(
        stream=batch.stream,
        sequence=batch.sequence,
        sha256=batch.sha256.hex(),
        status=status,
        stored=stored,
        duplicates=plan.duplicates,
        rejected=tuple(batch.rejections),
    )


def _claim(connection: psycopg.Connection[Any], plans: list[_Plan]) -> tuple[list[_Plan], dict[int, Receipt]]:
    """Claim each (stream, sequence) once: the plans to write, and answers for those that are repeats or conflicts."""
    first_of: dict[tuple[int, int], _Plan] = {}
    for plan in plans:
        first_of.setdefault((plan.stream_id, plan.batch.sequence), plan)
    # One order for everybody: two writers that share streams never wait for each other in a ring.
    candidates = [first_of[key] for key in sorted(first_of)]
    rows = connection.execute(
        _SQL["claim_batches"],
        {
            "stream_ids": [p.stream_id for p in candidates],
            "first_sequences": [p.batch.sequence for p in candidates],
            "sequences": [p.batch.sequence for p in candidates],
            "hashes": [p.batch.sha256 for p in candidates],
            "stored": [p.stored for p in candidates],
            "duplicates": [0] * len(candidates),
            "rejected": [
                Jsonb([dataclasses.asdict(r) for r in p.batch.rejections]) if p.batch.rejections else None
                for p in candidates
            ],
        },
    )
    claimed = {(stream_id, sequence) for stream_id, sequence in rows}
    fresh = [p for p in candidates if (p.stream_id, p.batch.sequence) in claimed]
    mine = {id(p) for p in fresh}
    old = [p for p in plans if id(p) not in mine]
    answers: dict[int, Receipt] = {}
    if old:
        stored = {
            (row[0], row[1]): row
            for row in connection.execute(
                _SQL["stored_batches"],
                {
                    "stream_ids": [p.stream_id for p in old],
                    "sequences": [p.batch.sequence for p in old],
                },
            )
        }
        for plan in old:
            _, _, sha256, count, duplicates, rejected = stored[plan.stream_id, plan.batch.sequence]
            answers[id(plan)] = _repeat(plan.batch, bytes(sha256), count, duplicates, rejected or [])
    return fresh, answers


def _repeat(batch: ParsedBatch, sha256: bytes, stored: int, duplicates: int, rejected: list[dict[str, Any]]) -> Receipt:
    if sha256 != batch.sha256:
        reason = "another batch is stored under this sequence; begin a new stream for what has no receipt yet"
        return Receipt(
            stream=batch.stream,
            sequence=batch.sequence,
            sha256=batch.sha256.hex(),
            status="conflict",
            rejected=(Rejection(-1, "sequence", reason),),
        )
    return Receipt(
        stream=batch.stream,
        sequence=batch.sequence,
        sha256=batch.sha256.hex(),
        status="duplicate",
        stored=stored,
        duplicates=duplicates,
        rejected=tuple(Rejection(**r) for r in rejected),
    )


def _unique(table: Table, plans: Iterable[_Plan]) -> list[tuple[Any, ...]]:
    """The rows of one table, one per key: two batches of a group may carry the same reading."""
    rows: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for plan in plans:
        for row in plan.rows[table.name]:
            if rows.setdefault(table.key(row), row) is not row:
                plan.duplicates += table.is_reading
    return list(rows.values())


def _copy(connection: psycopg.Connection[Any], table: Table, plans: list[_Plan]) -> None:
    rows = _unique(table, plans)
    if not rows:
        return
    statement = sql.SQL(_SQL[f"copy_{table.name}"])
    target = sql.Identifier(table.name)
    try:
        with connection.transaction():
            _copy_rows(connection, statement.format(table=target), table, rows)
    except psycopg.errors.UniqueViolation:
        _merge(connection, table, statement, rows, plans)


def _copy_rows(
    connection: psycopg.Connection[Any], statement: sql.Composed, table: Table, rows: list[tuple[Any, ...]]
) -> None:
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types(table.types)
        for row in rows:
            copy.write_row(row)


def _merge(
    connection: psycopg.Connection[Any],
    table: Table,
    statement: sql.SQL,
    rows: list[tuple[Any, ...]],
    plans: list[_Plan],
) -> None:
    """Through a temporary table, leaving out the keys that are stored already and counting them per batch."""
    target, staged = sql.Identifier(table.name), sql.Identifier(f"staged_{table.name}")
    connection.execute(sql.SQL(_SQL["stage"]).format(table=target, staged=staged))
    _copy_rows(connection, statement.format(table=staged), table, rows)
    key = sql.SQL(", ").join(map(sql.Identifier, table.key_columns))
    cursor = connection.execute(sql.SQL(_SQL["merge"]).format(table=target, staged=staged, key=key))
    if not table.is_reading:
        return
    merged = {(_since_2000_us(row[0]), *row[1:]) for row in cursor}
    candidates = set(map(id, rows))  # the others are counted already: they repeat a reading of this very group
    for plan in plans:
        plan.duplicates += sum(id(row) in candidates and table.key(row) not in merged for row in plan.rows[table.name])


def _since_2000_us(time: dt.datetime) -> int:
    return (time - dt.datetime(2000, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


def _mark(connection: psycopg.Connection[Any], plans: list[_Plan]) -> None:
    """Tell roll-up what was touched: from two ticks before (a decrease is judged by the reading after it)."""
    spans: dict[int, tuple[int, int]] = {}
    for plan in plans:
        if plan.stored:
            first, last = spans.get(plan.node_id, (plan.batch.time_us, plan.batch.time_us))
            before = plan.batch.time_us - 2 * plan.batch.node.interval_us
            spans[plan.node_id] = (min(first, before), max(last, plan.batch.time_us))
        for span in plan.dropped:
            connection.execute(
                _SQL["add_dropped"], {"stream_id": plan.stream_id, "first_sequence": span[0], "last_sequence": span[1]}
            )
    if spans:
        connection.execute(
            _SQL["mark_dirty"],
            {
                "node_ids": list(spans),
                "first_times": [datetime_of(first) for first, _ in spans.values()],
                "last_times": [datetime_of(last) for _, last in spans.values()],
            },
        )


def _advance(connection: psycopg.Connection[Any], stream_ids: set[int]) -> None:
    """Move `committed_through` over every sequence that is accounted for without a hole."""
    for stream_id in sorted(stream_ids):
        row = connection.execute(_SQL["lock_stream"], {"stream_id": stream_id}).fetchone()
        assert row is not None  # interned before
        through = start = int(row[0])
        page = 64
        while True:
            rows = connection.execute(
                _SQL["next_sequences"], {"stream_id": stream_id, "after": through, "limit": page}
            ).fetchall()
            before = through
            for first, last in rows:
                if first > through + 1:
                    break
                through = last
            if through == before or len(rows) < page or through != rows[-1][1]:
                break
            page = 4096
        if through > start:
            connection.execute(_SQL["advance_stream"], {"stream_id": stream_id, "through": through})
