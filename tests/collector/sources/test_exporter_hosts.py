"""Golden pages of exporters of hosts: domains that never overlap, to the microjoule; and where their counters wrap."""

from __future__ import annotations

from pathlib import Path

import pytest

from wattmill_collector.sources.epochs import epoch_of
from wattmill_collector.sources.exporters.host_domains import family_of
from wattmill_collector.sources.exporters.kinds import named
from wattmill_collector.sources.exporters.pages import ExporterPage, WrapGuess
from wattmill_collector.wire import HostReading

PAGES = Path(__file__).parents[2] / "fixtures" / "exporters"
SECOND_US = 1_000_000
INTEL_UJ = 262_143_328_850
AMD_UJ = 65_532_610_987


def read(page: bytes, root: Path = Path("/nowhere"), boot_id: str = "", *, is_local: bool = False) -> list[HostReading]:
    reader = ExporterPage(named("auto"), "n1", root)
    reader.scan(page)
    return [reading for _, reading in reader.domains(boot_id, 0, is_local=is_local)]


def golden(name: str) -> list[HostReading]:
    return read((PAGES / f"{name}.prom").read_bytes())


@pytest.mark.parametrize(
    ("page", "domains"),
    [
        (
            "node",
            {
                "package-0": (240_111_122_233, None),
                "package-1": (130_222_333_444, None),
                "dram-0": (24_333_444_555, None),
                "dram-1": (64_444_555_666, None),
            },
        ),
        (
            "node_zone_label",
            {
                "package-0-die-0": (1_000_000_001, None),
                "package-0-die-1": (2_000_000_002, None),
                "dram-0-die-1": (30_500_000, None),
            },
        ),
        ("node_grace", {"grace-0": (None, 212_750)}),
        (
            "node_amd_energy",
            {
                "package-0": (9_876_543_210_000, None),
                "package-1": (1_234_567_000_001, None),
                "chassis": (None, 1_422_000),
            },
        ),
        (
            "ceems",
            {
                "package-0": (258_111_222_333, None),
                "package-1": (130_222_333_444, None),
                "dram-0": (24_333_444_555, None),
                "dram-1": (64_444_555_666, None),
                "chassis": (1_333_444_555_000_000, 871_000),
            },
        ),
        ("kepler", {"package-0": (100_000_500_000, 88_500), "dram-0": (5_000_000_001, None)}),
        (
            "kepler_09",
            {"package-0": (300_375_000, None), "package-1": (3_000_000, None), "dram-0": (20_750_000, None)},
        ),
        ("amd_smi", {"package-0": (750_123_456_789, 182_345), "package-1": (None, 91_000)}),
        ("ipmi", {"chassis": (None, 1_372_000)}),
        ("ipmi_sensors", {"chassis": (None, 732_000 + 716_000)}),
        ("redfish", {"chassis": (None, 5_120_000)}),
        ("idrac", {"chassis": (None, 812_000 + 796_500)}),
        ("dcgm", {}),
    ],
)
def test_domains_of_a_page_do_not_overlap_and_are_exact(
    page: str, domains: dict[str, tuple[int | None, int | None]]
) -> None:
    found = golden(page)
    assert {r.domain: (r.energy_uj, r.power_mw) for r in found} == domains
    assert len(found) == len(domains)


def test_without_a_chassis_figure_redfish_is_the_sum_of_the_supplies() -> None:
    lines = (PAGES / "redfish.prom").read_text().splitlines()
    page = "\n".join(line for line in lines if "average_consumed" not in line) + "\n"
    assert [(r.domain, r.power_mw) for r in read(page.encode())] == [("chassis", 2_600_000 + 2_570_000)]


@pytest.mark.parametrize(
    ("sensors", "power_mw"),
    [
        ({"Pwr Consumption": 490, "PS1 Input Power": 250, "PS2 Input Power": 245}, 490_000),
        ({"Total_Power": 2010, "CPU_Power": 600, "PSU1_PIN": 1000}, 2_010_000),
        ({"Sys Power": 700, "CPU Power": 300, "Mem Power": 40}, 700_000),
        ({"System Power": 0, "PSU1_PIN": 1000, "PSU2_PIN": 990, "PSU1_POUT": 950}, 1_990_000),
        ({"PS1 Power In": 132, "PS2 Power In": 160}, 292_000),
        ({"Power": 800, "Power1": 410, "Power2": 390}, 800_000),
        ({"Power Meter": 388}, 388_000),
        ({"GPU1 Power": 300, "CPU1 Power": 120, "PSU1 Power Out": 500}, None),
    ],
)
def test_power_sensors_of_ipmi_are_chosen_by_name_totals_first(sensors: dict[str, int], power_mw: int | None) -> None:
    rows = [f'ipmi_power_watts{{id="{i}",name="{name}"}} {watts}' for i, (name, watts) in enumerate(sensors.items())]
    found = read(("\n".join(rows) + "\n").encode())
    assert [r.power_mw for r in found] == ([] if power_mw is None else [power_mw])


