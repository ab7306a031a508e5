"""Whole processes: the service on a real database, the real engine where this machine has one (CI must)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fix_database import required
from support import llama_server as llama
from support.processes import Service


@pytest.fixture
def engine() -> Iterator[llama.LlamaServer]:
    """A real llama-server on a tiny random model."""
    if llama.command() is None and not required("engine"):
        pytest.skip("no llama-server here: run scripts/llama-rootfs as root, or install llama.cpp; CI does")
    with llama.llama_server() as server:
        yield server


@pytest.fixture
def service(tmp_path: Path, database_url: str) -> Iterator[Service]:
    """`wattmill serve` with its jobs, ready."""
    service = Service(tmp_path, database_url)
    service.start().ready()
    yield service
    service.kill()
