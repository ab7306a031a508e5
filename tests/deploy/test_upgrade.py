"""One version apart: what earlier agents sent is stored, what earlier services answered is understood, schemas move on
while readings come in.

`tests/fixtures/wire/v1` holds what released versions put on the wire. A file there is never changed, only added: one
for every version whose agents or services may still run.
"""

from __future__ import annotations

import datetime as dt
import json
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fastapi.testclient import TestClient

from support import postgres as servers
from support.batches import encode, lines_of
from support.fake_clock import FakeClock
from support.faulty_disk import FaultyDisk
from support.postgres import Postgres
from wattmill_api import migrate
from wattmill_api.app import create_app
from wattmill_api.settings import Settings
from wattmill_collector import wire
from wattmill_collector.answers import Verdict, judge
from wattmill_collector.shipper import Shipper
from wattmill_collector.spool import Spool
from wattmill_collector.transport import Answer

WIRE = Path(__file__).resolve().parents[1] / "fixtures/wire/v1"
AGENTS = sorted(WIRE.glob("agent-*.ndjson"))
ANSWERS = sorted(WIRE.glob("answer-*.json"))


def lines(file: Path) -> list[bytes]:
    return file.read_bytes().splitlines()


@pytest.fixture
def client(database_url: str) -> Iterator[TestClient]:
    """A service that keeps samples for so long that what is frozen here is not too old."""
    app = create_app(Settings(database_url=database_url, jobs=False, retain_samples_days=3650))
    with TestClient(app, raise_server_exceptions=False) as test_client:
        yield test_client


def post(client: TestClient, body: bytes) -> tuple[int, list[dict[str, Any]]]:
    answer = client.post("/api/v1/ingest", content=body, headers={"Content-Type": "application/x-ndjson"})
    return answer.status_code, answer.json()["receipts"]


# ---- an older agent, a newer service


@pytest.mark.parametrize("file", AGENTS, ids=lambda file: file.stem)
def test_every_reading_of_an_earlier_agent_is_stored(file: Path, client: TestClient) -> None:
    status, receipts = post(client, file.read_bytes())
    assert status == 200
    assert [receipt["rejected"] for receipt in receipts] == [[]] * len(receipts)
    assert [receipt["stored"] for receipt in receipts] == [len(json.loads(line)["readings"]) for line in lines(file)]


@pytest.mark.parametrize("file", AGENTS, ids=lambda file: file.stem)
def test_no_field_of_an_earlier_agent_has_lost_its_meaning(file: Path) -> None:
    for line in lines(file):
        for reading in json.loads(line)["readings"]:
            again = wire.encode_reading(wire.decode_reading(reading))
            assert json.loads(json.dumps(again)) == reading


def test_what_is_frozen_holds_every_kind() -> None:
    kinds = {reading["kind"] for line in lines(WIRE / "agent-0.1.0.ndjson") for reading in json.loads(line)["readings"]}
    assert kinds == {"accelerator", "engine", "host", "absence"}


# ---- a newer agent, an older service


def test_what_a_newer_agent_says_beside_what_is_known_is_ignored(client: TestClient) -> None:
    documents = [json.loads(line) for line in lines(WIRE / "agent-0.1.0.ndjson")]
    known = sum(len(document["readings"]) for document in documents)
    for document in documents:
        document["sent_by"] = {"newer": True}
        document["node"]["cooling"] = "liquid"
        for reading in document["readings"]:
            reading["tokens_of_thought"] = [1, 2, 3]
        document["readings"].append({"kind": "rack", "energy_mj": 1})
    status, receipts = post(client, b"\n".join(json.dumps(document).encode() for document in documents))
    assert status == 200
    assert sum(receipt["stored"] for receipt in receipts) == known
    # A kind that this service does not know is said to be so, alone: the agent goes on.
    assert [[r["field"].rpartition(".")[2] for r in receipt["rejected"]] for receipt in receipts] == [["kind"]] * 3


# ---- a newer agent, an earlier service; an older agent, a newer service


@pytest.mark.parametrize("file", ANSWERS, ids=lambda file: file.stem)
def test_todays_answer_says_all_that_an_earlier_one_said(file: Path, client: TestClient) -> None:
    _, receipts = post(client, (WIRE / f"{file.stem.replace('answer', 'agent')}.ndjson").read_bytes())
    earlier = json.loads(file.read_bytes())["receipts"]
    assert len(receipts) == len(earlier)
    for today, then in zip(receipts, earlier, strict=True):
        assert {name: today.get(name) for name in then} == then


@pytest.mark.parametrize("file", ANSWERS, ids=lambda file: file.stem)
def test_the_answer_of_an_earlier_service_is_understood(file: Path) -> None:
    verdict, receipts = judge(Answer(200, {"content-type": "application/json"}, file.read_bytes()))
    assert verdict is Verdict.RECEIPTS
    sent = lines(WIRE / f"{file.stem.replace('answer', 'agent')}.ndjson")
    assert [receipt.sha256 for receipt in receipts] == [wire.body_hash(line) for line in sent]
    assert [receipt.status for receipt in receipts] == ["stored"] * len(sent)


