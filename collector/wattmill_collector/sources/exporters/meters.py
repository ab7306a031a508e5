"""What exporters say of meters above nodes: PDUs by snmp_exporter, BMCs, and whatever an operator names. Pure.

A meter with several inlets, cords or devices in a chain is their sum. Of a total and its parts (a device and its
phases, a cord and its lines, an inlet and its outlets) only the total is read; parts where there is no total. Units
are those of the vendor's MIB, whatever a number looks like.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from decimal import Decimal

from wattmill_collector.sources.epochs import epoch_of
from wattmill_collector.sources.exporters.host_domains import IDRAC_NAMES, IPMI_NAMES, REDFISH_NAMES, Sum
from wattmill_collector.sources.exporters.sums import value_of
from wattmill_collector.sources.exporters.units import ENERGY, POWER
from wattmill_collector.sources.promtext import Series
from wattmill_collector.targets import MeterSettings

POWER_HIGHEST_MW = 10**15
PARTS_GONE_US = 600_000_000  # a cord that is missing for longer was taken away

Select = tuple[tuple[str, tuple[str, ...]], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """One way to read a meter: the sum of the series `name` that have one of the listed values of each label.

    `digits`: a series with the same labels that says by how many decimal digits the value is shifted. `highest`: the
    series are not parts; the highest contains the others.
    """

    name: str
    unit: str
    select: Select = ()
    digits: str = ""
    highest: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class MeterKind:
    """One kind of meter: ways to read power and energy, in order of preference. `source`: the exporter, as a rule.

    `since`: series whose labels say since when the energy counts; it can be set back by hand.
    """

    name: str
    source: str
    power: tuple[Part, ...]
    energy: tuple[Part, ...] = ()
    since: tuple[str, ...] = ()

    def names(self) -> frozenset[str]:
        """Every series name that reading this kind may need."""
        parts = (*self.power, *self.energy)
        return frozenset({p.name for p in parts} | {p.digits for p in parts if p.digits} | set(self.since))


_ACTIVE_POWER = (("sensorType", ("activePower", "5")),)
_ACTIVE_ENERGY = (("sensorType", ("activeEnergy", "8")),)

# prometheus/snmp_exporter@1d54f35 snmp.yml, by the lines that its own help texts come from.
METER_KINDS: tuple[MeterKind, ...] = (
    MeterKind(  # :2093, :2123, :2267; hundredths of a kilowatt, tenths of a kilowatt-hour
        "apc",
        "snmp_exporter",
        (Part("rPDU2DeviceStatusPower", "0.01kW"), Part("rPDU2PhaseStatusPower", "0.01kW")),
        (Part("rPDU2DeviceStatusEnergy", "0.1kWh"),),
        ("rPDU2DeviceStatusEnergyStartTime",),
    ),
    MeterKind(  # :55468, :55719, :56539, :53844, :53932; Sentry3-MIB: tenths of a kilowatt-hour
        "servertech",
        "snmp_exporter",
        (Part("st4InputCordActivePower", "W"), Part("st4PhaseActivePower", "W"), Part("infeedPower", "W")),
        (Part("st4InputCordEnergy", "0.1kWh"), Part("st4PhaseEnergy", "0.1kWh"), Part("infeedEnergy", "0.1kWh")),
    ),
    MeterKind(  # :42791, :38482; the digits are walked only where the generator was told to. inletActivePower: first PX
        "raritan",
        "snmp_exporter",
        (
            Part("measurementsInletSensorValue", "W", _ACTIVE_POWER, "inletSensorDecimalDigits"),
            Part("inletActivePower", "W"),
        ),
        (Part("measurementsInletSensorValue", "Wh", _ACTIVE_ENERGY, "inletSensorDecimalDigits"),),
    ),
    MeterKind(  # :6688, :6884, :7441, :6605, :7472
        "cyberpower",
        "snmp_exporter",
        (
            Part("ePDU2DeviceStatusPowerLoad", "W"),
            Part("ePDU2PhaseStatusPower", "W"),
            Part("ePDU2OutletMeteredStatusActivePower", "W"),
        ),
        (Part("ePDU2DeviceStatusEnergy", "0.1kWh"), Part("ePDU2OutletMeteredStatusEnergy", "0.1kWh")),
        ("ePDU2DeviceStatusEnergyStartTime",),
    ),
    MeterKind("infrapower", "snmp_exporter", (Part("pduMainActivePower", "W"),)),  # :24390, by the shipped expression
    MeterKind("liebert", "snmp_exporter", (Part("lgpPduPsEntryPwrTotal", "W"),)),  # :28291; its energy names no unit
    # :63306, RFC 1628: what an uninterruptible supply gives, phase by phase; many leave upsInputTruePower at 0.
    MeterKind("ups", "snmp_exporter", (Part("upsOutputPower", "W"),)),
    MeterKind(
        "redfish",
        "redfish_exporter",
        (Part(REDFISH_NAMES[0], "W", highest=True), Part(REDFISH_NAMES[1], "W")),
    ),
    MeterKind("idrac", "idrac_exporter", (Part(IDRAC_NAMES[0], "W", highest=True), Part(IDRAC_NAMES[2], "W"))),
    MeterKind("ipmi", "ipmi_exporter", (Part(IPMI_NAMES[0], "W"),)),
)
METER_NAMES = tuple(kind.name for kind in METER_KINDS)


@dataclasses.dataclass(frozen=True, slots=True)
class MeterValues:
    """One meter at one tick. `problem`: (reason, sentence) when it can't be read in full."""

    source: str = ""
    power_mw: int | None = None
    energy_mj: int | None = None
    epoch: int = 0
    problem: tuple[str, str] | None = None


