"""Chargeback: a workload's energy goes to who drew its tokens, to the millijoule, and no token is counted for it."""

from __future__ import annotations

import csv
import dataclasses
import datetime as dt
import io
import random
import re
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from support import site
from support.fake_engine import FakeEngine
from support.mill import START_US, Node
from wattmill_api import accounting, chargeback
from wattmill_api.chargeback import Prices
from wattmill_api.store.gateways import Drawn
from wattmill_api.store.ingest import Interner
from wattmill_collector.sources.gateways import GatewaySource
from wattmill_collector.targets import GatewaySettings
from wattmill_collector.wire import GatewayReading

E, GATEWAY, ROUTER = "http://e:8000/metrics", "http://127.0.0.1:4000/metrics", "http://router:4000/metrics"
MINUTE_US, SECOND_US = 60_000_000, 1_000_000
START = dt.datetime.fromtimestamp(START_US / 1e6, dt.UTC)
WHOLE = {"start": START.isoformat(), "end": (START + dt.timedelta(hours=3)).isoformat()}


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def roll_up(connection: psycopg.Connection[Any]) -> None:
    while accounting.roll_up(connection):
        pass


class Mill:
    """One node with one engine, read every minute, and what a gateway on it shows."""

    def __init__(self, connection: psycopg.Connection[Any], name: str = "n1", **engine: Any) -> None:
        self.connection = connection
        self.node = Node(name, interval_us=MINUTE_US)
        self.node.board(f"GPU-{name}", energy_mj=10**9)
        self.node.engine(E, [f"GPU-{name}"], **{"workload": "chat", "model": "llama", "running": 1, **engine})
        self.shown: dict[tuple[str, ...], list[int | None]] = {}
        self.node.tick(seconds=60, host=self.readings())

    def consumer(self, team: str = "", key: str = "", *, model: str = "llama", target: str = GATEWAY) -> Any:
        """A consumer that the gateway shows from now on: input, cached, output and requests so far."""
        return self.shown.setdefault((target, model, team, key), [0, 0, 0, 0])

    def readings(self) -> list[GatewayReading]:
        return [
            GatewayReading(
                target=target, gateway_kind="litellm", model=model, team=team, api_key=key, epoch=9,
                input_tokens=values[0], cached_input_tokens=values[1], output_tokens=values[2],
                requests_finished=values[3],
            )
            for (target, model, team, key), values in self.shown.items()
        ]  # fmt: skip

    def minute(
        self,
        energy_mj: int,
        engine: tuple[int, int, int] = (0, 0, 0),
        drew: Mapping[Any, tuple[int, ...]] | None = None,
    ) -> None:
        for (team, key), amounts in (drew or {}).items():
            for i, amount in enumerate(amounts):
                self.consumer(team, key)[i] += amount
        board = next(iter(self.node.boards))
        self.node.tick(seconds=60, energy={board: energy_mj}, tokens={E: engine}, host=self.readings())

    def post(self) -> None:
        self.node.post(self.connection, Interner())
        roll_up(self.connection)


def asked(client: TestClient, **parameters: Any) -> dict[str, Any]:
    response = client.get("/api/v1/chargeback", params={**WHOLE, **parameters})
    assert response.status_code == 200, response.text
    return dict(response.json())


def by_group(answer: Mapping[str, Any], *names: str) -> dict[Any, int]:
    return {(row["via"], *(row["group"][name] for name in names)): row["energy_mj"] for row in answer["rows"]}


