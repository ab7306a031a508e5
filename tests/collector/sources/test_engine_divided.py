"""Finished requests that know no rank: the ranks' parts add up to their count, and none of them ever falls."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wattmill_collector.sources.engine_divided import Cell
from wattmill_collector.sources.engine_pages import EnginePage
from wattmill_collector.sources.engine_tables import named

TICK_US = 1_000_000
FIELDS: tuple[str, ...] = ("output_tokens", "requests_finished")


def page_of(ranks: dict[str, int], finished: int | str) -> bytes:
    """Decoded tokens of each rank; requests of all of them."""
    lines = [
        f'sglang:realtime_tokens_total{{mode="decode",dp_rank="{rank}",model_name="m"}} {tokens}'
        for rank, tokens in ranks.items()
    ]
    return "\n".join([*lines, f'sglang:num_requests_total{{model_name="m"}} {finished}', ""]).encode()


@dataclasses.dataclass
class Service:
    """What counts the readings: differences within an epoch, from zero where one begins in sight."""

    total: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(FIELDS, 0))
    last: dict[str, tuple[int | None, dict[str, int]]] = dataclasses.field(default_factory=dict)
    read_us: int = -1

    def read(self, reader: EnginePage, time_us: int) -> dict[str, dict[str, int]]:
        shown = {}
        for engine in reader.values(time_us):
            now = {field: value for field in FIELDS if isinstance(value := engine.values[field], int)}
            assert set(now) == set(FIELDS)
            epoch, before = self.last.get(engine.series, (None, None))
            if before is None or epoch != engine.since_us:
                assert self.read_us < 0 or (engine.since_us is not None and engine.since_us <= time_us)
                before = dict.fromkeys(FIELDS, 0)
            for field, value in now.items():
                assert value >= before[field]
                self.total[field] += value - before[field]
            self.last[engine.series] = engine.since_us, now
            shown[engine.series.rpartition("=")[2]] = now
        self.read_us = time_us
        return shown


@given(st.integers(0, 10**12), st.integers(1, 64))
def test_parts_are_whole_add_up_and_never_fall(total: int, of: int) -> None:
    cells = [Cell("requests_finished", nth, of) for nth in range(of)]
    parts = [cell.share(total) for cell in cells]
    assert sum(parts) == total
    assert max(parts) - min(parts) <= 1
    risen = [cell.share(total + 1) - part for cell, part in zip(cells, parts, strict=True)]
    assert sorted(risen) == [0] * (of - 1) + [1]


def test_every_request_gives_its_first_token_to_one_rank() -> None:
    reader, service = EnginePage(named("sglang")), Service()
    reader.scan(page_of({"0": 100, "1": 50, "2": 10}, 8))
    assert service.read(reader, TICK_US) == {
        "0": {"output_tokens": 103, "requests_finished": 3},
        "1": {"output_tokens": 53, "requests_finished": 3},
        "2": {"output_tokens": 12, "requests_finished": 2},
    }


def test_ranks_go_by_their_number() -> None:
    reader, service = EnginePage(named("sglang")), Service()
    reader.scan(page_of({str(rank): 0 for rank in range(11)}, 3))
    finished = {rank: now["requests_finished"] for rank, now in service.read(reader, TICK_US).items()}
    assert [rank for rank, n in finished.items() if n] == ["0", "1", "2"]


def test_a_rank_that_shows_up_later_gets_nothing_of_what_was_finished_before() -> None:
    reader, service = EnginePage(named("sglang")), Service()
    reader.scan(page_of({"0": 100}, 10))
    assert service.read(reader, TICK_US) == {"0": {"output_tokens": 110, "requests_finished": 10}}
    reader.scan(page_of({"0": 120, "1": 7}, 13))
    assert service.read(reader, 2 * TICK_US) == {
        "0": {"output_tokens": 20 + 2, "requests_finished": 2},
        "1": {"output_tokens": 7 + 1, "requests_finished": 1},
    }
    assert {since for since, _ in service.last.values()} == {TICK_US + 1}
    reader.scan(page_of({"0": 120, "1": 9}, 14))  # and goes on so
    service.read(reader, 3 * TICK_US)
    assert service.total == {"output_tokens": 129 + 14, "requests_finished": 14}


def test_a_counter_that_is_there_before_any_rank_is_counted_once() -> None:
    reader, service = EnginePage(named("sglang")), Service()
    reader.scan(page_of({}, 4))
    (engine,) = reader.values(0)
    assert engine.values["requests_finished"] == 4
    reader.scan(page_of({"0": 5, "1": 6}, 7))
    shown = service.read(reader, TICK_US)
    assert [now["requests_finished"] for now in shown.values()] == [2, 1]
    assert {since for since, _ in service.last.values()} == {1}


def test_all_ranks_begin_again_when_one_has_to() -> None:
    """A part of rank 1 vanishes: its sum alone would lie, but the parts of what is divided must go on adding up."""
    row = 'sglang:realtime_tokens_total{{mode="decode",dp_rank="{}",model_name="m",host="{}"}} {}\n'
    reader, service = EnginePage(named("sglang")), Service()
    for tick, (hosts, finished) in enumerate((("ab", 5), ("a", 6), ("a", 9))):
        page = row.format("0", "a", 10) + "".join(row.format("1", host, 20) for host in hosts)
        reader.scan(page.encode() + f'sglang:num_requests_total{{model_name="m"}} {finished}\n'.encode())
        service.read(reader, tick * TICK_US)
    assert {since for since, _ in service.last.values()} == {1}
    assert service.total["requests_finished"] == 9


def test_what_cannot_be_read_is_no_ranks_and_caught_up_with() -> None:
    reader, service = EnginePage(named("sglang")), Service()
    reader.scan(page_of({"0": 1, "1": 1}, 4))
    service.read(reader, 0)
    reader.scan(page_of({"0": 1, "1": 1}, "NaN"))
    for engine in reader.values(TICK_US):
        assert [engine.values[field] for field in FIELDS] == [None, None]
        assert set(engine.faults) == {(field, "not_a_number") for field in FIELDS}
    reader.scan(page_of({"0": 1, "1": 1}, 7))
    service.read(reader, 2 * TICK_US)
    assert service.total == {"output_tokens": 9, "requests_finished": 7}


@pytest.mark.parametrize("name", ["vllm:request_success_total", "vllm:generation_tokens_total"])
def test_only_what_the_table_says_is_divided(name: str) -> None:
    reader = EnginePage(named("vllm"))
    rows = [f'vllm:prompt_tokens_total{{engine="{rank}",model_name="m"}} 5\n' for rank in (0, 1)]
    reader.scan(("".join(rows) + f'{name}{{model_name="m"}} 8\n').encode())
    assert [set(engine.values) for engine in reader.values(1)] == [{"input_tokens"}] * 2


@given(
    st.lists(
        st.tuples(st.sets(st.sampled_from(["0", "1", "2", "10"]), min_size=1), st.integers(0, 9), st.integers(0, 9)),
        min_size=1,
        max_size=12,
    )
)
@settings(max_examples=300, deadline=None)
def test_ranks_may_come_and_go_and_every_request_counts_once(ticks: list[tuple[set[str], int, int]]) -> None:
    """What a rank decodes while it is off the page is seen when it comes back."""
    reader, service = EnginePage(named("sglang")), Service()
    decoded: dict[str, int] = dict.fromkeys(("0", "1", "2", "10"), 0)
    seen = dict(decoded)
    finished = 0
    for tick, (shown, tokens, requests) in enumerate(ticks):
        finished += requests
        for rank in shown:
            decoded[rank] += tokens
            seen[rank] = decoded[rank]
        reader.scan(page_of({rank: decoded[rank] for rank in sorted(shown)}, finished))
        service.read(reader, tick * TICK_US)
        assert service.total["requests_finished"] == finished
        assert service.total["output_tokens"] == sum(seen.values()) + finished
