"""The pods of this node as places where engines serve: their targets, their names, and those that show no page.

A pod is looked at when it holds accelerators or asks for them, when the configured selector means it, or when it says
so itself (`wattmill.io/scrape: "true"` or `wattmill.io/port`); `wattmill.io/scrape: "false"` keeps the agent away. The
port comes from `wattmill.io/port`, else `prometheus.io/port` under `prometheus.io/scrape: "true"`, else from the ports
that its containers declare. A port that was only guessed is an engine's once its page has been understood, and then no
other guess is made for that container: two ports of one engine often show the same counters.

Every pod that holds accelerators is accounted for: with an engine, as a worker of one elsewhere, or with an absence
that says why there is none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping

from wattmill_collector.kubelet.book import Snapshot
from wattmill_collector.kubelet.devices import Names
from wattmill_collector.kubelet.pods import OURS, PROMETHEUS, Pod, owner_by_name
from wattmill_collector.kubelet.roles import is_worker, role_of
from wattmill_collector.kubelet.rules import apply, parse_selector, selects
from wattmill_collector.kubelet.settings import KubernetesSettings
from wattmill_collector.placement import Seat
from wattmill_collector.placement.pods import Allocation, Allocations, PodKey
from wattmill_collector.settings import EngineSettings
from wattmill_collector.sources.addresses import Failure
from wattmill_collector.sources.engine_tables import ENGINE_KINDS
from wattmill_collector.sources.engine_workers import Worker
from wattmill_collector.wire import AbsenceReading, Reading

MINUTE_US = 60_000_000
MOST_TARGETS_A_POD = 16
_KINDS = frozenset(kind.name for kind in ENGINE_KINDS)
_SOURCES = {"pod-resources": "kubelet", "pods": "kubernetes-api"}


@dataclasses.dataclass(frozen=True, slots=True)
class PodEngine:
    """A place in a pod where an engine may serve. `certain`: the pod says so, else the port was guessed."""

    settings: EngineSettings
    pod: Pod
    port: int
    container: str = ""
    certain: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class PodNames:
    """What the rules say of a pod."""

    workload: str = ""
    team: str = ""
    model: str = ""


class PodView:
    """Pods and their boards as of the last `refresh`.

    `names` is asked when something changed; `close` ends the asking. Without `discover` pods place and name the
    configured engines, and no other is looked for.
    """

    def __init__(
        self,
        settings: KubernetesSettings,
        snapshot: Callable[[], Snapshot],
        names: Callable[[], Names] = Names,
        close: Callable[[], None] = lambda: None,
        *,
        discover: bool = True,
    ) -> None:
        self.close = close
        self.version = 0  # counts the refreshes that changed something
        self.engines: tuple[PodEngine, ...] = ()
        self.allocations = Allocations(Snapshot(), Names())
        self._discover = discover
        self._settings = settings
        self._selector = parse_selector(settings.selector)
        self._ask = snapshot
        self._names = names
        self._snapshot = Snapshot()
        self._boards: Collection[str] | None = None
        self._absent: dict[str, tuple[str, int]] = {}

    def refresh(self, boards: Collection[str]) -> bool:
        """Look at what is known now; `boards` are those of the node. True when something changed."""
        snapshot = self._ask()
        if snapshot is self._snapshot and boards == self._boards:
            return False
        self._snapshot, self._boards, self.version = snapshot, boards, self.version + 1
        self.allocations = Allocations(snapshot, self._names())
        pods = (snapshot.pods or {}).values()
        self.engines = tuple(engine for pod in pods if self._is_looked_at(pod) for engine in self._engines(pod))
        return True

    def pod_at(self, host: str, port: int, *, local: bool) -> tuple[PodKey, str] | None:
        """The pod and container behind an address: its own, or on this host a port that a pod of the host declares."""
        for pod in (self._snapshot.pods or {}).values():
            if pod.ended:
                continue
            container = self._container(pod, port)
            if pod.ip == host and not pod.host_network:
                return pod.key, container
            if pod.host_network and (local or pod.ip == host) and _declares(pod, port):
                return pod.key, container
        return None

    def allocation(self, pod: PodKey, container: str) -> Allocation | None:
        """What the kubelet gave to a container, or its pod; None when that is not known."""
        return self.allocations.of(pod, container)

    def names(self, pod: PodKey) -> PodNames:
        """Workload, team and model by the rules; of a pod that the API has not shown, by its name alone."""
        namespace, name = pod
        known = (self._snapshot.pods or {}).get(pod) or Pod(namespace, name, owner=owner_by_name(name))
        settings = self._settings
        return PodNames(apply(settings.workload, known), apply(settings.team, known), apply(settings.model, known))

    def role(self, pod: PodKey) -> str:
        """What part a pod plays; "" when nothing is said."""
        known = (self._snapshot.pods or {}).get(pod)
        return role_of(known) if known else ""

    def workers(self, read: Collection[PodKey]) -> list[Worker]:
        """Pods with accelerators that work for an engine of another pod, and show no engine themselves."""
        found = []
        for key in sorted(self._holders()):
            pod = (self._snapshot.pods or {}).get(key)
            allocation = self.allocations.of(key)
            if pod is None or key in read or not is_worker(pod) or not (allocation and allocation.accelerators):
                continue
            name, names = f"pod:{key[0]}/{key[1]}", self.names(key)
            seat = Seat(name, allocation=allocation, is_worker=True)
            found.append(Worker(seat, name, "", names.workload, names.team, names.model, key))
        return found

    def absences(self, read: Collection[PodKey], tried: Mapping[PodKey, Failure], time_us: int) -> list[Reading]:
        """Why pods with accelerators show no engine, and sources that are away: what is new, at a minute's edge all.

        `read`: pods with an engine or with an absence of its own; `tried`: the last answer of a guessed port.
        """
        now = {_SOURCES[source]: (failure.reason, failure.detail) for source, failure in self._snapshot.faults.items()}
        for key in self._holders() if self._discover else ():
            pod = (self._snapshot.pods or {}).get(key)
            if pod is not None and _is_kept_away(pod):
                continue
            name = f"pod:{key[0]}/{key[1]}"
            allocation = self.allocations.of(key)
            if allocation is not None and allocation.unknown:
                ids = ", ".join(allocation.unknown)
                now[name] = "accelerator_not_found", f"it is not known which board of this node is {ids}"
            elif key not in read:
                now[name] = self._why(tried.get(key))
        begun = {
            name: self._absent[name][1] if self._absent.get(name, ("",))[0] == reason else time_us
            for name, (reason, _) in now.items()
        }
        self._absent = {name: (reason, begun[name]) for name, (reason, _) in now.items()}
        edge = time_us % MINUTE_US == 0
        return [
            AbsenceReading(
                subject="engine",
                id=name,
                reason=reason,
                detail=detail[:512],
                start_us=begun[name] if begun[name] < time_us else None,
            )
            for name, (reason, detail) in now.items()
            if edge or begun[name] == time_us
        ]

    def _why(self, failure: Failure | None) -> tuple[str, str]:
        if failure is not None:
            return failure.reason, f"{failure.detail}; name the page by {OURS}port, or set {OURS}scrape to false"
        if self._snapshot.pods is None:
            return "no_address", "the pod holds accelerators; only the Kubernetes API would say where its page is"
        return "no_metrics_port", f"the pod holds accelerators and declares no port of a page; set {OURS}port"

    def _holders(self) -> Iterable[PodKey]:
        """Running pods that hold accelerators, or ask for some where the kubelet does not say."""
        pods = self._snapshot.pods
        if pods is None:
            return list(self.allocations.pods())
        held = set(self.allocations.pods()) if self.allocations.known else {p.key for p in pods.values() if p.wants}
        return [p.key for p in pods.values() if p.key in held and p.phase == "Running"]

    def _is_looked_at(self, pod: Pod) -> bool:
        if not self._discover or pod.phase != "Running" or not pod.ip or _is_kept_away(pod):
            return False
        asks = pod.annotations.get(OURS + "scrape", "").lower() == "true" or bool(pod.annotations.get(OURS + "port"))
        return asks or pod.wants or pod.key in self.allocations.pods() or selects(self._selector, pod.labels)

    def _engines(self, pod: Pod) -> list[PodEngine]:
        said = pod.annotations
        prometheus = self._settings.annotations and said.get(PROMETHEUS + "scrape", "").lower() == "true"
        ours = said.get(OURS + "port", "")
        ports = _ports(pod, ours or (said.get(PROMETHEUS + "port", "") if prometheus else ""))
        certain = bool(ours and ports)
        path = said.get(OURS + "path") or (said.get(PROMETHEUS + "path") if prometheus else "") or self._settings.path
        scheme = said.get(OURS + "scheme") or (said.get(PROMETHEUS + "scheme") if prometheus else "")
        kind = said.get(OURS + "kind", "auto").lower()
        host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
        start = f"{'https' if scheme == 'https' else 'http'}://{host}"
        return [
            PodEngine(
                EngineSettings(f"{start}:{port}/{path.lstrip('/')}", kind if kind in _KINDS else "auto"),
                pod,
                port,
                self._container(pod, port),
                certain,
            )
            for port in (ports or self._guesses(pod))[:MOST_TARGETS_A_POD]
        ]

    def _guesses(self, pod: Pod) -> list[int]:
        """Ports where a page may be, likely ones first: of the containers with accelerators, else of all."""
        holding = set(self.allocations.containers(pod.key))
        containers = [c for c in pod.containers if c.name in holding] or list(pod.containers)
        declared = [port for container in containers for port in container.ports]
        if not declared:
            return list(self._settings.ports)
        by_name = [number for name in self._settings.port_names for said, number in declared if said == name]
        by_number = [number for wanted in self._settings.ports for _, number in declared if number == wanted]
        return list(dict.fromkeys([*by_name, *by_number])) or ([declared[0][1]] if len(declared) == 1 else [])

    def _container(self, pod: Pod, port: int) -> str:
        """Which container serves a port: the one that declares it, else the only one with accelerators."""
        declaring = [c.name for c in pod.containers if any(number == port for _, number in c.ports)]
        holding = list(self.allocations.containers(pod.key))
        return declaring[0] if declaring else holding[0] if len(holding) == 1 else ""


def _is_kept_away(pod: Pod) -> bool:
    return pod.annotations.get(OURS + "scrape", "").lower() == "false"


def _declares(pod: Pod, port: int) -> bool:
    return any(number == port for container in pod.containers for _, number in container.ports)


def _ports(pod: Pod, said: str) -> list[int]:
    """Ports named in an annotation: numbers or names of declared ports, between commas."""
    declared = {name: number for container in pod.containers for name, number in container.ports if name}
    found = [declared.get(part) or _number(part) for part in map(str.strip, said.split(","))]
    return [port for port in dict.fromkeys(found) if port]


def _number(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else 0
    return number if number < 65_536 else 0
