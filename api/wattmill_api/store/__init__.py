"""The only door to the database: named SQL statements and one short function per question asked of them.

`ingest` writes what agents send, under the ids of `interner`; `rollup` reads samples as arrays and writes the ledger,
`query` answers people, `keys` and `findings` keep their tables. Nothing outside this package and `migrate` imports
psycopg.
"""

from __future__ import annotations

import functools
import importlib.resources
import re
from typing import LiteralString, cast

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


@functools.cache
def statements(file: str) -> dict[str, LiteralString]:
    """Statements of `sql/<file>.sql` by name: each begins with a line `-- name: <name>`.

    The cast is safe: the text comes from this package's own files, never from a request.
    """
    text = importlib.resources.files("wattmill_api").joinpath("sql", f"{file}.sql").read_text()
    parts = _NAME.split(text)
    return {name: cast(LiteralString, body.strip()) for name, body in zip(parts[1::2], parts[2::2], strict=True)}
