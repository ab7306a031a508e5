"""`wattmill report`: a written account of a period as Markdown, JSON or CSV; the figures are the same in all three."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, timedelta
from pathlib import Path

from wattmill_api.progress import Bar
from wattmill_api.terminal.account import QUESTIONS, gather
from wattmill_api.terminal.client import DONE, FAILED, USELESS, Document, Failure, Server
from wattmill_api.terminal.options import Options, ago, one_of, printing, say
from wattmill_api.terminal.sheet import to_csv
from wattmill_api.terminal.text import SCOPES, to_json
from wattmill_api.terminal.writing import to_markdown

FORMATS = ("md", "json", "csv")
MOST_AGO_S = 36_500 * 86_400
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_MONTH = re.compile(r"(\d{4})-(0[1-9]|1[0-2])")
_HINT = "RFC 3339 (2026-01-31T12:00:00Z), unix seconds, a day (2026-01-31), or how long ago (7d)"


def main(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> int:
    """0: written; 1: the service is away or the file can't be written; 2: it can't be asked like this."""
    options = Options("report", "Write an account of a period.", os.environ if environ is None else environ)
    options.option("start", f"begin: {_HINT}")
    options.option("end", "end, not included: written the same way (default now)")
    options.option("month", "a month (UTC) instead of --start and --end: 2026-01")
    options.option("format", "md, json or csv (default md)", "md")
    options.option("scope", f"whose energy sections count: {', '.join(SCOPES)} (default accelerator)", "accelerator")
    options.option("output", "file to write, whole or not at all (default: standard output)")
    options.option("out", "the same as --output")
    given = options.parse(argv)
    with printing():
        try:
            format_ = one_of(given.format, "format", FORMATS)
            scope = one_of(given.scope, "scope", tuple(SCOPES))
            if not given.start and not given.month:
                raise Failure(f"--start is needed, or --month: {_HINT}", USELESS)
            server = options.server(given, argv)
            bar = Bar(sys.stderr, QUESTIONS)
            try:
                start, end = period(server, given.start or "", given.end or "", given.month or "")
                text = written(gather(server, start, end, bar.show, scope), format_)
            finally:
                bar.end()
                server.close()
            path = given.output or given.out
            if path:
                put(Path(path), text)
            else:
                sys.stdout.write(text)
                sys.stdout.flush()
        except Failure as failure:
            say("report", failure)
            return failure.status
        except KeyboardInterrupt:
            return FAILED
        return DONE
    return FAILED  # whoever read this went away


def period(server: Server, start: str, end: str, month: str) -> tuple[str, str]:
    """Begin and end as the service reads them. Errors: Failure."""
    if month:
        if start or end:
            raise Failure("--month: must stand alone, without --start and --end", USELESS)
        found = _MONTH.fullmatch(month)
        if not found:
            raise Failure(f"--month: must be a month such as 2026-01, not {month!r}", USELESS)
        year, number = int(found[1]), int(found[2])
        return f"{month}-01T00:00:00Z", f"{year + number // 12:04}-{number % 12 + 1:02}-01T00:00:00Z"
    return instant(start, server), instant(end, server)


def instant(text: str, server: Server) -> str:
    """A day is its first instant in UTC, a length is so long before the service's now; the rest the service reads."""
    if _DAY.fullmatch(text):
        return f"{text}T00:00:00Z"
    seconds = ago(text)
    if seconds is None:
        return text
    if seconds > MOST_AGO_S:
        raise Failure(f"a period must not begin {text} ago: at most 36500d", USELESS)
    server.get("/sites", {"limit": 1})  # tells its time
    then = server.now() - timedelta(seconds=seconds)
    return then.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def written(report: Document, format_: str) -> str:
    """The report as `md`, `json` or `csv`."""
    if format_ == "json":
        return to_json(report, indent=2) + "\n"
    return to_csv(report) if format_ == "csv" else to_markdown(report)


def put(path: Path, text: str) -> None:
    """The whole file or none. Errors: Failure."""
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with open(descriptor, "w", encoding="utf-8", newline="") as file:
                file.write(text)
            os.chmod(name, 0o644)
            os.replace(name, path)
        except OSError:
            os.unlink(name)
            raise
    except OSError as error:
        raise Failure(f"{path} can't be written: {error.strerror}") from None
