"""What a page says of accelerators, by the table: whole numbers for each board, every board once. Pure.

How the values of a page are put together is worked out once, and holds while the page shows the same series.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

from wattmill_collector.catalogue import Metric
from wattmill_collector.sources.epochs import epoch_of
from wattmill_collector.sources.exporters.board_tables import ENERGY_FIELD, POWER_FIELDS, BoardTable, Select, Way
from wattmill_collector.sources.exporters.units import decimal_of, ratio_of, scaled
from wattmill_collector.sources.promtext import Series
from wattmill_collector.wire import METRICS

MAX_BOARDS = 1024  # on one page
METRIC_OF: dict[str, Metric] = {metric.name: metric for metric in METRICS["accelerator"]}
OF_A_SLICE = ("utilisation_ratio", "memory_used_bytes", "memory_total_bytes")
NVIDIA_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

Labels = Mapping[str, str]
Places = tuple[tuple[int, ...], ...]  # the highest of each group, all groups added up


@dataclasses.dataclass(frozen=True, slots=True)
class BoardName:
    """Which board, and what is known of it besides its values. `is_vendors`: the UUID is the vendor's, not made here.

    `driver`: its version, where the page says.
    """

    uuid: str
    vendor: str
    is_vendors: bool
    model: str = ""
    index: int | None = None
    driver: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class BoardValues:
    """One board at one tick: fields of AcceleratorReading. `faults`: what is there and can't be used, (reason, why)."""

    name: BoardName
    values: Mapping[str, int | float]
    faults: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class _Recipe:
    name: BoardName
    fields: tuple[tuple[Metric, str, Places], ...]


class BoardPage:
    """Reads the boards of one exporter's page, tick after tick. `node`: names boards that no vendor's UUID names."""

    def __init__(self, table: BoardTable, node: str) -> None:
        self._table = table
        self._node = node
        self._planned: tuple[Series, ...] | None = None
        self._recipes: tuple[_Recipe, ...] = ()
        self.unnamed = 0  # rows of boards that can't be told apart

    def read(self, series: tuple[Series, ...], texts: Sequence[bytes]) -> list[BoardValues]:
        """Values of each board: `texts` are the printed values of `series`, in its order."""
        if series is not self._planned:
            self._recipes = self._plan(series)
            self._planned = series
        return [_values(recipe, texts) for recipe in self._recipes]

    def _plan(self, series: Sequence[Series]) -> tuple[_Recipe, ...]:
        table = self._table
        self.unnamed = 0
        rows: dict[str, list[int]] = {}
        names: dict[str, BoardName] = {}
        about: dict[str, Labels] = {}
        wanted = table.names()
        for place, one in enumerate(series):
            if one.name not in wanted or not _keeps(table.keep, one.labels):
                continue
            if any(one.labels.get(label) for label in table.drop):
                continue
            name = name_of(table, one.labels, self._node)
            if name is None:
                self.unnamed += 1
                continue
            if one.name == table.info:
                about[name.uuid] = one.labels
                continue
            names[name.uuid] = _fuller(names.get(name.uuid), name)
            if len(names) <= MAX_BOARDS:
                rows.setdefault(name.uuid, []).append(place)
        recipes = []
        for uuid, places in rows.items():
            name = names[uuid]
            if uuid in about:
                name = _fuller(name, dataclasses.replace(_about(table, about[uuid]), uuid=uuid, vendor=name.vendor))
            fields = tuple(self._fields(series, places))
            if fields:
                recipes.append(_Recipe(name, fields))
        return tuple(recipes)

    def _fields(self, series: Sequence[Series], places: Sequence[int]) -> list[tuple[Metric, str, Places]]:
        found = []
        for field, ways in self._table.fields.items():
            for way in ways:
                groups = self._groups(field, way, series, places)
                if groups:
                    found.append((METRIC_OF[field], way.unit, groups))
                    break
        return found

    def _groups(self, field: str, way: Way, series: Sequence[Series], places: Sequence[int]) -> Places:
        table = self._table
        groups: list[tuple[int, ...]] = []
        for name in way.names:
            at = [p for p in places if series[p].name == name and _keeps(way.select, series[p].labels, needed=True)]
            if field in OF_A_SLICE:
                at = [p for p in at if not any(series[p].labels.get(label) for label in table.slices)]
            at = _outermost(table.ranks, series, at)
            if not at:
                return ()
            by_part: dict[tuple[str, ...], list[int]] = {}
            for p in at:
                by_part.setdefault(tuple(series[p].labels.get(label, "") for label in table.parts), []).append(p)
            whole = by_part.get(("",) * len(table.parts))
            parts = list(by_part.values()) if whole is None else [whole]
            if field not in (ENERGY_FIELD, *POWER_FIELDS, "memory_used_bytes", "memory_total_bytes"):
                parts = [[p for part in parts for p in part]]  # clocks and temperatures are not added up
            groups += [tuple(part) for part in parts]
        return tuple(groups)


