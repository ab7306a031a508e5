"""How boards are called besides their UUIDs: the numbers of their files, and the slices that are part of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.nvml_standin import NvmlStandin
from wattmill_collector.sources.nvml import NvmlSource

MINOR_NUMBER_FAILS = "identity"


@pytest.fixture
def gpus(tmp_path: Path) -> NvmlStandin:
    return NvmlStandin(tmp_path / "nvml", boards=3, clock_us=1_764_030_001_000_000)


@pytest.fixture
def source(gpus: NvmlStandin) -> Iterator[NvmlSource]:
    one = NvmlSource(str(gpus.library))
    yield one
    one.close()


def test_the_numbers_of_device_files(gpus: NvmlStandin, source: NvmlSource) -> None:
    assert source.minor_numbers() == {board: gpus.uuid(board) for board in range(3)}


def test_a_board_that_does_not_say_its_number_is_left_out(gpus: NvmlStandin, source: NvmlSource) -> None:
    gpus.fail(1, MINOR_NUMBER_FAILS)
    assert source.minor_numbers() == {0: gpus.uuid(0), 2: gpus.uuid(2)}


def test_a_slice_is_part_of_its_board(gpus: NvmlStandin, source: NvmlSource) -> None:
    gpus.set(2, mig_enabled=1)
    assert source.parent_of("MIG-00000002-5717-4000-8000-0123456789ab") == gpus.uuid(2)


@pytest.mark.parametrize("name", ["MIG-00000001-no-slices-here", "MIG-nonsense", "GPU-0", ""])
def test_what_is_no_slice_has_no_board(source: NvmlSource, name: str) -> None:
    assert source.parent_of(name) is None


def test_without_driver_there_are_no_names(source: NvmlSource) -> None:
    source.close()
    assert source.minor_numbers() == {}
    assert source.parent_of("MIG-00000002-1") is None
