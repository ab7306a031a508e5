"""The contract as a document: complete, and kept by the service under schemathesis. Every problem is problem+json."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
import uvicorn
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given
from pydantic import BaseModel
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import positive_data_acceptance

from support.ledger import IDLE_EMPTY, SERVING, Books
from wattmill_api import __version__, auth
from wattmill_api.app import create_app
from wattmill_api.routes import (
    chargeback,
    coverage,
    curves,
    efficiency,
    findings,
    frontier,
    health,
    ingest,
    inventory,
    ledger,
    meters,
    phases,
    prices,
    series,
    suppressions,
    targets,
    webhooks,
)
from wattmill_api.settings import Settings
from wattmill_api.store import keys


def test_the_document_is_complete(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["info"]["version"] == __version__
    seen: set[str] = set()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            place = f"{method} {path}"
            assert operation["operationId"] not in seen, place
            seen.add(operation["operationId"])
            assert operation["tags"], place
            assert operation["summary"], place
            for status, response in operation["responses"].items():
                if status.startswith(("4", "5")):
                    assert list(response["content"]) == ["application/problem+json"], f"{place} {status}"
            for parameter in operation.get("parameters", []):
                assert parameter.get("description") or parameter["in"] == "path", f"{place} {parameter['name']}"
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_every_json_answer_has_an_example_that_fits_its_model(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    models = {
        name: model
        for module in (
            ingest,
            efficiency,
            chargeback,
            frontier,
            ledger,
            meters,
            findings,
            suppressions,
            inventory,
            series,
            coverage,
            prices,
            health,
            phases,
            curves,
            targets,
            webhooks,
        )
        for name, model in vars(module).items()
        if isinstance(model, type) and issubclass(model, BaseModel)
    }
    for operations in document["paths"].values():
        for operation in operations.values():
            content = operation["responses"]["200"]["content"].get("application/json")
            if content is not None:
                model = models[content["schema"]["$ref"].rpartition("/")[2]]
                model.model_validate_json(json.dumps(content["example"]), extra="forbid")


def test_every_problem_is_a_problem_document(client: TestClient) -> None:
    answers = [
        client.get("/nothing"),
        client.get("/api/v1/nothing"),
        client.delete("/api/v1/efficiency"),
        client.get("/api/v1/efficiency/"),
        client.get("/api/v1/efficiency?step=7"),
        client.put("/api/v1/pue", content=b"{", headers={"Content-Type": "application/json"}),
        client.put("/api/v1/pue", content=b"\xff\xfe", headers={"Content-Type": "application/json"}),
        client.put("/api/v1/pue", content=b"[" * 100_000, headers={"Content-Type": "application/json"}),
        client.put("/api/v1/pue", content=bytes(33 * 1024**2), headers={"Content-Type": "application/json"}),
        client.put(
            "/api/v1/pue", content=b'{"pue": 1' + b"0" * 6000 + b"}", headers={"Content-Type": "application/json"}
        ),
        client.put(
            "/api/v1/pue", content=b'{"pue": 1, "site": "\\ud800"}', headers={"Content-Type": "application/json"}
        ),
        client.get("/api/v1/findings/x"),
        client.get("/api/v1/findings/99999999999999999999999"),
        client.get("/api/v1/findings/1", headers={"Accept": "text/html"}),
    ]
    for response in answers:
        assert 400 <= response.status_code < 500, (response.request.url, response.text)
        assert response.headers["content-type"] == "application/problem+json", response.request.url
        document = response.json()
        assert document["status"] == response.status_code
        assert document["detail"]
        assert response.headers["x-content-type-options"] == "nosniff"
    assert [response.status_code for response in answers[:3]] == [404, 404, 405]


def test_a_failure_of_our_own_tells_no_secrets(client: TestClient) -> None:
    def broken() -> None:
        raise RuntimeError("password=hunter2")

    client.app.state.check_ready = broken  # type: ignore[attr-defined]
    response = client.get("/readyz")
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert "hunter2" not in response.text
    assert "Traceback" not in response.text


def test_health_readiness_and_metrics(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok", "version": __version__}
    assert client.get("/readyz").json() == {"status": "ready", "access": "open", "version": __version__}
    assert client.get("/api/v1/sites").status_code == 200
    page = client.get("/metrics").text
    assert 'wattmill_requests_total{method="GET",route="/api/v1/sites",status="200"} 1.0' in page
    assert "wattmill_database_up 1.0" in page
    assert "wattmill_ingest_readings_total 0.0" in page


@pytest.fixture
def address(database_url: str) -> Iterator[str]:
    """The service behind a real socket, for a client that speaks nothing else."""
    config = uvicorn.Config(create_app(Settings(database_url=database_url, jobs=False)), log_level="error", ws="none")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def test_the_service_keeps_its_contract(address: str, books: Books) -> None:
    """Generated requests, valid and not: no 5xx, and every answer matches its schema."""
    node = books.node("gpu-1")
    board = books.board(node, "GPU-a")
    books.spent(node, board, books.placement(node, [board], "chat"), SERVING, 1000, tokens=(3, 2, 1))
    books.spent(node, board, 0, IDLE_EMPTY, 10)
    key = auth.new_key("admin")
    keys.add(books.connection, key_id=key.key_id, sha256=key.sha256, scope=key.scope, name="schemathesis")
    headers = {"Authorization": f"Bearer {key.text}"}
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    for result in schema.get_all_operations():
        assert isinstance(result, Ok)
        if not result.ok().path.endswith("/live"):  # it never ends
            bombard(result.ok(), headers)


def bombard(operation: Any, headers: dict[str, str]) -> None:
    @given(operation.as_strategy())
    @hypothesis.settings(
        max_examples=10,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        derandomize=True,
    )
    def ask(case: Any) -> None:
        # A request may have the right form and still be refused: a range that ends before it begins, a clock of 1970.
        case.call_and_validate(timeout=30, headers=headers, excluded_checks=[positive_data_acceptance])

    ask()
