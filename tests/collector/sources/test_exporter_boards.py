"""Golden pages of exporters of accelerators: every board once, in milliwatts and millijoules."""

from __future__ import annotations

from pathlib import Path

import pytest

from wattmill_collector.sources.exporters.board_pages import BoardValues
from wattmill_collector.sources.exporters.kinds import named
from wattmill_collector.sources.exporters.pages import ExporterPage

PAGES = Path(__file__).parents[2] / "fixtures" / "exporters"
U0, U1, U2 = (f"GPU-5f2c1a40-1111-2222-3333-00000000000{c}" for c in "abc")
MIB = 1024 * 1024


def read(name: str, kind: str = "auto", *, page: bytes | None = None) -> dict[str, BoardValues]:
    body = (PAGES / f"{name}.prom").read_bytes() if page is None else page
    reader = ExporterPage(named(kind), "n1", Path("/nowhere"))
    reader.scan(body)
    found = [board for _, board in reader.boards()]
    by_uuid = {board.name.uuid: board for board in found}
    assert len(by_uuid) == len(found)
    return by_uuid


def energy_and_power(boards: dict[str, BoardValues]) -> dict[str, tuple[object, object]]:
    return {uuid: (b.values.get("energy_mj"), b.values.get("power_mw")) for uuid, b in boards.items()}


@pytest.mark.parametrize(
    ("page", "boards"),
    [
        ("dcgm", {U0: (9_876_543_210_123, 641_518), U1: (1_234_567_890, 71_934)}),
        ("dcgm_mig_and_pods", {U0: (5_000_000_002, 402_251), U1: (7_000_000_000, 318_500)}),
        ("dcgm_gb200", {U0: (None, 1_033_250), U1: (None, None), U2: (123_456_789, None)}),
        ("nvidia_gpu", {U0: (9_876_543_210_123, 433_210), U1: (1_234_567_890, 71_900)}),
        (
            "amd_device",
            {"amd-n1-692251001234": (12_345_678_901_235, 541_000), "amd-n1-692251009999": (75_000_000_000, 602_000)},
        ),
        ("amd_smi", {"amd-n1-gpu0": (None, 241_000), "amd-n1-gpu1": (None, 41_000)}),
        (
            "gaudi",
            {
                "01P0-HL2080A0-15-TNPS34-20-07-03": (123_456_789_012, 412_345),
                "01P0-HL2080A0-15-TNPS34-20-07-04": (987_654_321, 98_001),
            },
        ),
        ("xpum", {"intel-n1-0000:2a:00.0": (123_456_789, 300_250), "intel-n1-0000:3a:00.0": (4_350, 120_500)}),
        (
            "xpumd",
            {
                "intel-n1-0000:03:00.0": (5_000_000, 180_500),
                "intel-n1-0000:04:00.0": (77_777, 33_334),
                "intel-n1-0000:05:00.0": (30_750, 210_500),
            },
        ),
        (
            "ascend",
            {
                "ascend-n1-185011D4-21104518-A0C4ED94-14CC040A-56102003": (None, 251_300),
                "ascend-n1-0000:01:00.0": (None, 93_800),
            },
        ),
        ("ascend_310p", {"ascend-n1-0000:81:00.0": (None, 72_500), "ascend-n1-0000:82:00.0": (None, 41_200)}),
        (
            "cambricon",
            {
                "MLU-20001012-1916-0000-0000-000000000000": (None, 333_000),
                "MLU-20001012-1917-0000-0000-000000000000": (None, 80_000),
            },
        ),
        ("hygon", {"hygon-n1-0000:09:00.0": (None, 223_500), "hygon-n1-0000:19:00.0": (None, 89_000)}),
        (
            "iluvatar",
            {
                "GPU-fd35cbcb-bb08-4fe5-a4f0-49633e4681f0": (None, 135_000),
                "GPU-1fc82808-c51b-4fa0-979c-582a6e530166": (None, 35_000),
            },
        ),
        ("kepler", {U0: (1_234_567, 33_250)}),
        ("kepler_09", {}),
        ("node", {}),
    ],
)
def test_every_board_of_a_page_is_read_once_to_the_milliwatt_and_the_millijoule(
    page: str, boards: dict[str, tuple[int | None, int | None]]
) -> None:
    assert energy_and_power(read(page)) == boards


def test_what_dcgm_says_besides_is_in_the_units_of_the_wire() -> None:
    board = read("dcgm")[U0]
    assert (board.name.model, board.name.index, board.name.vendor) == ("NVIDIA H100 80GB HBM3", 0, "nvidia")
    assert board.name.driver == "570.133.20"
    assert board.values["utilisation_ratio"] == 0.97
    assert board.values["memory_used_bytes"] == 71_441 * MIB
    assert board.values["memory_total_bytes"] == (9_559 + 71_441 + 559) * MIB
    assert (board.values["sm_clock_mhz"], board.values["memory_clock_mhz"]) == (1980, 2619)
    assert board.values["temperature_celsius"] == 58