class MeterPage:
    """Reads one meter from its target's page, tick after tick."""

    def __init__(self, settings: MeterSettings) -> None:
        self._settings = settings
        self._select: Select = tuple((label, (value,)) for label, value in settings.select.items())
        self._kinds = kinds_of(settings)
        self._planned: tuple[Series, ...] | None = None
        self._kind: MeterKind | None = None
        self._power: tuple[Sum, tuple[str, ...]] | None = None
        self._energy: tuple[Sum, tuple[str, ...]] | None = None
        self._shift_at: dict[int, int] = {}
        self._epoch = 0
        self._parts: frozenset[str] = frozenset()
        self._fewer_since_us: int | None = None

    def names(self) -> frozenset[str]:
        """Every series name that this meter may need."""
        return frozenset().union(*(kind.names() for kind in self._kinds))

    def read(self, series: tuple[Series, ...], texts: Sequence[bytes], time_us: int) -> MeterValues:
        """Its values: `texts` are the printed values of `series`, in its order."""
        if series is not self._planned:
            self._plan(series)
            self._planned = series
        kind = self._kind
        if kind is None:
            return MeterValues(problem=("not_understood", self._advice()))
        parts = frozenset(key for found in (self._power, self._energy) if found for key in found[1])
        if parts < self._parts:
            self._fewer_since_us = time_us if self._fewer_since_us is None else self._fewer_since_us
            if 0 <= time_us - self._fewer_since_us < PARTS_GONE_US:
                gone = ", ".join(sorted(self._parts - parts))[:200]
                return MeterValues(problem=("parts_missing", f"the page lacks parts of this meter: {gone}"))
        self._parts, self._fewer_since_us = parts, None
        power = self._value(self._power, texts, POWER_HIGHEST_MW)
        energy = self._value(self._energy, texts, 2**63 - 1)
        if power is None and energy is None:
            return MeterValues(problem=("no_number", "the meter's series show no numbers that can be used"))
        return MeterValues(kind.source, power, energy, self._epoch if energy is not None else 0)

    def _value(self, found: tuple[Sum, tuple[str, ...]] | None, texts: Sequence[bytes], highest: int) -> int | None:
        if found is None:
            return None
        sum_, _ = found
        digits = [0] * len(sum_.places)
        for at, place in enumerate(sum_.places):
            shift_at = self._shift_at.get(place)
            if shift_at is not None:
                text = texts[shift_at].partition(b".")[0]
                if not text.isdigit() or len(text) > 1:
                    return None
                digits[at] = int(text)
        value = value_of(sum_, texts, Decimal(1), digits)
        return value if value is not None and value <= highest else None

    def _plan(self, series: Sequence[Series]) -> None:
        self._kind = self._power = self._energy = None
        self._shift_at = {}
        for kind in self._kinds:
            self._power = self._first(kind.power, series)
            self._energy = self._first(kind.energy, series)
            if self._power or self._energy:
                self._kind = kind
                since = sorted(key_of(s) for s in series if s.name in kind.since)
                counted = self._energy[1] if self._energy else ()
                self._epoch = epoch_of("meter", self._settings.target, self._settings.name, *since, "", *counted)
                return

    def _first(self, ways: Sequence[Part], series: Sequence[Series]) -> tuple[Sum, tuple[str, ...]] | None:
        for way in ways:
            places = [i for i, s in enumerate(series) if s.name == way.name and self._is_ours(s, way)]
            if not places:
                continue
            if way.digits:
                shifts = {key_of(s, ""): i for i, s in enumerate(series) if s.name == way.digits}
                self._shift_at |= {p: shifts[k] for p in places if (k := key_of(series[p], "")) in shifts}
            keys = tuple(sorted(key_of(series[p]) for p in places))
            return Sum(way.unit, tuple(places), way.highest), keys
        return None

    def _is_ours(self, series: Series, way: Part) -> bool:
        return all(series.labels.get(label) in values for label, values in (*way.select, *self._select))

    def _advice(self) -> str:
        settings = self._settings
        if settings.metric:
            chosen = "".join(f' {label}="{value}"' for label, value in settings.select.items())
            wanted = settings.metric + (f" with{chosen}" if chosen else "")
            return f"the page has no series {wanted}; correct metric or select of this meter"
        known = ", ".join(kind.name for kind in self._kinds)
        return (
            f"the page has no power or energy of a meter that is known here ({known}): "
            "check module and target of the exporter, or say metric, unit and select of this meter"
        )


def kinds_of(settings: MeterSettings) -> tuple[MeterKind, ...]:
    """The kinds that a meter may be: what its operator says, else all that are known."""
    if settings.metric:
        part = (Part(settings.metric, settings.unit),)
        power = part if settings.unit in POWER else ()
        return (MeterKind("configured", "configured", power, part if settings.unit in ENERGY else ()),)
    if settings.kind == "auto":
        return METER_KINDS
    return tuple(kind for kind in METER_KINDS if kind.name == settings.kind)


def key_of(series: Series, name: str | None = None) -> str:
    """A series as text, its labels in order."""
    labels = ",".join(f"{label}={value}" for label, value in sorted(series.labels.items()))
    return f"{series.name if name is None else name}{{{labels}}}"
