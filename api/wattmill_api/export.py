"""Rows of an answer as CSV or Parquet: nested values become columns with the unit in their name."""

from __future__ import annotations

import csv
import datetime as dt
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastapi.responses import Response

from wattmill_api.routes.documents import answer, rfc3339

FORMATS = ("json", "csv", "parquet")
_PARQUET = "application/vnd.apache.parquet"
# What the document of the API says of a route whose rows may be had as a file.
FILES: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            "text/csv": {"schema": {"type": "string"}},
            _PARQUET: {"schema": {"type": "string", "format": "binary"}},
        }
    }
}
# A spreadsheet would run a cell that begins like this.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def export(document: Mapping[str, Any], columns: Sequence[str], format_: str, name: str) -> Response:
    """The document as it is, or its `rows` as a file. `columns`: always there, in this order, even without rows."""
    if format_ == "json":
        return answer(document)
    rows = [flat(row) for row in document["rows"]]
    headers = {"Content-Disposition": f'attachment; filename="{name}.{format_}"'}
    if format_ == "csv":
        return Response(to_csv(rows, columns), headers=headers, media_type="text/csv; charset=utf-8; header=present")
    notes = {key: str(value) for key, value in document.items() if isinstance(value, str | int | bool)}
    return Response(to_parquet(rows, columns, notes), headers=headers, media_type=_PARQUET)


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without nesting: group keys by their own name, others as outer_inner, lists joined by semicolons."""
    cells: dict[str, Any] = {}
    for key, value in row.items():
        if key == "group":
            cells.update(value)
        elif key == "tokens":
            cells.update({f"{name}_tokens": count for name, count in value.items()})
        elif key == "cost":
            names = {"currency": "currency", "total": "cost", "per_million_tokens": "cost_per_million_tokens"}
            cells.update(
                {column: value[name] if value else None for name, column in names.items() if not value or name in value}
            )
        elif key == "below":
            cells.update({f"below_{name}": amount for name, amount in value.items()})
        elif key == "slo":
            cells.update(_flat_slo(value or {}))
        elif isinstance(value, list):
            cells[key] = ";".join(str(item) for item in value)
        else:
            cells[key] = value
    return cells


def _flat_slo(slo: Mapping[str, Any]) -> dict[str, Any]:
    cells = {name: value for name, value in slo.items() if name not in ("target", "coverage")}
    cells.update({f"target_{name}": value for name, value in slo.get("target", {}).items()})
    cells["slo_coverage"] = slo.get("coverage")
    return cells


def to_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """RFC 4180: CRLF, quotes where needed, ISO times with Z, an empty cell for what is not known."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row.get(column)) for column in columns])
    return out.getvalue()


def _cell(value: Any) -> object:
    if value is None:
        return ""
    if isinstance(value, dt.datetime):
        return rfc3339(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value.startswith(_FORMULA):
        return "'" + value
    return value


_INTEGERS = ("_mj", "_tokens", "_us", "nodes", "requests")
_FLOATS = (
    *("_kwh", "_ms", "ratio", "pue", "_per_token", "_per_met_token", "_per_million_tokens", "_grams"),
    *("coverage", "cost"),
)


def to_parquet(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], notes: Mapping[str, str]) -> bytes:
    """One row group per call, typed by column name so that an empty answer has the same schema; notes as metadata."""
    import pyarrow as pa  # imported when asked for: 170 MB that a service without exports never loads
    import pyarrow.parquet as pq

    def type_of(column: str) -> pa.DataType:
        if column == "time":
            return pa.timestamp("us", tz="UTC")
        if column in ("simulated", "chassis", "reconciles"):
            return pa.bool_()
        if column.endswith(_FLOATS):
            return pa.float64()
        return pa.int64() if column.endswith(_INTEGERS) else pa.string()

    schema = pa.schema([(column, type_of(column)) for column in columns], metadata=dict(notes))
    table = pa.Table.from_pylist([{column: row.get(column) for column in columns} for row in rows], schema=schema)
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue()
