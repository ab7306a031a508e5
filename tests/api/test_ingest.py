"""POST /ingest: good readings are stored, bad ones named; content never causes a 5xx."""

from __future__ import annotations

import gzip
import hashlib
import json
import time
import zlib
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from support.ledger import Books
from wattmill_api.errors import TooLarge, Undecodable
from wattmill_api.ingest import Limits, decode_json, inflate, parse_line, parse_post
from wattmill_api.store.ingest import ParsedBatch
from wattmill_collector.wire import Receipt

NDJSON = {"Content-Type": "application/x-ndjson"}


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda some: st.lists(some) | st.dictionaries(st.text(), some),
    max_leaves=20,
)


def board(uuid: str = "GPU-a", **more: Any) -> dict[str, Any]:
    return {"kind": "accelerator", "uuid": uuid, "energy_mj": 1000, "epoch": 7, **more}


def line(sequence: int = 1, *readings: Any, **more: Any) -> bytes:
    document = {
        "wattmill": 1,
        "stream": "s1",
        "sequence": sequence,
        "time_us": time.time_ns() // 10_000_000_000 * 10_000_000 + sequence,
        "node": {"name": "gpu-1", "site": "ams1", "interval_us": 10_000_000},
        "readings": list(readings) or [board()],
        **more,
    }
    return json.dumps(document).encode()


def post(client: TestClient, body: bytes, **headers: str) -> Any:
    return client.post("/api/v1/ingest", content=body, headers={**NDJSON, **headers})


def test_a_line_is_answered_with_its_receipt(client: TestClient, books: Books) -> None:
    body = line()
    response = post(client, body)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {
        "receipts": [
            {
                "stream": "s1",
                "sequence": 1,
                "sha256": hashlib.sha256(body).hexdigest(),
                "status": "stored",
                "stored": 1,
                "duplicates": 0,
                "rejected": [],
                "committed_through": 1,
            }
        ]
    }
    assert books.one("SELECT energy_mj FROM accelerator_sample") == 1000


def test_gzip_members_one_behind_the_other_are_lines(client: TestClient, books: Books) -> None:
    body = b"".join(gzip.compress(line(n) + b"\n") for n in (1, 2, 3))
    receipts = post(client, body, **{"Content-Encoding": "gzip"}).json()["receipts"]
    assert [(r["sequence"], r["status"]) for r in receipts] == [(1, "stored"), (2, "stored"), (3, "stored")]
    assert receipts[2]["committed_through"] == 3
    assert books.one("SELECT count(*) FROM accelerator_sample") == 3


def test_a_pretty_printed_object_is_one_batch(client: TestClient) -> None:
    body = json.dumps(json.loads(line()), indent=2).encode()
    response = client.post("/api/v1/ingest", content=body, headers={"Content-Type": "application/json"})
    assert [r["status"] for r in response.json()["receipts"]] == ["stored"]


def test_a_repeat_gets_the_same_receipt_and_another_body_is_a_conflict(client: TestClient, books: Books) -> None:
    first = line(1)
    assert post(client, first).status_code == 200
    again = post(client, first)
    assert again.status_code == 200
    assert (again.json()["receipts"][0]["status"], again.json()["receipts"][0]["stored"]) == ("duplicate", 1)
    other = post(client, line(1, board(energy_mj=5)))
    assert other.status_code == 409
    assert other.headers["content-type"] == "application/problem+json"
    assert other.json()["receipts"][0]["status"] == "conflict"
    assert other.json()["errors"][0]["field"] == "sequence"
    assert books.one("SELECT count(*) FROM accelerator_sample") == 1


def test_bad_readings_are_named_one_by_one_and_the_good_ones_stored(client: TestClient, books: Books) -> None:
    body = line(
        1,
        board("GPU-a"),
        board("GPU-b", energy_mj=-1),
        board("GPU-c", utilisation_ratio=1.5),
        board(""),
        {"kind": "toaster"},
        board("GPU-\x00"),
        board("GPU-\ud800"),
        17,
        board("GPU-z", energy_mj=2**64),
        board("GPU-ok", energy_mj=2**63 - 1),
    )
    response = post(client, body)
    assert response.status_code == 200
    [receipt] = response.json()["receipts"]
    assert (receipt["status"], receipt["stored"]) == ("stored", 2)
    assert [(r["index"], r["field"]) for r in receipt["rejected"]] == [
        (1, "readings[1].energy_mj"),
        (2, "readings[2].utilisation_ratio"),
        (3, "readings[3].uuid"),
        (4, "readings[4].kind"),
        (5, "readings[5].uuid"),
        (6, "readings[6].uuid"),
        (7, "readings[7]"),
        (8, "readings[8].energy_mj"),
    ]
    assert books.one("SELECT count(*) FROM accelerator_sample") == 2
    assert post(client, body).json()["receipts"][0]["rejected"] == receipt["rejected"]


