"""The host's energy domains, read from a fake machine: which are read, which are refused, and why."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from wattmill_collector.errors import NotHere
from wattmill_collector.sources.host import HostSource, boot_time_us
from wattmill_collector.sources.hwmon import grace_domains
from wattmill_collector.sources.rapl import rapl_domain
from wattmill_collector.wire import AbsenceReading, HostReading, Reading

T0 = 1_732_492_800_000_000
SECOND = 1_000_000
MINUTE = 60 * SECOND
RANGE_UJ = 262_143_328_850


class Machine:
    """A fake root with /proc and /sys; files a test forbids answer as they do to an unprivileged agent."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.forbidden: set[Path] = set()
        self.write("proc/sys/kernel/random/boot_id", "8d503bfb-cef4-45c6-82ef-5089d1f2310c")
        self.write("proc/stat", "cpu  1 2 3\nbtime 1732400000\nprocesses 7")

    def write(self, path: str, text: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
        return file

    def zone(self, zone: str, name: str, energy_uj: int, range_uj: int | None = RANGE_UJ) -> Path:
        directory = f"sys/class/powercap/{zone}"
        self.write(f"{directory}/name", name)
        if range_uj is not None:
            self.write(f"{directory}/max_energy_range_uj", str(range_uj))
        return self.write(f"{directory}/energy_uj", str(energy_uj))

    def meter(self, number: int, label: str, power_uw: int) -> Path:
        self.write(f"sys/class/hwmon/hwmon{number}/device/power1_oem_info", label)
        return self.write(f"sys/class/hwmon/hwmon{number}/device/power1_average", str(power_uw))

    def source(self) -> HostSource:
        def opener(path: Path, flags: int) -> int:
            if path in self.forbidden:
                raise PermissionError(13, "Permission denied", str(path))
            return os.open(path, flags)

        return HostSource(self.root, opener=opener)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def domains(readings: list[Reading]) -> dict[str, int | None]:
    return {r.domain: r.energy_uj for r in readings if isinstance(r, HostReading)}


def absences(readings: list[Reading]) -> list[tuple[str, str]]:
    return [(r.id, r.reason) for r in readings if isinstance(r, AbsenceReading)]


def test_a_two_socket_server_has_packages_and_their_dram_and_nothing_that_overlaps(machine: Machine) -> None:
    for socket in (0, 1):
        machine.zone(f"intel-rapl:{socket}", f"package-{socket}", 1000 + socket)
        machine.zone(f"intel-rapl:{socket}:0", "core", 400)
        machine.zone(f"intel-rapl:{socket}:1", "uncore", 50)
        machine.zone(f"intel-rapl:{socket}:2", "dram", 200 + socket)
    machine.zone("intel-rapl:2", "psys", 5000)
    machine.zone("intel-rapl-mmio:0", "package-0", 1000)
    source = machine.source()
    assert domains(source.read(T0)) == {"package-0": 1000, "dram-0": 200, "package-1": 1001, "dram-1": 201}
    source.close()


def test_a_package_that_two_drivers_show_is_one_package(machine: Machine) -> None:
    machine.zone("intel-rapl:0", "package-0", 1000)
    machine.zone("intel-rapl:1", "package-0", 2000)
    source = machine.source()
    assert [r.energy_uj for r in source.read(T0) if isinstance(r, HostReading)] == [1000]
    source.close()


def test_the_counter_is_read_anew_at_every_tick_and_carries_its_range_and_boot(machine: Machine) -> None:
    counter = machine.zone("intel-rapl:0", "package-0", 100)
    source = machine.source()
    first = source.read(T0)[0]
    counter.write_text("50000100\n")
    second = source.read(T0 + SECOND)[0]
    assert isinstance(first, HostReading)
    assert isinstance(second, HostReading)
    assert (first.energy_uj, second.energy_uj) == (100, 50_000_100)  # 50 J in one second: 50 W
    assert second.energy_range_uj == RANGE_UJ
    assert second.epoch_start_us == 1_732_400_000_000_000
    assert second.epoch == first.epoch != 0
    source.close()


def test_an_epoch_survives_the_agent_but_not_the_boot(machine: Machine) -> None:
    machine.zone("intel-rapl:0", "package-0", 1)
    machine.zone("intel-rapl:1", "package-1", 1)

    def epochs() -> list[int]:
        source = machine.source()
        readings = source.read(T0)
        source.close()
        return [r.epoch for r in readings if isinstance(r, HostReading)]

    before, again = epochs(), epochs()
    machine.write("proc/sys/kernel/random/boot_id", "00000000-0000-4000-8000-000000000001")
    after = epochs()
    assert before == again
    assert len({*before, *after}) == 4


def test_a_forbidden_counter_is_named_once_a_minute_with_the_way_out(machine: Machine) -> None:
    machine.zone("intel-rapl:0", "package-0", 7)
    forbidden = machine.zone("intel-rapl:1", "package-1", 8)
    machine.forbidden.add(forbidden)
    source = machine.source()
    said = [absences(source.read(T0 + i * 10 * SECOND)) for i in range(13)]
    assert [i for i, absent in enumerate(said) if absent] == [0, 6, 12]
    assert said[0] == [("package-1", "permission_denied")]
    (absence,) = (r for r in source.read(T0 + 3 * MINUTE) if isinstance(r, AbsenceReading))
    assert str(forbidden) in absence.detail
    assert "tmpfiles.d" in absence.detail
    assert domains(source.read(T0 + 3 * MINUTE)) == {"package-0": 7}
    source.close()


def test_a_counter_is_read_within_a_minute_once_it_is_allowed(machine: Machine) -> None:
    counter = machine.zone("intel-rapl:0", "package-0", 7)
    machine.forbidden.add(counter)
    source = machine.source()
    assert domains(source.read(T0)) == {}
    machine.forbidden.clear()
    assert domains(source.read(T0 + MINUTE)) == {"package-0": 7}
    source.close()


@pytest.mark.parametrize("range_uj", [None, 0])
def test_a_counter_whose_wrap_is_unknown_is_refused(machine: Machine, range_uj: int | None) -> None:
    machine.zone("intel-rapl:0", "package-0", 7, range_uj)
    source = machine.source()
    assert source.read(T0)[0] == AbsenceReading(
        subject="host",
        id="package-0",
        reason="no_range",
        detail=f"{machine.root}/sys/class/powercap/intel-rapl:0 does not say where its counter wraps.",
    )
    source.close()


def test_a_counter_that_holds_no_number_is_an_absence_and_not_a_zero(machine: Machine) -> None:
    counter = machine.zone("intel-rapl:0", "package-0", 7)
    source = machine.source()
    counter.write_text("\n")
    assert absences(source.read(T0)) == [("package-0", "not_understood")]
    counter.write_text("9\n")
    assert domains(source.read(T0 + SECOND)) == {"package-0": 9}
    counter.write_text("\n")
    assert absences(source.read(T0 + 2 * SECOND)) == [("package-0", "not_understood")]
    source.close()


def test_grace_is_its_whole_socket_and_never_the_module_with_the_gpu_in_it(machine: Machine) -> None:
    for number, label in enumerate(["Module", "Grace", "CPU", "SysIO"]):
        machine.meter(number, f"{label} Power Socket 0", 100_000_000 * (number + 1))
    source = machine.source()
    assert source.read(T0) == [HostReading(domain="grace-0", source="hwmon", power_mw=200_000)]
    source.close()


def test_a_host_without_meters_is_not_here(machine: Machine) -> None:
    with pytest.raises(NotHere, match="no RAPL zones"):
        machine.source()


def test_a_module_meter_alone_is_no_meter_of_the_host(machine: Machine) -> None:
    """Its joules are partly the board's own: added to them they would be counted twice."""
    machine.meter(0, "Module Power Socket 0", 1)
    with pytest.raises(NotHere, match="contains its GPU"):
        machine.source()


def test_readings_say_where_they_come_from(machine: Machine) -> None:
    machine.zone("intel-rapl:0", "package-0", 7)
    source = machine.source()
    assert [r.source for r in source.read(T0) if isinstance(r, HostReading)] == ["rapl"]
    source.close()


def test_amd_energy_is_its_sockets_without_the_cores_inside_them(machine: Machine) -> None:
    """Its driver keeps 64 bits, so there is no range; two sockets and four cores of 10 J each."""
    chip = "sys/class/hwmon/hwmon3"
    machine.write(f"{chip}/name", "amd_energy")
    for number, label in enumerate(["Ecore000", "Ecore001", "Ecore002", "Ecore003", "Esocket0", "Esocket1"], 1):
        machine.write(f"{chip}/energy{number}_label", label)
        machine.write(f"{chip}/energy{number}_input", "20000000" if "socket" in label else "10000000")
    source = machine.source()
    readings = [r for r in source.read(T0) if isinstance(r, HostReading)]
    assert [(r.domain, r.energy_uj, r.energy_range_uj, r.source) for r in readings] == [
        ("package-0", 20_000_000, None, "hwmon"),
        ("package-1", 20_000_000, None, "hwmon"),
    ]
    assert all(r.epoch for r in readings)
    source.close()


def test_the_acpi_power_meter_of_a_server_is_the_whole_node_beside_its_packages(machine: Machine) -> None:
    """642.5 W at the supplies, read by a thread that the source waits for at first; the package's joules lie inside."""
    machine.zone("intel-rapl:0", "package-0", 7)
    machine.write("sys/class/hwmon/hwmon5/name", "power_meter")
    machine.write("sys/class/hwmon/hwmon5/device/power1_average", "642500000")
    source = HostSource(machine.root, patience_us=10 * SECOND)
    found = {r.domain: (r.source, r.power_mw, r.energy_uj) for r in source.read(T0) if isinstance(r, HostReading)}
    assert found == {"package-0": ("rapl", None, 7), "chassis": ("hwmon", 642_500, None)}
    source.close()


def test_an_acpi_power_meter_is_enough_for_a_host_without_rapl(machine: Machine) -> None:
    machine.write("sys/class/hwmon/hwmon0/name", "power_meter")
    machine.write("sys/class/hwmon/hwmon0/power1_average", "100000000")
    source = HostSource(machine.root, patience_us=10 * SECOND)
    assert source.read(T0) == [HostReading(domain="chassis", source="hwmon", power_mw=100_000)]
    source.close()


@pytest.mark.parametrize(
    ("zone", "name", "parent_name", "domain"),
    [
        ("intel-rapl:0", "package-0", "", "package-0"),
        ("intel-rapl:3", "package-1-die-1", "", "package-1-die-1"),
        ("intel-rapl:3:0", "dram", "package-1-die-1", "dram-1-die-1"),
        ("intel-rapl:0:0", "core", "package-0", None),
        ("intel-rapl:0:1", "uncore", "package-0", None),
        ("intel-rapl:1", "psys", "", None),
        ("intel-rapl:1:0", "dram", "psys", None),
        ("intel-rapl-mmio:0", "package-0", "", None),
        ("intel-rapl:0", "", "", None),
    ],
)
def test_rapl_domain(zone: str, name: str, parent_name: str, domain: str | None) -> None:
    assert rapl_domain(zone, name, parent_name) == domain


def test_grace_domains_fall_back_to_disjoint_parts_of_each_socket() -> None:
    labels = ["Grace Power Socket 0", "CPU Power Socket 0", "CPU Power Socket 1", "SysIO Power Socket 1", "PSU"]
    assert grace_domains(labels) == {
        "Grace Power Socket 0": "grace-0",
        "CPU Power Socket 1": "cpu-1",
        "SysIO Power Socket 1": "sysio-1",
    }


def test_boot_time_is_unknown_where_proc_does_not_say(tmp_path: Path) -> None:
    assert boot_time_us(tmp_path / "stat") is None


def test_where_only_the_hosts_sys_is_mounted_the_kernel_is_known_all_the_same(tmp_path: Path) -> None:
    """In a container runtimes mask powercap, so the host's /sys is mounted elsewhere; /proc is of the same kernel."""
    machine = Machine(tmp_path)
    shutil.rmtree(tmp_path / "proc")
    machine.zone("intel-rapl:0", "package-0", 100)
    source = machine.source()
    (reading,) = source.read(T0)
    assert isinstance(reading, HostReading)
    assert reading.energy_uj == 100
    assert reading.epoch != 0
    assert reading.epoch_start_us == boot_time_us(Path("/proc/stat"))
    source.close()