def name_of(table: BoardTable, labels: Labels, node: str) -> BoardName | None:
    """Which board a row speaks of; None when its labels do not tell it from the others."""
    about = _about(table, labels)
    uuid = next((labels[label] for label in table.uuids if labels.get(label)), "")
    if uuid:
        if about.vendor == "nvidia" and NVIDIA_UUID.fullmatch(uuid):
            uuid = f"GPU-{uuid.lower()}"
        return dataclasses.replace(about, uuid=_short(uuid), is_vendors=True)
    card = next((label for part, label in table.shared_places.items() if part in about.model), None)
    found = ((label, prefix) for label, prefix in (((card, ""),) if card else table.places) if labels.get(label))
    place = next(found, None)
    if place is None:
        return None
    label, prefix = place
    return dataclasses.replace(about, uuid=_short(f"{about.vendor}-{node}-{prefix}{labels[label]}"))


def board_epoch(source: str, table: BoardTable, name: BoardName, boot_id: str, started: str) -> int:
    """The stretch over which the board's energy counter continues.

    A driver's counter on this host has the same evidence as where NVML reads it, since it is the same counter.
    `boot_id`: of the host that the exporter is on, empty where that is not this one; `started`: what the page says of
    the start of the exporter's process.
    """
    if table.counter == "driver" and name.vendor == "nvidia" and boot_id and name.driver:
        return epoch_of(boot_id, name.driver, name.uuid)
    if table.counter == "driver":
        return epoch_of("exporter", source, boot_id, name.driver, name.uuid)
    return epoch_of("exporter", source, started, name.uuid)


def _about(table: BoardTable, labels: Labels) -> BoardName:
    vendor = next((labels[label].lower() for label in table.vendor_labels if labels.get(label)), table.vendor)
    index = next((labels[label] for label in table.index if labels.get(label)), "")
    return BoardName(
        "",
        vendor[:32],
        is_vendors=False,
        model=next((labels[label] for label in table.model if labels.get(label)), "")[:256],
        index=int(index) if index.isascii() and index.isdigit() and len(index) <= 4 else None,
        driver=next((labels[label] for label in table.driver if labels.get(label)), ""),
    )


def _fuller(known: BoardName | None, other: BoardName) -> BoardName:
    """What two rows together say of a board; its index is the lowest."""
    if known is None:
        return other
    indices = [i for i in (known.index, other.index) if i is not None]
    return dataclasses.replace(
        known,
        model=known.model or other.model,
        index=min(indices) if indices else None,
        driver=known.driver or other.driver,
    )


def _keeps(select: Select, labels: Labels, *, needed: bool = False) -> bool:
    return all(labels[label] in values if label in labels else not needed for label, values in select)


def _outermost(ranks: Select, series: Sequence[Series], places: list[int]) -> list[int]:
    for label, values in ranks:
        for value in values:
            found = [p for p in places if series[p].labels.get(label) == value]
            if found:
                return found
    return places


def _short(uuid: str) -> str:
    """The name as the wire takes it: at most 128 characters, still different from others."""
    uuid = uuid.replace("\x00", "").encode("utf-8", "replace").decode()
    return uuid if len(uuid) <= 128 else f"{uuid[:100]}-{epoch_of(uuid) & 0xFFFFFFFFFFFFFFFF:016x}"


def _values(recipe: _Recipe, texts: Sequence[bytes]) -> BoardValues:
    values: dict[str, int | float] = {}
    faults: list[tuple[str, str]] = []
    for metric, unit, groups in recipe.fields:
        total: int | float = 0
        for group in groups:
            found = (decimal_of(texts[p]) for p in group)
            numbers = [n for n in found if n is not None and n >= int(metric.low)]  # -1: an exporter that can't read it
            if not numbers:
                break
            highest = max(numbers)
            total += ratio_of(highest, unit) if metric.type == "float" else scaled(highest, unit)
        else:
            if metric.low <= total <= metric.high:
                values[metric.name] = total
            else:
                faults.append(
                    ("implausible", f"{metric.name} would be {total}, above the {metric.high:.0f} there can be")
                )
    if not any(field in values for field in (ENERGY_FIELD, *POWER_FIELDS)):
        faults.append(
            ("no_power", "the exporter shows neither energy nor power of this board; restart it if it should")
        )
    return BoardValues(recipe.name, values, tuple(faults))