def test_parts_of_boards_say_of_which(client: TestClient, books: Books) -> None:
    def engine(target: str, *shares: int) -> dict[str, Any]:
        boards = ["GPU-a", "GPU-b"]
        return {
            "kind": "engine",
            "target": target,
            "accelerators": boards,
            "accelerator_shares_ppm": list(shares),
            "epoch": 0,
        }

    [receipt] = post(
        client, line(1, engine("http://a", 500_000), engine("http://b", 500_000, 1), engine("http://c"))
    ).json()["receipts"]
    assert [(r["index"], r["field"]) for r in receipt["rejected"]] == [(0, "readings[0].accelerator_shares_ppm")]
    assert receipt["stored"] == 2
    assert books.one("SELECT array_agg(shares_ppm::text ORDER BY shares_ppm) FROM placement") == ["{}", "{500000,1}"]


BAD_TOKENS: list[tuple[bytes, str, str]] = [
    (b'"energy_mj": NaN', "energy_mj", "NaN"),
    (b'"energy_mj": Infinity', "energy_mj", "Infinity"),
    (b'"utilisation_ratio": -Infinity', "utilisation_ratio", "-Infinity"),
    (b'"energy_mj": ' + b"9" * 41, "energy_mj", ""),
    (b'"energy_mj": ' + b"9" * 5000, "energy_mj", "at most 64 bits"),
    (b'"energy_mj": -' + b"9" * 5000, "energy_mj", "at most 64 bits"),
    (b'"utilisation_ratio": 1e400', "utilisation_ratio", "larger"),
    (b'"energy_mj": 1, "uuid": "GPU-z"', "uuid", "twice"),
    (b'"energy_mj": 1, "\\u0075uid": "GPU-z"', "uuid", "twice"),
    (b'"energy_mj": ' + b"[" * 300 + b"]" * 300, "energy_mj", "integer"),
    (b'"energy_mj": {"a": 1, "a": 2}', "energy_mj", "twice"),
    (b'"of_tomorrow": [[NaN]]', "of_tomorrow", "NaN"),
]


def test_one_bad_token_refuses_one_reading(client: TestClient, books: Books) -> None:
    for sequence, (token, field, reason) in enumerate(BAD_TOKENS, 1):
        readings = [board("GPU-a"), {"kind": "accelerator", "uuid": "GPU-b", "here": 0}, board("GPU-c")]
        body = line(sequence, *readings).replace(b'"here": 0', token)
        [receipt] = post(client, body).json()["receipts"]
        assert (receipt["status"], receipt["stored"]) == ("stored", 2), token[:40]
        assert [(r["index"], r["field"]) for r in receipt["rejected"]] == [(1, f"readings[1].{field}")], token[:40]
        assert reason in receipt["rejected"][0]["reason"], token[:40]
        assert receipt["committed_through"] == sequence
    assert books.one("SELECT count(*) FROM accelerator_sample") == 2 * len(BAD_TOKENS)


def test_a_refused_header_keeps_its_identity_unless_that_is_what_is_wrong(client: TestClient) -> None:
    [receipt] = post(client, line(3, x=1).replace(b'"x": 1', b'"x": NaN')).json()["receipts"]
    assert (receipt["stream"], receipt["sequence"]) == ("s1", 3)
    [receipt] = post(client, line(3).replace(b'"sequence": 3', b'"sequence": 3, "sequence": 4')).json()["receipts"]
    assert (receipt["stream"], receipt["sequence"]) == ("s1", 0)


def test_a_bad_line_does_not_fail_its_neighbours(client: TestClient) -> None:
    response = post(client, b"\n".join([line(1), b'{"wattmill": 1}', b"nonsense", line(2)]))
    assert response.status_code == 200
    assert [r["status"] for r in response.json()["receipts"]] == ["stored", "rejected", "rejected", "stored"]


