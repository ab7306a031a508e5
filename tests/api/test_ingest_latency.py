"""Histograms on the wire: what fits is stored as sent, what does not is named, one reading at a time."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattmill_api.ingest import parse_line
from wattmill_api.store.ingest import ParsedBatch
from wattmill_collector.catalogue import MAX_BOUNDS, Histogram
from wattmill_collector.wire import (
    Batch,
    EngineReading,
    NodeHeader,
    WireError,
    decode_reading,
    encode_batch,
    encode_reading,
)

GOOD: dict[str, Any] = {"le_us": [10_000, 25_000], "counts": [1, 1, 7]}


def reading(histogram: object) -> dict[str, Any]:
    return {"kind": "engine", "target": "http://e/metrics", "output_tokens": 5, "inter_token_latency": histogram}


@pytest.mark.parametrize(
    ("histogram", "field"),
    [
        ([1, 2], "inter_token_latency"),
        ({}, "inter_token_latency.le_us"),
        ({**GOOD, "le_us": []}, "inter_token_latency.le_us"),
        ({**GOOD, "le_us": [10, 10]}, "inter_token_latency.le_us"),
        ({**GOOD, "le_us": [25, 10]}, "inter_token_latency.le_us"),
        ({**GOOD, "le_us": [-1, 10]}, "inter_token_latency.le_us"),
        ({**GOOD, "le_us": [1.5, 10]}, "inter_token_latency.le_us"),
        ({**GOOD, "le_us": [True, 10]}, "inter_token_latency.le_us"),
        ({"le_us": list(range(MAX_BOUNDS + 1)), "counts": [0] * (MAX_BOUNDS + 2)}, "inter_token_latency.le_us"),
        ({**GOOD, "counts": [1, 2]}, "inter_token_latency.counts"),
        ({**GOOD, "counts": [1, 2, 3, 4]}, "inter_token_latency.counts"),
        ({**GOOD, "counts": [2, 1, 3]}, "inter_token_latency.counts"),
        ({**GOOD, "counts": [-1, 1, 3]}, "inter_token_latency.counts"),
        ({**GOOD, "counts": [1, 1, 2**63]}, "inter_token_latency.counts"),
        ({**GOOD, "counts": [1, 1, None]}, "inter_token_latency.counts"),
        ({**GOOD, "counts": "111"}, "inter_token_latency.counts"),
    ],
)
def test_what_is_no_histogram_is_refused_by_name(histogram: object, field: str) -> None:
    with pytest.raises(WireError) as error:
        decode_reading(reading(histogram), "readings[3]")
    assert error.value.field == f"readings[3].{field}"


@given(
    st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=MAX_BOUNDS, unique=True).map(sorted),
    st.lists(st.integers(0, 2**63 - 1), min_size=MAX_BOUNDS + 1, max_size=MAX_BOUNDS + 1).map(sorted),
)
def test_what_is_encoded_is_decoded(le_us: list[int], counts: list[int]) -> None:
    found = Histogram(tuple(le_us), tuple(counts[: len(le_us) + 1]))
    one = EngineReading(target="http://e/metrics", inter_token_latency=found, time_to_first_token=found)
    assert decode_reading(encode_reading(one)) == one
    now_us = time.time_ns() // 1000
    line = encode_batch(Batch("s", 1, now_us, NodeHeader("n"), [one]))
    parsed = parse_line(line, now_us=now_us, oldest_us=0)
    assert isinstance(parsed, ParsedBatch)
    assert parsed.readings == [(0, one)]


@given(
    st.recursive(
        st.none() | st.integers() | st.floats() | st.text(),
        lambda some: st.lists(some) | st.fixed_dictionaries({"le_us": some, "counts": some}),
    )
)
def test_whatever_stands_in_its_place_is_judged(value: Any) -> None:
    faults = []
    try:
        decode_reading(reading(value))
    except WireError as error:
        faults.append(error.field)
    assert all(field.startswith("reading.inter_token_latency") for field in faults)