def test_a_board_in_slices_has_no_memory_or_utilisation_of_one_of_them() -> None:
    boards = read("dcgm_mig_and_pods")
    assert set(boards[U0].values) == {"energy_mj", "power_mw"}
    assert boards[U1].values["memory_used_bytes"] == 60_000 * MIB  # two pods share this one: the same board twice
    assert boards[U1].values["utilisation_ratio"] == 0.81


def test_a_series_that_stands_twice_on_a_page_is_one_board() -> None:
    """dcgm-exporter writes its pages by hand; without labels of pods their rows are the same."""
    lines = (PAGES / "dcgm.prom").read_text().splitlines()
    page = "\n".join([*lines, *[line for line in lines if line.startswith("DCGM_FI_DEV_POWER_USAGE{")]]) + "\n"
    assert energy_and_power(read("", page=page.encode())) == energy_and_power(read("dcgm"))


def test_blanks_of_dcgm_are_absent_and_a_board_that_shows_nothing_is_said() -> None:
    boards = read("dcgm_gb200")
    assert "temperature_celsius" not in boards[U1].values
    assert "memory_used_bytes" not in boards[U2].values
    assert [reason for reason, _ in boards[U1].faults] == ["no_power"]
    assert boards[U0].faults == boards[U2].faults == ()


@pytest.mark.parametrize(
    ("old", "new"), [("UUID=", "uuid="), ("Hostname=", "hostname="), ("DCGM_FI_DRIVER_VERSION", "x")]
)
def test_labels_of_another_age_name_the_same_boards(old: str, new: str) -> None:
    page = (PAGES / "dcgm.prom").read_text().replace(old, new).encode()
    assert energy_and_power(read("", page=page)) == energy_and_power(read("dcgm"))


def test_the_watts_of_gaudi_are_milliwatts_whatever_the_name_says() -> None:
    lines = (PAGES / "gaudi.prom").read_text().splitlines()
    page = "\n".join(line for line in lines if "power_mW" not in line) + "\n"
    assert "accelerator_power_usage_watts" in page
    assert energy_and_power(read("", page=page.encode())) == energy_and_power(read("gaudi"))


def test_a_value_beyond_what_there_can_be_is_said_and_not_read() -> None:
    page = (PAGES / "hygon.prom").read_text().replace("} 223.5", "} 223500").encode()  # milliwatts under watts' name
    board = read("", page=page)["hygon-n1-0000:09:00.0"]
    assert "power_mw" not in board.values
    assert [reason for reason, _ in board.faults] == ["implausible", "no_power"]


def test_minus_one_is_how_amd_says_that_it_can_not_read_it() -> None:
    assert "power_limit_mw" not in read("amd_smi")["amd-n1-gpu1"].values
    assert read("amd_smi")["amd-n1-gpu0"].values["power_limit_mw"] == 300_000


def test_amd_pages_with_a_prefix_are_the_same_pages() -> None:
    text = (PAGES / "amd_device.prom").read_text()
    page = "\n".join(f"amd_{line}" if line.startswith("gpu_") else line for line in text.splitlines()) + "\n"
    assert energy_and_power(read("", page=page.encode())) == energy_and_power(read("amd_device"))


def test_cards_of_310p_that_nothing_tells_apart_are_not_read() -> None:
    text = (PAGES / "ascend_310p.prom").read_text()
    for bus in ("0000:81:00.0", "0000:82:00.0"):
        text = text.replace(bus, "")
    reader = ExporterPage(named("auto"), "n1", Path("/nowhere"))
    reader.scan(text.encode())
    assert reader.boards() == []
    assert reader.unnamed_boards() == 4


def test_triton_is_read_only_when_it_is_named() -> None:
    page = b'nv_gpu_power_usage{gpu_uuid="%s"} 71.5\nnv_energy_consumption{gpu_uuid="%s"} 12.5\n' % (
        U0.encode(),
        U0.encode(),
    )
    assert read("", page=page) == {}
    assert energy_and_power(read("", "triton", page=page)) == {U0: (12_500, 71_500)}


def test_a_page_of_several_exporters_is_read_as_each_of_them() -> None:
    page = (PAGES / "dcgm.prom").read_bytes() + (PAGES / "gaudi.prom").read_bytes()
    assert energy_and_power(read("", page=page)) == energy_and_power(read("dcgm")) | energy_and_power(read("gaudi"))


def test_values_move_and_boards_come_while_the_page_is_read_again() -> None:
    reader = ExporterPage(named("auto"), "n1", Path("/nowhere"))
    page = (PAGES / "dcgm.prom").read_bytes()
    reader.scan(page)
    reader.scan(page.replace(b"1234567890", b"1234567999"))
    assert [board.values["energy_mj"] for _, board in reader.boards()] == [9_876_543_210_123, 1_234_567_999]
    reader.scan((PAGES / "dcgm_gb200.prom").read_bytes())
    assert [board.name.uuid for _, board in reader.boards()] == [U0, U1, U2]