def test_a_clock_that_is_wrong_is_told_so(client: TestClient) -> None:
    now_us = time.time_ns() // 1000
    for sequence, (time_us, part) in enumerate(
        ((now_us + 6 * 60_000_000, "future"), (now_us - 31 * 86_400_000_000, "older"))
    ):
        response = post(client, line(sequence + 1, time_us=time_us))
        assert response.status_code == 422
        assert response.json()["errors"][0]["field"] == "time_us"
        assert part in response.json()["errors"][0]["reason"]
        # Refused, and accounted for: the stream does not wait for it.
        assert response.json()["receipts"][0]["committed_through"] == sequence + 1


def test_a_refused_line_still_says_how_far_its_stream_is(client: TestClient) -> None:
    assert post(client, line(1)).status_code == 200
    refused = post(client, line(2, node={"name": ""}))
    assert refused.status_code == 422
    assert refused.json()["receipts"][0]["committed_through"] == 1


HOSTILE: list[tuple[str, bytes, str]] = [
    ("not JSON", b"hello", "batch"),
    ("not UTF-8", b'{"wattmill": 1, "stream": "\xff"}', "batch"),
    ("NaN", line(readings=[]).replace(b'"readings": []', b'"readings": [NaN]'), "readings[0]"),
    ("Infinity", line(sequence=1, x=1).replace(b'"x": 1', b'"x": -Infinity'), "x"),
    ("5000 digits", line(x=1).replace(b'"x": 1', b'"x": ' + b"9" * 5000), "x"),
    ("1e400 in the node", line(node={"name": "n", "x": [[1]]}).replace(b"[[1]]", b"[[1e400]]"), "node.x"),
    ("a sequence of 41 digits", line(sequence=10**40), "sequence"),
    ("a sequence that is NaN", line().replace(b'"sequence": 1', b'"sequence": NaN'), "sequence"),
    ("deep arrays", b"[" * 100_000, "batch"),
    ("deep objects", b'{"a":' * 100_000, "batch"),
    ("deep and closed", line(x=1).replace(b'"x": 1', b'"x": ' + b"[" * 50_000 + b"]" * 50_000), "batch"),
    ("duplicate key", line().replace(b'"sequence": 1', b'"sequence": 1, "sequence": 2'), "sequence"),
    ("duplicate key in a reading", line(2).replace(b'"epoch": 7', b'"epoch": 7, "epoch": 8'), "readings[0].epoch"),
    ("readings given twice", line().replace(b'"readings"', b'"readings": [], "readings"'), "readings"),
    ("a site given twice", line().replace(b'"site"', b'"site": "a", "site"'), "node.site"),
    (
        "a label given twice",
        line(node={"name": "n", "labels": {"a": "x"}}).replace(b'"a"', b'"a": "y", "a"'),
        "node.labels",
    ),
    ("a NUL in the stream", line(stream="a\x00b"), "stream"),
    ("half a surrogate pair", line(stream="\ud800"), "stream"),
    ("half a pair in a label", line(node={"name": "n", "labels": {"\udfff": "x"}}), "node.labels"),
    ("a NUL in a label", line(node={"name": "n", "labels": {"a": "\x00"}}), "node.labels.a"),
    ("sequence 0", line(0), "sequence"),
    ("sequence past 64 bits", line(2**63), "sequence"),
    ("a boolean sequence", line(sequence=True), "sequence"),
    ("no node", line(node=None), "node"),
    ("too many labels", line(node={"name": "n", "labels": {str(i): "" for i in range(41)}}), "node.labels"),
    ("another version", line(wattmill=2), "wattmill"),
    ("an array", b"[1]", "batch"),
    ("null", b"null", "batch"),
    ("readings as an object", line(readings={}), "readings"),
    ("the year 1970", line(time_us=0), "time_us"),
    ("a name of a kilobyte", line(node={"name": "n" * 1024}), "node.name"),
]


def test_whatever_is_sent_is_refused_by_name(client: TestClient) -> None:
    for name, body, field in HOSTILE:
        response = post(client, body)
        assert response.status_code == 422, (name, response.text)
        document = response.json()
        assert document["errors"][0]["field"] == field, name
        assert [r["status"] for r in document["receipts"]] == ["rejected"], name
    assert post(client, line(9)).status_code == 200