def minutes(connection: psycopg.Connection[Any], table: str = "gateway_minute") -> list[tuple[Any, ...]]:
    statement = (
        "SELECT (extract(epoch FROM time) * 1000000)::bigint - %s, team, input_tokens, cached_input_tokens,"
        f" output_tokens FROM {table} JOIN gateway_client USING (client_id) ORDER BY 1, 2"
    )
    rows = connection.execute(statement.encode(), [START_US])
    return [(at // MINUTE_US, *rest) for at, *rest in rows]


def test_energy_goes_to_who_drew_and_the_rest_to_nobody(
    connection: psycopg.Connection[Any], client: TestClient
) -> None:
    """Uncached input and output alike: 600 + 200 of search, 100 + 100 of ads, 300 + 100 that no gateway saw."""
    mill = Mill(connection)
    for team in ("search", "ads"):
        mill.consumer(team, "k")
    mill.minute(0)
    mill.minute(700_001, (1400, 400, 400), {("search", "k"): (900, 300, 200, 3), ("ads", "k"): (200, 100, 100, 1)})
    mill.minute(300_000)  # idle: shared alike
    mill.post()
    answer = asked(client)
    assert by_group(answer, "workload", "team") == {
        ("gateway", "chat", "search"): 571_429,  # 1 000 001 x 800 / 1400 = 571 429.14
        ("gateway", "chat", "ads"): 142_857,
        ("direct", "chat", None): 285_715,  # ...714.57, which takes the millijoule that is left
    }
    rows = {row["group"]["team"]: row for row in answer["rows"]}
    assert rows["search"]["tokens"] == {"input": 900, "cached_input": 300, "output": 200}
    assert rows["search"]["requests"] == 3
    assert rows["search"]["share_ratio"] == pytest.approx(800 / 1400)
    assert rows[None]["tokens"] == {"input": 300, "cached_input": None, "output": 100}
    assert {(row["weights"], tuple(row["flags"])) for row in answer["rows"]} == {("tokens", ())}
    assert answer["unmatched"] == []
    [row] = client.get("/api/v1/efficiency", params={**WHOLE, "by": "workload"}).json()["rows"]
    assert sum(each["energy_mj"] for each in answer["rows"]) == row["energy_mj"]
    assert row["tokens"] == {"input": 1400, "cached_input": 400, "output": 400}


def test_a_page_of_litellm_and_engines_make_the_bill(connection: psycopg.Connection[Any], client: TestClient) -> None:
    """From the text of a page to money: 0.04 kWh at 0.20, of which search drew 2000 tokens in 2750."""

    def page(search: int, ads: int) -> bytes:
        return "".join(
            f'litellm_{name}_tokens_metric_total{{team_alias="{team}",model="openai/llama"}} {count}\n'
            for name in ("input", "output")
            for team, count in (("search", search), ("ads", ads))
        ).encode()

    client.put("/api/v1/tariffs", json=[{"site": "*", "valid_from": "2020-01-01T00:00:00Z", "currency": "EUR",
                                         "price_per_kwh": 0.2}])  # fmt: skip
    client.put("/api/v1/carbon", json=[{"site": "*", "valid_from": "2020-01-01T00:00:00Z", "grams_per_kwh": 300}])
    mill = Mill(connection)
    with FakeEngine() as server:
        source = GatewaySource([GatewaySettings(server.url)])
        for search, ads, engine in ((100, 50, 0), (100, 50, 0), (1100, 300, 1250), (2100, 800, 1500)):
            server.body = page(search, ads)
            readings = [r for r in source.read(mill.node.time_us + MINUTE_US) if isinstance(r, GatewayReading)]
            assert len(readings) == 2
            mill.node.tick(seconds=60, energy={"GPU-n1": 36_000_000}, tokens={E: (engine, 0, engine)}, host=readings)
        source.close()
    mill.post()
    answer = asked(client)
    rows = {row["group"]["team"]: row for row in answer["rows"]}
    assert {team: row["energy_mj"] for team, row in rows.items()} == {
        "search": 104_727_273,  # 4 x 36 000 000 x 2000 / 2750 = 104 727 272.7
        "ads": 39_272_727,
    }
    assert rows["search"]["cost"] == {"currency": "EUR", "total": pytest.approx(0.04 * 0.2 * 2000 / 2750)}
    assert rows["ads"]["co2_grams"] == pytest.approx(0.04 * 300 * 750 / 2750)
    [row] = client.get("/api/v1/efficiency", params=WHOLE).json()["rows"]
    assert row["tokens"] == {"input": 2750, "cached_input": 0, "output": 2750}


def test_the_workloads_own_prices_weigh_prefill_and_decode(
    connection: psycopg.Connection[Any], client: TestClient
) -> None:
    mill = Mill(connection)
    for team in ("reads", "writes"):
        mill.consumer(team)
    mill.minute(0)
    mill.minute(1_000_000, (1000, 0, 1000), {("reads", ""): (1000, 0, 0), ("writes", ""): (0, 0, 1000)})
    mill.post()
    connection.execute(
        "INSERT INTO phase_day SELECT %s, 1, 1, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0.1, 0.9, workload_id, 1, 0, 'H100',"
        " '{1,100,300}', '{0.1,0.1,0.1}', '{}' FROM workload",
        [START.replace(hour=0)],
    )
    answer = asked(client)
    assert by_group(answer, "team") == {("gateway", "reads"): 250_000, ("gateway", "writes"): 750_000}
    assert {row["weights"] for row in answer["rows"]} == {"phases"}
    assert {(row["prefill_mj_per_token"], row["decode_mj_per_token"]) for row in answer["rows"]} == {(100, 300)}
    connection.execute("UPDATE phase_day SET time = time - interval '40 days'")
    assert by_group(asked(client), "team") == {("gateway", "reads"): 500_000, ("gateway", "writes"): 500_000}


def test_workloads_without_a_gateway_and_nobodys_energy_are_there(
    connection: psycopg.Connection[Any], client: TestClient
) -> None:
    mill = Mill(connection)
    mill.node.board("GPU-empty", energy_mj=5, processes=0, memory_used_bytes=0)
    mill.minute(0)
    mill.node.tick(seconds=60, energy={"GPU-n1": 600_000, "GPU-empty": 60_000}, tokens={E: (10, 0, 10)})
    mill.post()
    answer = asked(client)
    assert by_group(answer, "workload", "team") == {("direct", "chat", None): 600_000, ("direct", None, None): 60_000}
    assert [row["tokens"]["output"] for row in answer["rows"] if row["group"]["workload"]] == [10]
    assert len(asked(client, workload="chat")["rows"]) == 1
    assert asked(client, workload="other")["rows"] == []


def test_what_more_than_the_engines_computed_says_so(connection: psycopg.Connection[Any], client: TestClient) -> None:
    mill = Mill(connection)
    for team in ("a", "b"):
        mill.consumer(team)
    mill.minute(0)
    mill.minute(900_000, (100, 0, 100), {("a", ""): (200, 0, 200), ("b", ""): (100, 0, 100)})
    mill.post()
    answer = asked(client)
    assert by_group(answer, "team") == {("gateway", "a"): 600_000, ("gateway", "b"): 300_000}
    assert {tuple(row["flags"]) for row in answer["rows"]} == {("gateway_exceeds_engine",)}


def test_by_several_names_steps_and_scopes_it_closes(connection: psycopg.Connection[Any], client: TestClient) -> None:
    chance = random.Random(7)
    mill = Mill(connection)
    names = [(team, f"{team}-{i}") for team in ("search", "ads", "") for i in range(3)]
    for name in names:
        mill.consumer(*name)
    for _ in range(130):
        drew = {name: (n := chance.randrange(50), n // 2, chance.randrange(50)) for name in names}
        engine = tuple(sum(amounts[i] for amounts in drew.values()) + chance.randrange(20) for i in range(3))
        mill.minute(chance.randrange(10**6, 10**7), (engine[0], min(engine[1], engine[0]), engine[2]), drew)
    mill.post()
    client.put("/api/v1/pue", json=[{"site": "*", "valid_from": "2020-01-01T00:00:00Z", "pue": 1.37}])
    for step in (None, "1m", "1h", "1d", "auto"):
        for by in ("team", "api_key", "team,api_key", "agent", "model", "user,provider"):
            for scope in ("accelerator", "node", "facility"):
                parameters = {"by": by, "scope": scope, **({"step": step} if step else {})}
                answer = asked(client, **parameters)
                whole = client.get(
                    "/api/v1/efficiency",
                    params={**WHOLE, "by": "workload", "scope": scope, **({"step": answer["step"]} if step else {})},
                ).json()["rows"]
                sums: dict[Any, int] = {}
                for row in answer["rows"]:
                    key = row["time"], row["group"]["workload"]
                    sums[key] = sums.get(key, 0) + row["energy_mj"]
                assert sums == {(row["time"], row["group"]["workload"]): row["energy_mj"] for row in whole}
                assert set(answer["rows"][0]["group"]) == {"workload", *by.split(",")}
    assert asked(client, step="auto")["step"] == "1h"


def test_minutes_are_increments_and_hours_their_sums(connection: psycopg.Connection[Any]) -> None:
    mill = Mill(connection)
    mill.consumer("search")
    mill.minute(0)
    for n in range(1, 90):
        mill.minute(1000, drew={("search", ""): (n, n // 3, 2 * n, 1)})
    mill.post()
    found = minutes(connection)
    assert found == [(n + 1, "search", n, n // 3, 2 * n) for n in range(1, 90)]
    hours = minutes(connection, "gateway_hour")
    assert [row[0] for row in hours] == [0, 60]
    assert [sum(row[i] for row in hours) for i in (2, 3, 4)] == [sum(row[i] for row in found) for i in (2, 3, 4)]


@pytest.mark.parametrize("seed", range(4))
def test_batches_in_any_order_make_the_same_minutes(connection: psycopg.Connection[Any], seed: int) -> None:
    """A consumer that rests is read every ten minutes only, another one begins late, and the agent begins anew."""
    chance = random.Random(seed)
    mill = Mill(connection)
    busy, resting = mill.consumer("busy"), mill.consumer("resting")
    truth = {"busy": 0, "resting": 0, "new": 0}
    for n in range(1, 45):
        busy[0] += (moved := chance.randrange(9))
        truth["busy"] += moved if n > 1 else 0  # what was there when it was first read is nobody's to date
        if n == 31:
            resting[0] += 700
            truth["resting"] += 700
        readings = [r for r in mill.readings() if r.team != "resting" or n % 10 == 1 or n == 31]
        if n >= 20:
            truth["new"] += 5
            readings.append(
                GatewayReading(
                    target=GATEWAY, model="llama", team="new", epoch=9 if n < 33 else 10,
                    input_tokens=5 * (n - 19 if n < 33 else n - 32),
                    epoch_start_us=mill.node.time_us + 1 if n in (20, 33) else None,
                )
            )  # fmt: skip
        mill.node.tick(seconds=60 if n != 25 else 7260, energy={"GPU-n1": 500}, host=readings)
    batches = list(mill.node.batches)
    chance.shuffle(batches)
    for at in range(0, len(batches), 6):
        mill.node.batches, mill.node._posted = batches[at : at + 6], 0
        mill.post()
    sums: dict[str, int] = {}
    for _, team, amount, *_ in minutes(connection):
        sums[team] = sums.get(team, 0) + (amount or 0)
    # Out of order the agent's word on when an epoch began may come late; what it says is exact all the same.
    assert sums == truth
    hours = minutes(connection, "gateway_hour")
    assert sum(row[2] or 0 for row in hours) == sum(truth.values())


def test_a_glitch_counts_for_nothing_and_a_new_epoch_without_a_start_is_a_baseline(
    connection: psycopg.Connection[Any],
) -> None:
    mill = Mill(connection)
    for value, epoch in ((1000, 1), (1010, 1), (3, 1), (1020, 1), (5000, 2), (5007, 2)):
        reading = GatewayReading(target=GATEWAY, model="llama", team="t", epoch=epoch, input_tokens=value)
        mill.node.tick(seconds=60, host=[reading])
    mill.post()
    assert sum(row[2] for row in minutes(connection)) == 20 + 7


def test_a_counter_that_comes_late_stood_at_zero(connection: psycopg.Connection[Any]) -> None:
    mill = Mill(connection)
    for cached in (None, None, 30, 45):
        reading = GatewayReading(
            target=GATEWAY,
            model="llama",
            team="t",
            epoch=1,
            input_tokens=100 + (cached or 0),
            cached_input_tokens=cached,
        )
        mill.node.tick(seconds=60, host=[reading])
    mill.post()
    assert [row[3] for row in minutes(connection)] == [30, 15]


def test_no_reading_of_a_gateway_touches_the_ledger(connection: psycopg.Connection[Any], client: TestClient) -> None:
    def told(with_gateway: bool, name: str) -> list[Any]:
        mill = Mill(connection, name, workload=name)
        if with_gateway:
            mill.consumer("search")
        for n in range(5):
            mill.minute(1000 + n, (10, 2, 5), {("search", ""): (9, 1, 4)} if with_gateway else None)
        mill.post()
        rows = client.get("/api/v1/ledger", params={**WHOLE, "by": "workload", "workload": name}).json()["rows"]
        return [{key: value for key, value in row.items() if key != "group"} for row in rows]

    assert told(True, "with") == told(False, "without")
    assert connection.execute("SELECT count(*) FROM gateway_minute").fetchone() == (4,)


def test_one_gateway_that_two_agents_read_counts_once(connection: psycopg.Connection[Any], client: TestClient) -> None:
    for name in ("n1", "n2"):
        mill = Mill(connection, name)
        values = mill.consumer("search", target=ROUTER)
        mill.minute(0)
        values[0] += 100
        mill.minute(1000, (150, 0, 0))
        mill.post()
    [search, direct] = asked(client)["rows"]
    assert (search["group"]["team"], search["tokens"]["input"], direct["tokens"]["input"]) == ("search", 100, 200)


def test_a_consumer_whose_names_are_long_is_stored(connection: psycopg.Connection[Any], client: TestClient) -> None:
    mill = Mill(connection)
    for count in (1, 9):
        reading = GatewayReading(
            target=GATEWAY + "x" * 400, model="llama", provider="ü" * 64, team="ä" * 256, api_key="ö" * 256,
            user="é" * 256, agent="ß" * 256, epoch=1, input_tokens=count,
        )  # fmt: skip
        mill.node.tick(seconds=60, energy={"GPU-n1": 100}, host=[reading])
    mill.post()
    assert ("gateway", "ä" * 256) in by_group(asked(client), "team")


def test_the_page_shows_teams_where_there_is_a_gateway(connection: psycopg.Connection[Any], database_url: str) -> None:
    def shown(**filters: str) -> Any:
        with TestClient(site.application(database_url, START + dt.timedelta(hours=1))) as client:
            page = client.get("/", params={"range": "6h", **filters}).text
        card = re.search(r'id="consumers".*?</section>', page, re.DOTALL)
        return card and re.findall(r'<th scope="row">(.*?)</th>.*?Share">(.*?)</td>', card[0], re.DOTALL)

    mill = Mill(connection)
    for team in ("<search>", "ads"):
        mill.consumer(team)
    mill.minute(0)
    mill.post()
    assert shown() is None
    mill.minute(1_000_000, (400, 0, 0), {("<search>", ""): (200, 0, 0), ("ads", ""): (100, 0, 0)})
    mill.post()
    assert (
        shown()
        == shown(workload="chat")
        == [
            ("&lt;search&gt;", "50.0\u202f%"),
            ("ads", "25.0\u202f%"),
            ("direct<small>what no gateway saw</small>", "25.0\u202f%"),
        ]
    )
    assert shown(node="n1") is None


def test_files_have_the_rows_of_the_answer(connection: psycopg.Connection[Any], client: TestClient) -> None:
    mill = Mill(connection)
    mill.consumer("search", "k1")
    mill.minute(0)
    mill.minute(1001, (10, 2, 5), {("search", "k1"): (9, 1, 4, 2)})
    mill.post()
    answer = asked(client, by="team,api_key")
    given_ = {**WHOLE, "by": "team,api_key"}
    text = client.get("/api/v1/chargeback", params={**given_, "format": "csv"}).text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(r["workload"], r["team"], r["api_key"], r["via"], r["energy_mj"], r["requests"]) for r in rows] == [
        ("chat", "search", "k1", "gateway", str(answer["rows"][0]["energy_mj"]), "2"),
        ("chat", "", "", "direct", str(answer["rows"][1]["energy_mj"]), ""),
    ]
    content = client.get("/api/v1/chargeback", params={**given_, "format": "parquet"}).content
    table = pq.read_table(io.BytesIO(content))
    assert table.column("energy_mj").to_pylist() == [row["energy_mj"] for row in answer["rows"]]
    assert table.column("requests").to_pylist() == [2, None]
    assert client.get("/api/v1/chargeback", params={**WHOLE, "by": "site"}).status_code == 422


AT = START


def drawn(model: str = "llama", amount: int = 10, **fields: Any) -> Drawn:
    given_: dict[str, Any] = {
        "bucket": AT, "node_id": 1, "target": GATEWAY, "gateway_kind": "litellm", "model": model, "provider": "",
        "workload": "", "team": "t", "api_key": "", "user": "", "agent": "", "input_tokens": amount,
        "cached_input_tokens": 0, "output_tokens": amount, "requests_finished": None,
    }  # fmt: skip
    return Drawn(**{**given_, **fields})


def row(workload: str | None = "chat", energy_mj: int | None = 1000, tokens: tuple[Any, ...] = (0, 0, 0)) -> Any:
    return {
        "time": AT, "group": {"workload": workload}, "energy_mj": energy_mj, "cost": None, "co2_grams": None,
        "tokens": dict(zip(("input", "cached_input", "output"), tokens, strict=True)), "coverage": 1.0,
        "quality": "measured", "scope": "accelerator", "missing": [], "simulated": False,
    }  # fmt: skip


SERVED = {
    "chat": frozenset({"Qwen/Qwen3-32B"}),
    "batch": frozenset({"meta-llama/Llama-3.1-8B", "lora-a"}),
    "prod": frozenset({"gpt-oss-20b"}),
    "canary": frozenset({"gpt-oss-20b"}),
}


@pytest.mark.parametrize(
    ("item", "found"),
    [
        (drawn("Qwen/Qwen3-32B"), "chat"),
        (drawn("qwen/qwen3-32b"), "chat"),
        (drawn("qwen3-32b"), "chat"),
        (drawn("hosted_vllm/Qwen/Qwen3-32B"), "chat"),
        (drawn("openai/CHAT"), "chat"),
        (drawn("lora-a"), "batch"),
        (drawn("whatever", workload="chat"), "chat"),
        (drawn("gpt-oss-20b", workload="prod"), "prod"),
        (drawn("gpt-oss-20b"), "several workloads serve it (canary, prod): name one under `workloads` of the gateway"),
        (drawn("claude"), "no workload serves this model"),
        (drawn(""), "the gateway does not say which model it was"),
        (drawn("Qwen/Qwen3-32B", provider="Bedrock"), "Bedrock computes it elsewhere"),
        (drawn("Qwen/Qwen3-32B", provider="bedrock", workload="chat"), "chat"),
        (
            drawn("x", workload="gone"),
            "the agent's settings call it workload gone, of which there is no energy in this range",
        ),
        (drawn("lora-a", bucket=AT - dt.timedelta(hours=1)), "no energy of workload batch was measured then"),
    ],
)  # fmt: skip
def test_a_model_finds_its_workload_or_a_reason(item: Drawn, found: str) -> None:
    rows, unmatched = chargeback.split([row(name) for name in SERVED], [item], SERVED, lambda *_: None, ["team"])
    matched = [r["group"]["workload"] for r in rows if r["via"] == "gateway"]
    assert matched + [each["reason"] for each in unmatched] == [found]
    assert sum(r["energy_mj"] for r in rows) == 4000


TOKENS = st.integers(0, 10**7)


@given(
    energy_mj=st.integers(0, 10**15),
    engine=st.tuples(st.none() | TOKENS, st.none() | TOKENS, st.none() | TOKENS),
    drew=st.lists(st.tuples(TOKENS, st.none() | TOKENS, TOKENS), max_size=12),
    prices=st.none() | st.builds(Prices, st.floats(1e-3, 1e5), st.floats(1e-3, 1e5)),
)
def test_whatever_was_drawn_the_parts_are_the_whole(
    energy_mj: int, engine: tuple[int | None, ...], drew: list[tuple[int, int | None, int]], prices: Prices | None
) -> None:
    if engine[0] is not None and engine[1] is not None:
        engine = (engine[0], min(engine[0], engine[1]), engine[2])
    items = [
        drawn(team=f"t{i}", input_tokens=input_, cached_input_tokens=cached, output_tokens=output)
        for i, (input_, cached, output) in enumerate(drew)
    ]
    rows, _ = chargeback.split(
        [row(energy_mj=energy_mj, tokens=engine)], items, {"chat": frozenset({"llama"})}, lambda *_: prices, ["team"]
    )
    assert sum(r["energy_mj"] for r in rows) == energy_mj
    assert all(r["energy_mj"] >= 0 for r in rows)
    assert sum(r["share_ratio"] for r in rows) == pytest.approx(1)
    assert len([r for r in rows if r["via"] == "gateway"]) == len(drew)
    for r in rows:
        assert abs(r["energy_mj"] - r["share_ratio"] * energy_mj) <= 1 + 1e-9 * energy_mj


@pytest.mark.parametrize(
    ("tokens", "cached", "flag", "energies"),
    [
        # Half of the engines' input was cached; the gateway says so itself, not at all, or that none was.
        ((1000, 500, 0), (400, 100), "", {"a": 200, "b": 800}),
        ((1000, 500, 0), (None, None), "cached_input_of_engine", {"a": 600, "b": 400}),
        ((1000, 500, 0), (0, 0), "cached_input_of_engine", {"a": 600, "b": 400}),
        ((1000, 900, 0), (100, 0), "cached_input_of_engine", {"a": 600, "b": 400}),
        ((1000, None, 0), (400, 100), "", {"a": 400, "b": 600}),
        ((1000, None, 0), (None, 100), "cached_input_unknown", {"a": 600, "b": 400}),
        ((None, None, None), (400, 100), "engine_tokens_unknown", {"a": 400, "b": 600}),
    ],
)  # fmt: skip
def test_what_was_cached_weighs_nothing(
    tokens: tuple[Any, ...], cached: tuple[Any, ...], flag: str, energies: dict[str, int]
) -> None:
    items = [
        drawn(team="a", input_tokens=600, cached_input_tokens=cached[0], output_tokens=0),
        drawn(team="b", input_tokens=400, cached_input_tokens=cached[1], output_tokens=0),
    ]
    if tokens[:2] == (1000, 500) and cached == (400, 100):
        items[1] = dataclasses.replace(items[1], cached_input_tokens=0)  # 200 and 400 of 500: more than there was
        items[1] = dataclasses.replace(items[1], input_tokens=500, cached_input_tokens=100)
        energies = {"a": 333, "b": 667}
        tokens = (1100, 500, 0)
    rows, _ = chargeback.split([row(tokens=tokens)], items, {"chat": frozenset({"llama"})}, lambda *_: None, ["team"])
    assert {r["group"]["team"]: r["energy_mj"] for r in rows} == energies
    assert rows[0]["flags"] == ([flag] if flag else [])


def test_off_edge(connection, client):
    mill = Mill(connection)
    c = mill.consumer("search", "k")
    board = next(iter(mill.node.boards))
    mill.minute(1000, (0,0,0))
    for late in (0.5, 3, 7, 1, 0.5, 10, 2):
        c[0] += 630; c[2] += 63; c[3] += 1
        mill.node.tick(seconds=late, energy={board: 10}, tokens={E: (0,0,0)}, host=mill.readings())
        mill.post()
        mill.node.tick(seconds=60-late, energy={board: 1000}, tokens={E: (630,0,63)}, host=[])
        mill.post()
    got = minutes(connection)
    print(got)
    print(sum(r[2] for r in got), sum(r[4] for r in got))
    assert 0
