"""The node's power as its BMC says it over Redfish.

At first all chassis of the BMC are looked through for the one that is the node and the resource that has its power;
from then on that resource is read, until it has none any more. A url that names a chassis, as in
https://bmc/redfish/v1/Chassis/1, is taken at its word.

Which figure: EnvironmentMetrics.PowerWatts, else Power.PowerControl, else the sum of what goes into all supplies. The
energy counter of EnvironmentMetrics is taken only when it moves in small steps: one in whole kWh says nothing of a
minute. Once taken it is kept to, because power beside it would be counted twice.
"""

from __future__ import annotations

import dataclasses
import urllib.parse
from collections.abc import Iterable
from typing import Any

from wattmill_collector.clock import Clock
from wattmill_collector.log import LOG
from wattmill_collector.sources import redfish_documents as documents
from wattmill_collector.sources.addresses import FetchError
from wattmill_collector.sources.chassis import ChassisSource, Draw
from wattmill_collector.sources.redfish_client import RedfishClient
from wattmill_collector.targets import BmcSettings

CHASSIS = "/redfish/v1/Chassis"
MAX_CHASSIS = 128
MAX_SUPPLIES = 32
NO_DOCUMENT = ("http_404", "http_405", "http_500", "http_501", "http_503", "not_understood", "too_large", "forbidden")


@dataclasses.dataclass(frozen=True, slots=True)
class Way:
    """Where the node's power stands: `kind` is environment, control, supplies or metrics (of each supply)."""

    kind: str
    paths: tuple[str, ...]


class RedfishChassis:
    """Finds the node's chassis and reads its power; for one thread, but for what the client allows."""

    def __init__(self, settings: BmcSettings, client: RedfishClient) -> None:
        self._client = client
        self._url_path = urllib.parse.urlsplit(settings.url).path.rstrip("/")
        self._way: Way | None = None
        self._has_counter = False

    def ask(self) -> Draw:
        """Power, and energy where there is a counter to rely on. Errors: FetchError."""
        if self._way is not None:
            try:
                return self._draw(self._way)
            except FetchError as error:
                if error.failure.reason not in (*NO_DOCUMENT, "no_power_reading"):
                    raise
                self._way = None  # a firmware that was updated may have it elsewhere
        self._way = self._find()
        return self._draw(self._way)

    def _draw(self, way: Way) -> Draw:
        energy_uj = None
        if way.kind == "environment":
            found = documents.metrics_of(self._client.get(way.paths[0]))
            self._has_counter |= found.energy_uj is not None and found.is_fine
            power_mw, energy_uj = found.power_mw, found.energy_uj if self._has_counter else None
        else:
            power_mw = self._power_mw(way)
        if self._has_counter and energy_uj is None:
            raise FetchError("no_energy_counter", f"{way.paths[0]} shows no energy counter any more.")
        if power_mw is None and energy_uj is None:
            raise FetchError("no_power_reading", f"{self._client.host}{way.paths[0]} has no power at the moment.")
        return Draw(power_mw, energy_uj)

    def _power_mw(self, way: Way) -> int | None:
        read = [self._client.get(path) for path in way.paths]
        match way.kind:
            case "environment":
                return documents.metrics_of(read[0]).power_mw
            case "control":
                return documents.control_mw(read[0])
            case "supplies":
                return documents.supplies_mw(read[0])
        return documents.metrics_mw(read)

    def _find(self) -> Way:
        """The way to the node's power. Errors: FetchError when there is none."""
        if self._url_path.startswith(f"{CHASSIS}/"):
            groups, chassis = [[self._url_path]], {self._url_path: self._client.get(self._url_path)}
        elif self._url_path in ("", "/redfish", "/redfish/v1"):
            paths = self._members(CHASSIS)[:MAX_CHASSIS]
            chassis = {path: document for path in paths if (document := self._get(path))}
            groups = documents.candidates(chassis)
        else:
            raise FetchError(
                "not_understood", "The bmc's url names neither a BMC nor a chassis (…/redfish/v1/Chassis/1)."
            )
        for group in groups:
            found = [one for path in group if (one := self._way_of(path, chassis[path]))]
            if len(documents.hosts_of(chassis[path] for _, path, _ in found)) > 1:
                raise FetchError(
                    "several_nodes",
                    f"{self._client.host} manages several nodes; name this one's chassis in the bmc's url: "
                    f"https://…{CHASSIS}/NAME.",
                )
            if found:
                power_mw, path, way = max(found, key=lambda one: one[0])
                LOG.info("redfish: the node is %s%s, %d W by %s.", self._client.host, path, power_mw // 1000, way.kind)
                return way
        raise FetchError(
            "no_power_reading",
            f"None of the {len(chassis)} chassis of {self._client.host} is a whole node with a power reading; if one "
            f"is, name it in the bmc's url: https://…{CHASSIS}/NAME.",
        )

    def _way_of(self, path: str, chassis: documents.Document) -> tuple[int, str, Way] | None:
        for way in self._ways(chassis):
            try:
                power_mw = self._power_mw(way)
            except FetchError as error:
                if error.failure.reason not in NO_DOCUMENT:
                    raise
                continue
            if power_mw is not None:
                return power_mw, path, way
        return None

    def _ways(self, chassis: documents.Document) -> Iterable[Way]:
        """Where the power may stand, the best first."""
        if environment := documents.path_of(chassis.get("EnvironmentMetrics")):
            yield Way("environment", (environment,))
        if power := documents.path_of(chassis.get("Power")):
            yield Way("control", (power,))
            yield Way("supplies", (power,))
        if subsystem := documents.path_of(chassis.get("PowerSubsystem")):
            collection = documents.path_of((self._get(subsystem) or {}).get("PowerSupplies"))
            members = documents.paths_of((self._get(collection) or {}).get("Members")) if collection else []
            supplies = [self._get(path) for path in members[:MAX_SUPPLIES]]
            here = [one for one in supplies if one and documents.is_here(one)]
            metrics = tuple(documents.path_of(one.get("Metrics")) for one in here)
            if metrics and all(metrics) and len(members) <= MAX_SUPPLIES and all(supplies):
                yield Way("metrics", metrics)

    def _members(self, path: str) -> list[str]:
        """The members of a collection, of all the pages that it comes in."""
        found: list[str] = []
        asked: list[str] = []
        while path and path not in asked and len(found) < MAX_CHASSIS:
            asked.append(path)
            page = self._client.get(path)
            found += documents.paths_of(page.get("Members"))
            path = documents.path_of({"@odata.id": page.get("Members@odata.nextLink")})
        return list(dict.fromkeys(found))

    def _get(self, path: str) -> dict[str, Any] | None:
        """The document, or None when the BMC has none there."""
        try:
            return self._client.get(path)
        except FetchError as error:
            if error.failure.reason not in NO_DOCUMENT:
                raise
            return None


def open_redfish(
    settings: BmcSettings, clock: Clock, *, every_us: int, patience_us: int = 0, name: str = "redfish"
) -> ChassisSource:
    """The node's BMC as a source that is being asked."""
    if settings.url.startswith("https:") and not settings.verify:
        sentence = "The certificate of the BMC %s is not checked: anybody on the way can read its password."
        LOG.warning(sentence, settings.url)
    client = RedfishClient(settings, clock)
    ask = RedfishChassis(settings, client).ask
    source = ChassisSource(name, ask, clock, every_us=every_us, cancel=client.cancel, release=client.leave)
    return source.start(patience_us)