def test_the_body_as_a_whole(client: TestClient) -> None:
    zipped = {"Content-Encoding": "gzip"}
    bomb = gzip.compress(bytes(40 * 1024**2))
    assert post(client, b"").status_code == 400
    assert post(client, b"\n \n").status_code == 400
    assert post(client, b"not gzip", **zipped).status_code == 400
    assert post(client, gzip.compress(line())[:-9], **zipped).status_code == 400
    assert post(client, gzip.compress(line()) + b"tail", **zipped).status_code == 400
    assert post(client, bomb, **zipped).status_code == 413
    assert post(client, bytes(4 * 1024**2 + 1), **zipped).status_code == 413
    assert post(client, line(), **{"Content-Encoding": "br"}).status_code == 415
    assert post(client, line(), **{"Content-Type": "text/html"}).status_code == 415
    many = b"\n".join(line(n, *[board(f"GPU-{i}") for i in range(4000)]) for n in (1, 2, 3))
    response = post(client, many)
    assert response.status_code == 413
    assert response.json()["errors"][0]["field"] == "readings"
    assert response.headers["content-type"] == "application/problem+json"
    assert post(client, b"").headers["content-type"] == "application/problem+json"


def test_a_database_that_is_away_is_a_reason_to_come_back(client: TestClient) -> None:
    client.app.state.database.close()  # type: ignore[attr-defined]
    response = post(client, line())
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    assert client.get("/readyz").status_code == 503
    assert client.get("/healthz").status_code == 200


def test_inflating_stops_at_the_limit() -> None:
    limits = Limits(inflated_bytes=1000, ratio_from_bytes=10**9)
    assert inflate(gzip.compress(b"a" * 1000), limits) == b"a" * 1000
    with pytest.raises(TooLarge):
        inflate(gzip.compress(b"a" * 1001), limits)
    with pytest.raises(TooLarge):
        inflate(gzip.compress(b"a" * 600) * 2, limits)
    with pytest.raises(TooLarge):
        inflate(gzip.compress(bytes(100_000)), Limits(ratio_from_bytes=1000, ratio=100))


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(body: bytes) -> None:
    for gzipped in (False, True):
        try:
            post_ = parse_post(body, gzipped=gzipped, now_us=10**16, oldest_us=0)
        except Undecodable:
            continue
        assert all(isinstance(part, Receipt) for part in post_.lines)


@given(st.lists(st.binary(max_size=300), max_size=5), st.integers(1, 9))
def test_members_inflate_to_what_was_deflated(parts: list[bytes], level: int) -> None:
    assert inflate(b"".join(gzip.compress(part, level) for part in parts)) == b"".join(parts)


@given(ANYTHING)
def test_any_value_in_any_place_is_judged(value: Any) -> None:
    good = json.loads(line())
    for place in good:
        outcome = parse_line(json.dumps({**good, place: value}).encode(), now_us=10**16, oldest_us=0)
        assert isinstance(outcome, ParsedBatch | Receipt)
    for place in ("uuid", "energy_mj", "utilisation_ratio", "temperature_celsius", "kind"):
        outcome = parse_line(
            json.dumps({**good, "readings": [board(**{place: value})]}).encode(), now_us=10**16, oldest_us=0
        )
        assert isinstance(outcome, ParsedBatch | Receipt)


def test_zlib_without_a_gzip_header_is_not_gzip() -> None:
    with pytest.raises(Undecodable):
        inflate(zlib.compress(b"x"))


@given(
    st.dictionaries(
        st.text(), st.lists(st.dictionaries(st.text(), st.text() | st.integers(-(2**63), 2**63))), max_size=3
    )
)
def test_a_key_given_twice_is_found_whatever_the_texts_hold(document: dict[str, Any]) -> None:
    for ascii_ in (True, False):
        text = json.dumps(document, ensure_ascii=ascii_)
        assert decode_json(text.encode()) == (document, [])
        for key in document:
            for colon in (":", " :", "\t\n :"):
                twice = f"{json.dumps(key, ensure_ascii=ascii_)}{colon} 1"
                _, faults = decode_json(f"{{{twice}, {text[1:]}".encode())
                assert [(fault.index, "twice" in fault.reason) for fault in faults] == [(-1, True)]
