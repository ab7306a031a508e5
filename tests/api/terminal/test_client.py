"""What goes wrong on the way to a service, as one sentence and an exit status."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.processes import free_port
from wattmill_api import auth
from wattmill_api.settings import Settings
from wattmill_api.store import keys
from wattmill_api.store.database import Database
from wattmill_api.terminal import report, top
from wattmill_api.terminal.client import FAILED, USELESS, Failure, Server

Stub = Callable[[Callable[[str], tuple[int, str, Any]]], contextlib.AbstractContextManager[str]]
VERBS = pytest.mark.parametrize(
    ("verb", "words"), [(top.main, ["--once"]), (report.main, ["--start", "2026-03-02"])], ids=["top", "report"]
)


@VERBS
def test_a_service_that_is_away(verb: Any, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    assert verb([*words, "--server", address], {}) == 1
    out, told = capsys.readouterr()
    assert out == ""
    assert told.count("\n") == 1
    assert f"{address} does not answer (Connection refused)" in told


@pytest.mark.parametrize(
    ("answer", "status", "told"),
    [
        ((200, "text/html", "<h1>Welcome"), FAILED, "not as a Wattmill service"),
        ((200, "application/json", '{"rows": [NaN]}'), FAILED, "not as a Wattmill service"),
        ((200, "application/json", "[]"), FAILED, "not as a Wattmill service"),
        ((200, "application/json", "[" * 100_000), FAILED, "not as a Wattmill service"),
        ((302, "text/html", ""), FAILED, "status 302"),
        ((422, "application/problem+json", {"detail": "start: is odd"}), USELESS, "start: is odd"),
        ((503, "application/problem+json", {"detail": "later"}), FAILED, "later"),
        ((401, "application/problem+json", {"detail": "no"}), USELESS, "--key-file"),
    ],
)
def test_answers_that_are_none(stub: Stub, answer: tuple[int, str, Any], status: int, told: str) -> None:
    with stub(lambda _path: answer) as address:
        server = Server(address)
        with pytest.raises(Failure, match=told) as failed:
            server.get("/sites")
        server.close()
    assert failed.value.status == status


@VERBS
def test_an_answer_of_another_shape_is_a_sentence(
    verb: Any, words: list[str], stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    with stub(lambda _path: (200, "application/json", {"rows": [{"x": 1}]})) as address:
        assert verb([*words, "--server", address], {}) == 1
    assert "not as a Wattmill service" in capsys.readouterr().err


@VERBS
def test_a_hostile_problem_does_not_reach_the_terminal(
    verb: Any, words: list[str], stub: Stub, hostile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with stub(lambda _path: (500, "application/problem+json", {"detail": hostile})) as address:
        assert verb([*words, "--server", address], {}) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.strip().isprintable()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "wattmill:8080",
        "ftp://x",
        "http://",
        "http://x:port",
        "http://user:s3cret@x",
        "http://x/?a",
        "http://x\x1b[1m",
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(Failure, match="--server") as failed:
        Server(url)
    assert failed.value.status == USELESS
    assert "s3cret" not in str(failed.value)


def test_a_path_before_the_api_is_kept(stub: Stub) -> None:
    asked: list[str] = []

    def answer(path: str) -> tuple[int, str, Any]:
        asked.append(path)
        return 200, "application/json", {"rows": []}

    with stub(answer) as address:
        server = Server(f"{address}/mill/")
        server.get("/findings", {"state": "a b", "limit": 3})
        server.close()
    assert asked == ["/mill/api/v1/findings?state=a+b&limit=3"]


def test_keys(address: str, database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database = Database(Settings(database_url=database_url, jobs=False))
    database.open()
    made = auth.new_key("read")
    with database.writing() as connection:
        keys.add(connection, key_id=made.key_id, sha256=made.sha256, scope=made.scope, name="t")
    database.close()
    file = tmp_path / "key"
    file.write_text(made.text + "\n")
    words = ["--once", "--json"]

    assert top.main(words, {"WATTMILL_SERVER": address}) == 2
    assert "--key-file" in capsys.readouterr().err
    for environ in ({"WATTMILL_KEY": made.text}, {"WATTMILL_KEY_FILE": str(file)}):
        assert top.main(words, {"WATTMILL_SERVER": address, **environ}) == 0
    wrong = {"WATTMILL_KEY": "wm_read_wrong_wrong"}
    assert top.main([*words, "--server", address], wrong) == 2
    assert top.main([*words, "--server", address, "--key-file", str(file)], wrong) == 0
    capsys.readouterr()
    file.write_text("\n")
    assert top.main([*words, "--server", address, "--key-file", str(file)], {}) == 2
    assert "is empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verb", "words", "named"),
    [
        (top.main, ["--interval", "0s"], "--interval"),
        (top.main, ["--interval", "soon"], "--interval"),
        (top.main, ["--window", "8d"], "--window"),
        (top.main, ["--sort", "size"], "--sort"),
        (top.main, ["--key-file", "/nowhere/key"], "/nowhere/key"),
        (report.main, [], "--start"),
        (report.main, ["--start", "1", "--format", "pdf"], "--format"),
    ],
)
def test_options_that_are_wrong(verb: Any, words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert verb(words, {}) == 2
    assert named in capsys.readouterr().err
