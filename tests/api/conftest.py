"""The service in this process, against a real database: `client` answers requests, `books` writes known ledgers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from support.ledger import Books
from wattmill_api.app import create_app
from wattmill_api.settings import Settings


@pytest.fixture
def client(database_url: str) -> Iterator[TestClient]:
    """A client of a service without jobs, open until a key is made. Server errors are answers, not exceptions."""
    app = create_app(Settings(database_url=database_url, jobs=False))
    with TestClient(app, raise_server_exceptions=False) as test_client:
        yield test_client


@pytest.fixture
def books(database_url: str) -> Iterator[Books]:
    """Writes what roll-up would have written."""
    opened = Books(database_url)
    yield opened
    opened.close()
