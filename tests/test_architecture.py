"""The lines between the packages, and what would otherwise drift: verbs, statements, documents, named files."""

from __future__ import annotations

import ast
import fnmatch
import re
import subprocess
import sys
from pathlib import Path

import pytest

from wattmill_api.settings import PREFIX, Settings
from wattmill_api.store import statements
from wattmill_collector import cli
from wattmill_collector.wire import METRICS

ROOT = Path(__file__).resolve().parents[1]
SQL = ROOT / "api/wattmill_api/sql"
SOURCES = sorted(
    file
    for package in ("collector/wattmill_collector", "analytics/wattmill_analytics", "api/wattmill_api")
    for file in (ROOT / package).rglob("*.py")
)
COLLECTOR_FOR_API = {"wattmill_collector", "wattmill_collector.wire", "wattmill_collector.catalogue"}
MAY_USE_PSYCOPG = ("api/wattmill_api/store/", "api/wattmill_api/migrate.py", "api/wattmill_api/jobs.py")


def imported(file: Path) -> set[str]:
    """Names of every module that a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def place(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_is_there(verb: str) -> None:
    assert callable(cli.load(cli.VERBS[verb][0]))


def test_the_service_knows_the_wire_and_the_catalogue_of_the_agent_and_nothing_else() -> None:
    strays = {
        (place(file), name)
        for file in SOURCES
        if file.is_relative_to(ROOT / "api")
        for name in imported(file)
        if name.startswith("wattmill_collector") and name not in COLLECTOR_FOR_API
    }
    assert strays == set()


def test_only_the_store_talks_to_the_database() -> None:
    strays = [
        place(file)
        for file in SOURCES
        if any(name.partition(".")[0] in ("psycopg", "psycopg_pool") for name in imported(file))
        and not place(file).startswith(MAY_USE_PSYCOPG)
    ]
    assert strays == []


def test_only_the_clock_of_the_agent_reads_a_clock() -> None:
    readers = [
        place(file)
        for file in SOURCES
        if file.is_relative_to(ROOT / "collector")
        and re.search(r"\btime\.(time|time_ns|monotonic|monotonic_ns)\(", file.read_text())
    ]
    assert set(readers) <= {"collector/wattmill_collector/clock.py"}


@pytest.mark.parametrize("file", sorted(SQL.glob("*.sql")), ids=lambda file: file.name)
def test_every_statement_is_used(file: Path) -> None:
    """By its name in the store, or by a name that is put together there: `f"{device}_islands"`."""
    code = "\n".join(source.read_text() for source in (ROOT / "api/wattmill_api").rglob("*.py"))
    literals = set(re.findall(r'"(\w+)"', code))
    put_together = {re.sub(r"\{[^}]*\}", "*", text) for text in re.findall(r'f"((?:\w|\{[\w.]+\})+)"', code)}

    def used(name: str) -> bool:
        halves = [(name[: match.start()], name[match.end() :]) for match in re.finditer("_", name)]
        return (
            name in literals
            or any(fnmatch.fnmatch(name, pattern) for pattern in put_together if len(pattern.strip("*_")) > 2)
            or ("*_*" in put_together and any({left, right} <= literals for left, right in halves))
        )

    unused = [name for name in statements(file.stem) if not used(name)]
    assert unused == []


def test_the_walk_of_one_reading_names_files_that_are_there() -> None:
    """`a/b.py` in ARCHITECTURE.md is a file, or the end of exactly one file's path."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    everything = [
        str(path.relative_to(ROOT))
        for folder in ("collector", "analytics", "api", "tests", "docs", "scripts")
        for path in (ROOT / folder).rglob("*")
        if "__pycache__" not in path.parts
    ]
    names = {name for name in re.findall(r"`([\w./-]+)`", text) if re.search(r"\.(py|sql|txt)$|/$", name)}
    missing = [
        name
        for name in names
        if not any(f"/{path}".endswith(f"/{name.rstrip('/')}") for path in everything) and not (ROOT / name).exists()
    ]
    assert [name for name in missing if name not in ("common/", "docs/decisions/")] == []


def test_every_metric_and_setting_is_documented() -> None:
    shown = (ROOT / "docs/metrics.md").read_text()
    missing = [m.name for metrics in METRICS.values() for m in metrics if f"`{m.name}`" not in shown]
    missing += [name for name in Settings.model_fields if f"`{PREFIX}{name.upper()}`" not in shown]
    assert missing == [], "run `make docs`"


def test_the_documents_are_as_generated() -> None:
    made = subprocess.run(
        [sys.executable, str(ROOT / "scripts/metrics-page")],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(str(ROOT / part) for part in ("collector", "analytics", "api"))},
    ).stdout
    assert made == (ROOT / "docs/metrics.md").read_text(), "run `make docs`"


def test_every_link_of_the_documents_leads_somewhere() -> None:
    dead = [
        f"{document.name}: {target}"
        for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text())
        if "://" not in target and not (document.parent / target).exists()
    ]
    assert dead == []


def test_requirements_are_pinned_by_hash_and_name_no_address() -> None:
    for name in ("agent", "service", "dev"):
        text = (ROOT / "requirements" / f"{name}.txt").read_text()
        assert "://" not in text
        assert "--index" not in text
        pins = re.findall(r"^[a-z0-9][^\n]*", text, re.MULTILINE)
        assert all("==" in pin and pin.endswith("\\") for pin in pins)


def test_no_test_folder_is_a_package() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []
