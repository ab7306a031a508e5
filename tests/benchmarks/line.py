"""Times the service's line, from the bytes of a post to closed minutes, beside the same rows through a bare COPY.

    WATTMILL_DATABASE_URL=postgresql://… python tests/benchmarks/line.py     # an empty database that may be filled

One connection, one process. The ratio to COPY in the same run says what exactness costs; the absolute numbers are the
machine's.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import psycopg

import wattmill_analytics
from support.mill import Node
from wattmill_api import accounting, migrate
from wattmill_api.ingest import parse_post
from wattmill_api.store.ingest import Interner, store_batches
from wattmill_collector.wire import Batch, encode_batch

NODES, BOARDS, ENGINES, TICKS, LINES_PER_POST = 16, 8, 4, 360, 200


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = action()
    return time.perf_counter() - begun, result


def nodes() -> list[Node]:
    """An hour of some nodes, fully busy."""
    made = []
    for n in range(NODES):
        node = Node(f"n{n}")
        for b in range(BOARDS):
            node.board(f"GPU-{n}-{b}", power_mw=500_000)
        width = BOARDS // ENGINES
        for e in range(ENGINES):
            node.engine(f"http://n{n}:{e}/metrics", [f"GPU-{n}-{width * e + i}" for i in range(width)])
        for _ in range(TICKS):
            node.tick(energy=dict.fromkeys(node.boards, 5_000_000), tokens=dict.fromkeys(node.engines, (100, 10, 500)))
        made.append(node)
    return made


def bare_copy(connection: psycopg.Connection[Any], rows: int) -> None:
    """As many rows of the same width into a table with the same key: the ceiling of this driver and server."""
    connection.execute("DROP TABLE IF EXISTS bare; CREATE TABLE bare (LIKE accelerator_sample INCLUDING ALL)")
    with connection.cursor() as cursor, cursor.copy("COPY bare FROM STDIN (FORMAT BINARY)") as copy:
        copy.set_types(("int8",) * 6 + ("int4",) * 8 + ("float4", "int2"))
        for i in range(rows):
            copy.write_row((i, i, 1, None, 1, 1, i % 99, 1, 500_000, 1, 1, 1, 1, 1, 0.5, 60))


def main() -> None:
    url = os.environ["WATTMILL_DATABASE_URL"]
    migrate.migrate(url)
    wattmill_analytics.warm_up()
    lines = [
        encode_batch(Batch(b.stream, b.sequence, b.time_us, b.node, [reading for _, reading in b.readings]))
        for node in nodes()
        for b in node.batches
    ]
    bodies = [b"\n".join(lines[i : i + LINES_PER_POST]) for i in range(0, len(lines), LINES_PER_POST)]
    rows = NODES * TICKS * (BOARDS + ENGINES)
    with psycopg.connect(url, autocommit=True) as connection:
        copy_s, _ = timed(lambda: bare_copy(connection, rows))
        now_us = int(time.time() * 1e6)
        parse_s, posts = timed(lambda: [parse_post(b, gzipped=False, now_us=now_us, oldest_us=0) for b in bodies])
        interner = Interner()
        store_s, _ = timed(lambda: [store_batches(connection, post.batches, interner) for post in posts])

        def close() -> None:
            while accounting.roll_up(connection):
                pass

        close_s, _ = timed(close)
    for name, seconds in (("bare COPY", copy_s), ("parse", parse_s), ("store", store_s), ("roll up", close_s)):
        sys.stdout.write(f"{name:<12}{rows / seconds:>12,.0f} rows/s{seconds / copy_s:>8.1f} x the time of COPY\n")


if __name__ == "__main__":
    main()
