"""Which of the kernel's power meters is the whole node, and what it says when it says nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from wattmill_collector.sources.addresses import FetchError
from wattmill_collector.sources.chassis import Draw
from wattmill_collector.sources.hwmon import PowerMeter, find_grace, find_power_meter


class Monitors:
    """A fake /sys/class/hwmon."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, number: int, files: dict[str, str], name: str = "power_meter") -> Path:
        chip = self.root / f"hwmon{number}"
        for file, text in {"name": name, **files}.items():
            (chip / file).parent.mkdir(parents=True, exist_ok=True)
            (chip / file).write_text(text + "\n")
        return chip


@pytest.fixture
def monitors(tmp_path: Path) -> Monitors:
    return Monitors(tmp_path)


@pytest.mark.parametrize("file", ["power1_average", "device/power1_average", "power1_input"])
def test_the_acpi_power_meter_is_found_where_drivers_of_any_age_put_it(monitors: Monitors, file: str) -> None:
    chip = monitors.add(2, {file: "350000000"})
    monitors.add(0, {"temp1_input": "45000"}, name="coretemp")
    assert find_power_meter(monitors.root) == ((chip / file).resolve(), "")


def test_a_meter_of_another_driver_is_not_taken_for_the_nodes(monitors: Monitors) -> None:
    monitors.add(0, {"power1_average": "25000000"}, name="amdgpu")
    monitors.add(1, {"energy1_input": "25000000"}, name="xe")
    assert find_power_meter(monitors.root) == (None, "There is no ACPI power meter.")


def test_a_battery_is_no_meter_of_the_node(monitors: Monitors) -> None:
    monitors.add(0, {"power1_average": "1000000", "power1_is_battery": "1"})
    assert find_power_meter(monitors.root)[0] is None


def test_of_two_meters_nobody_says_which_is_the_node(monitors: Monitors) -> None:
    for number in (0, 1):
        monitors.add(number, {"power1_average": "300000000"})
    found, why_not = find_power_meter(monitors.root)
    assert found is None
    assert "2 ACPI power meters" in why_not


def test_beside_graces_meters_no_other_is_the_node(monitors: Monitors) -> None:
    """A Grace machine's meters are those of its modules; which of the others is the node is nowhere said."""
    monitors.add(0, {"device/power1_average": "90000000", "device/power1_oem_info": "Grace Power Socket 0"})
    monitors.add(1, {"device/power1_average": "700000000"})
    assert find_power_meter(monitors.root)[0] is None
    assert [(domain.name, domain.is_counter) for domain in find_grace(monitors.root)] == [("grace-0", False)]


def test_the_power_meter_is_read_in_microwatts(tmp_path: Path) -> None:
    file = tmp_path / "power1_average"
    file.write_text("1234567890\n")
    assert PowerMeter(file).ask() == Draw(1_234_567)


@pytest.mark.parametrize(
    ("text", "reason"), [("0\n", "no_power_reading"), ("\n", "not_understood"), ("-5\n", "not_understood")]
)
def test_a_meter_that_measures_nothing_is_no_zero(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "power1_average"
    file.write_text(text)
    with pytest.raises(FetchError) as caught:
        PowerMeter(file).ask()
    assert caught.value.failure.reason == reason


def test_a_meter_that_can_not_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(FetchError) as caught:
        PowerMeter(tmp_path / "power1_average").ask()
    assert caught.value.failure.reason == "not_found"
    (tmp_path / "power1_average").mkdir()
    with pytest.raises(FetchError) as caught:
        PowerMeter(tmp_path / "power1_average").ask()
    assert caught.value.failure.reason == "read_error"
