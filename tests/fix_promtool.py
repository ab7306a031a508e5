"""Prometheus' own checker, where this machine has it; `WATTMILL_TEST_REQUIRE=promtool` makes its absence a failure."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable

import pytest

from fix_database import required

Promtool = Callable[..., str]
UNPACKED = "/var/tmp/wattmill/promtool"


@pytest.fixture(scope="session")
def promtool() -> Promtool:
    """Runs promtool and returns what it said; its complaint is the failure of the test."""
    found = shutil.which("promtool", path=f"{UNPACKED}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None and not required("promtool"):
        pytest.skip("no promtool here: scripts/promtool unpacks it; CI does")
    assert found is not None, "promtool is required and is not here"
    program: str = found

    def run(*arguments: str, text: str = "") -> str:
        done = subprocess.run([program, *arguments], input=text, capture_output=True, text=True, timeout=120)
        said = done.stdout + done.stderr
        assert done.returncode == 0, f"promtool {' '.join(arguments)}:\n{said[-4000:]}"
        return said

    return run
