"""The agent stays light: running it loads nothing of the service, however much is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import wattmill_collector

HEAVY = ("numpy", "numba", "fastapi", "pydantic", "psycopg", "msgspec", "pyarrow", "wattmill_api", "wattmill_analytics")
ONCE = """
import sys
sys.argv = ["wattmill", "agent", "--once"]
from wattmill_collector.cli import main
assert main() == 0
"""
IMPORT = "import sys, wattmill_collector.__main__\n"
DOCTOR = """
import sys
from wattmill_collector.cli import main
assert main(["doctor"]) in (0, 1)
"""


@pytest.mark.parametrize("code", [ONCE, IMPORT, DOCTOR], ids=["once", "import", "doctor"])
def test_nothing_heavy_is_loaded(code: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WATTMILL_")}
    environment |= {
        "PYTHONPATH": str(Path(wattmill_collector.__file__).parents[1]),
        "WATTMILL_SPOOL": str(tmp_path),
        "WATTMILL_LISTEN": "",
    }
    shown = subprocess.run(
        [sys.executable, "-c", code + "print('\\nLOADED', *sys.modules)"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    loaded = set(shown.rpartition("LOADED ")[2].split())
    assert "wattmill_collector.sources.engine" in loaded
    assert [name for name in HEAVY if name in loaded] == []
