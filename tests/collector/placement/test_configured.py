"""Accelerators as an operator writes them."""

from __future__ import annotations

import pytest

from wattmill_collector.placement import Board
from wattmill_collector.placement.configured import configured

BOARDS = (Board("GPU-8932f937-d72c", 0), Board("GPU-8932aaaa-0000", 1), Board("GPU-1111", 3))


@pytest.mark.parametrize(
    ("written", "uuids", "missing"),
    [
        (("0",), ("GPU-8932f937-d72c",), ()),
        (("3", "0"), ("GPU-1111", "GPU-8932f937-d72c"), ()),
        (("2",), (), ("2",)),
        (("GPU-1111",), ("GPU-1111",), ()),
        (("GPU-8932f",), ("GPU-8932f937-d72c",), ()),
        (("GPU-8932",), ("GPU-8932",), ()),  # begins two of them: stands as it is
        (("MIG-5f1c",), ("MIG-5f1c",), ()),  # another source's board
        (("0", "GPU-8932f", "0"), ("GPU-8932f937-d72c",), ()),
        (("99999999999999999999",), (), ("99999999999999999999",)),
    ],
)
def test_written(written: tuple[str, ...], uuids: tuple[str, ...], missing: tuple[str, ...]) -> None:
    assert configured(written, BOARDS) == (uuids, missing)
