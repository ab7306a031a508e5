"""docs/engines.md says what the table of engines says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from wattmill_collector.sources.engine_tables import ENGINE_KINDS

ROOT = Path(__file__).parents[3]


def test_the_page_of_engines_is_as_generated() -> None:
    made = subprocess.run(
        [sys.executable, str(ROOT / "scripts/engines-page")],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT / "collector")},
    ).stdout
    assert made == (ROOT / "docs/engines.md").read_text(), "run `make docs`"


def test_the_page_has_every_kind() -> None:
    shown = (ROOT / "docs/engines.md").read_text()
    assert [kind.name for kind in ENGINE_KINDS if f"\n## {kind.name} (" not in shown] == []