def test_a_model_of_kepler_is_no_measurement() -> None:
    page = (PAGES / "kepler_09.prom").read_text().replace("rapl-sysfs", "estimator").encode()
    assert read(page) == []


def powercap(root: Path, **ranges_uj: int) -> Path:
    for zone, range_uj in ranges_uj.items():
        folder = root / "sys/class/powercap" / zone.replace("_", "-").replace("z", ":")
        folder.mkdir(parents=True)
        (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
        (folder / "name").write_text("package-0\n" if zone.count("z") == 1 else "dram\n")
    return root


def test_this_hosts_kernel_tells_everybody_where_a_counter_wraps(tmp_path: Path) -> None:
    root = powercap(tmp_path, intel_raplz0=AMD_UJ, intel_raplz0z1=65_712_999_613)
    page = (PAGES / "node.prom").read_bytes()
    here = {r.domain: r.energy_range_uj for r in read(page, root, "boot", is_local=True)}
    assert here == {"package-0": AMD_UJ, "dram-0": 65_712_999_613, "package-1": INTEL_UJ, "dram-1": None}
    elsewhere = {r.domain: r.energy_range_uj for r in read(page, root, "", is_local=False)}
    assert elsewhere["package-0"] == INTEL_UJ


def test_a_counter_of_rapl_has_the_epoch_that_the_agents_own_reading_of_it_has(tmp_path: Path) -> None:
    page = (PAGES / "node.prom").read_bytes()
    here = {r.domain: r.epoch for r in read(page, tmp_path, "8d503bfb", is_local=True)}
    assert here["package-1"] == epoch_of("8d503bfb", "package-1")
    elsewhere = {r.domain: r.epoch for r in read(page, tmp_path)}
    rebooted = {r.domain: r.epoch for r in read(page.replace(b"1.7321e+09", b"1.7322e+09"), tmp_path)}
    assert len({*here.values(), *elsewhere.values(), *rebooted.values()}) == 12


def test_keplers_counter_begins_anew_with_keplers_process() -> None:
    page = (PAGES / "kepler.prom").read_bytes()
    before = [r.epoch for r in read(page)]
    assert before == [r.epoch for r in read(page)]
    assert set(before).isdisjoint(r.epoch for r in read(page.replace(b"1.73e+09", b"1.74e+09")))


def test_a_range_is_guessed_only_when_nothing_else_is_possible() -> None:
    guess = WrapGuess("package")
    assert guess.see(10_000_000_000, 0) is None  # any of them
    assert guess.see(65_000_000_000, 10 * SECOND_US) is None
    assert guess.see(66_000_000_000, 11 * SECOND_US) == INTEL_UJ  # the smaller one would have wrapped
    assert guess.see(1_000_000, 60 * SECOND_US) == INTEL_UJ


def test_a_fall_tells_the_range_that_makes_a_possible_power_of_it() -> None:
    guess = WrapGuess("package")
    assert guess.see(64_000_000_000, 0) is None
    # 300 W over 10 s if it wraps at 65.5 kJ, 20 kW if it wraps at 262 kJ
    assert guess.see(1_467_389_013, 10 * SECOND_US) == AMD_UJ
    assert guess.see(2_000_000_000, 20 * SECOND_US) == AMD_UJ


def test_a_restart_of_the_host_is_no_wrap() -> None:
    guess = WrapGuess("package")
    guess.see(20_000_000_000, 0)
    assert guess.see(5_000_000, 30 * SECOND_US) is None


def test_a_counter_beyond_32_bits_of_rapl_never_wraps() -> None:
    guess = WrapGuess("package")
    assert guess.see(300_000_000_000, 0) is None
    assert guess.see(1_000_000, 10 * SECOND_US) is None


def test_families_are_what_one_source_reads_wholly() -> None:
    domains = ("package-0", "package-1-die-0", "grace-0", "cpu-1", "dram-0", "chassis")
    assert [family_of(d) for d in domains] == ["package", "package", "package", "package", "dram", "chassis"]