@pytest.mark.parametrize("file", ANSWERS, ids=lambda file: file.stem)
@pytest.mark.parametrize(
    "more", [{}, {"billed_to": "search", "rejected": [], "trace": {"id": 1}}], ids=["as it was", "newer"]
)
def test_receipts_in_the_shape_of_an_earlier_or_newer_service_empty_the_spool(file: Path, more: dict[str, Any]) -> None:
    shape = json.loads(file.read_bytes())["receipts"][0]

    class Service:
        def post(self, body: bytes, headers: Mapping[str, str]) -> Answer:
            receipts = []
            for line in lines_of(body, dict(headers)):
                batch = json.loads(line)
                own = {"stream": batch["stream"], "sequence": batch["sequence"], "sha256": wire.body_hash(line)}
                receipts.append({**shape, "committed_through": batch["sequence"], **more, **own})
            body = json.dumps({"receipts": receipts, **more}).encode()
            return Answer(200, {"content-type": "application/json"}, body)

    clock = FakeClock()
    spool = Spool.open(Path("/spool"), clock=clock, disk=FaultyDisk(), host="a")
    for number in range(5):
        spool.append(encode(number))
    shipper = Shipper(spool, Service(), clock, random=random.Random(3))
    shipper.step()
    assert spool.pending()[0] == 0
    assert shipper.stats().batches_acknowledged == 5


# ---- schemas


@pytest.fixture
def empty(each_postgres: Postgres) -> Iterator[str]:
    name = servers.create_database(each_postgres)
    yield each_postgres.url(name)
    servers.drop_database(each_postgres, name)


# What the first version wrote, word for word: a later schema must go on taking it.
DEVICES = """
    WITH site AS (INSERT INTO site (name) VALUES ('default') RETURNING site_id),
    node AS (INSERT INTO node (site_id, name, interval_us, first_seen, last_seen)
        SELECT site_id, 'busy', 10000000, now(), now() FROM site RETURNING node_id),
    stream AS (INSERT INTO stream (name, node_id) SELECT 's', node_id FROM node RETURNING stream_id),
    board AS (INSERT INTO accelerator (uuid, node_id, first_seen, last_seen)
        SELECT 'GPU-a', node_id, now(), now() FROM node RETURNING accelerator_id),
    engine AS (INSERT INTO engine (node_id, target, series, first_seen, last_seen)
        SELECT node_id, 'http://e/metrics', '', now(), now() FROM node RETURNING engine_id),
    workload AS (INSERT INTO workload (name, model, team) VALUES ('chat', '', '') RETURNING workload_id),
    placement AS (INSERT INTO placement (engine_id, workload_id, accelerator_ids, method, since, until)
        SELECT engine_id, workload_id, ARRAY[accelerator_id], 'process', now(), now() FROM engine, workload, board
        RETURNING placement_id)
    SELECT stream_id, node_id, accelerator_id, engine_id, placement_id FROM stream, node, board, engine, placement
"""
BOARD = "COPY accelerator_sample (time, accelerator_id, node_id, energy_mj, epoch) FROM STDIN"
ENGINE = "COPY engine_sample (time, engine_id, node_id, placement_id, epoch, output_tokens) FROM STDIN"


def writing(url: str, stop: threading.Event, told: Callable[[int], object], failures: list[BaseException]) -> None:
    """Store a tick of one board and one engine at a time, as the first version did, until told to stop."""
    stored, time = 0, dt.datetime(2026, 3, 2, tzinfo=dt.UTC)
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            row = connection.execute(DEVICES).fetchone()
            assert row is not None
            stream, node, board, engine, placement = row
            while not stop.is_set():
                at = time + dt.timedelta(seconds=10 * stored)
                with connection.transaction():
                    connection.execute(
                        "INSERT INTO batch_ledger (stream_id, first_sequence, sequence, sha256, stored, duplicates)"
                        " VALUES (%s, %s, %s, 'x', 2, 0)",
                        (stream, stored + 1, stored + 1),
                    )
                    with connection.cursor() as cursor:
                        with cursor.copy(BOARD) as copy:
                            copy.write_row((at, board, node, 1_000 * (stored + 1), 7))
                        with cursor.copy(ENGINE) as copy:
                            copy.write_row((at, engine, node, placement, 9, 5 * (stored + 1)))
                    connection.execute(
                        "INSERT INTO dirty_span (node_id, first_time, last_time) VALUES (%s, %s, %s)", (node, at, at)
                    )
                stored += 1
                told(stored)
    except BaseException as error:
        failures.append(error)


def test_from_every_earlier_schema_while_readings_come_in_nothing_is_refused_or_lost(empty: str) -> None:
    files = migrate.migrations()
    migrate.migrate(empty, files[:2])
    stop, failures, counts = threading.Event(), list[BaseException](), list[int]()
    moved = threading.Condition()

    def told(count: int) -> None:
        with moved:
            counts.append(count)
            moved.notify_all()

    def more_were_stored() -> None:
        """Between two steps readings came in, else the steps proved nothing."""
        with moved:
            before = len(counts)
            assert moved.wait_for(lambda: len(counts) > before + 3 or bool(failures), 60)

    writer = threading.Thread(target=writing, args=(empty, stop, told, failures))
    writer.start()
    try:
        for number in range(2, len(files) + 1):
            more_were_stored()
            migrate.migrate(empty, files[:number])
        more_were_stored()
    finally:
        stop.set()
        writer.join(60)
    assert failures == []
    assert migrate.current(empty)
    with psycopg.connect(empty) as connection:
        found = connection.execute(
            "SELECT (SELECT count(*) FROM accelerator_sample), (SELECT max(energy_mj) FROM accelerator_sample),"
            " (SELECT count(*) FROM engine_sample), (SELECT max(output_tokens) FROM engine_sample)"
        ).fetchone()
    last = counts[-1]
    assert found == (last, last * 1_000, last, last * 5)
