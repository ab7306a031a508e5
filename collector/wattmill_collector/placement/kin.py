"""Which processes that hold a board belong to which engine, by what /proc shows of both.

In this order: the same container or pod, where the engine's process is in one; descent; a launcher that started both;
the process group that the server leads; the service. Within a container with several engines the later ones decide.
What fits none, or several, is left out: a script that starts an engine and a training job is no evidence, and no board
goes to an engine by a guess.

A worker that outlived its server (killed, or restarted by a service with KillMode=process) still holds its board, in
the same service and often in the same process group as the next server. It is left out, too: it is older than that
server, and nothing but init stands above it; or it calls itself a server's child and has a shell or init for a parent.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

from wattmill_collector.placement.process import Home, Process, Processes

# Those that adopt orphans, or only begin a tree; names as /proc/PID/comm cuts them, at 15 characters.
_ADOPTERS = frozenset(("systemd", "init", "tini", "dumb-init", "docker-init", "catatonit", "containerd-shim", "conmon"))
_SHELLS = frozenset(("sh", "bash", "dash", "ash", "zsh", "fish", "busybox"))
# Those that start the ranks or shards of one engine and nothing else.
_LAUNCHERS = frozenset(
    ("mpirun", "mpiexec", "orted", "prterun", "prted", "hydra_pmi_proxy", "torchrun", "text-generation")
)
_CHILDREN_OF_SERVERS = ("VLLM::", "sglang::")  # names that engines give to their workers
_MPS_SERVER = "nvidia-cuda-mps"  # server and control daemon


def is_mps_server(pid: int, table: Processes) -> bool:
    """Whether a process computes for its clients, which are listed themselves."""
    return table.name(pid).startswith(_MPS_SERVER)


def is_ray_worker(pid: int, table: Processes) -> bool:
    """Whether Ray started it: then nothing on this host leads from it to the engine that it works for."""
    return any(table.name(one.pid) == "raylet" for one in table.ancestors(pid))


class Kin:
    """Which of the processes that hold a board belong to which listener (name → process)."""

    def __init__(self, listeners: Mapping[str, Process], table: Processes) -> None:
        self._table = table
        self._listeners = listeners
        self._names: dict[int, str] = {}
        self._homes = {name: table.home(process.pid) for name, process in listeners.items()}
        self._above = {name: [one.pid for one in table.ancestors(p.pid)] for name, p in listeners.items()}

    def targets_of(self, pid: int) -> list[str]:
        """The targets of the one listening process that a holder belongs to."""
        holder = self._table.get(pid)
        if holder is None:
            return []
        home = self._table.home(pid)
        chain = [holder, *self._table.ancestors(pid)]
        inside = self._in_the_same_place(home)
        pool = inside or list(self._listeners)
        nearest = next((n for one in chain if (n := [t for t in pool if self._listeners[t].pid == one.pid])), [])
        if nearest or self._is_orphan(chain):
            return nearest
        rules: tuple[Callable[[str], bool], ...] = (
            lambda target: pid in self._above[target],  # of one that started several servers none has its board
            inside.__contains__,
            lambda target: self._have_one_launcher(chain, target),
            lambda target: self._listeners[target].pid == holder.group,
            lambda target: bool(home.unit) and self._homes[target].unit == home.unit,
        )
        for rule in rules:
            names = [target for target in pool if rule(target) and not self._is_left_over(chain, target)]
            if len({self._listeners[target].pid for target in names}) == 1:
                return names
        return []

    def has_lost_its_server(self, pid: int) -> bool:
        """Whether a process is, by its name or one above it, the child of a server that is gone."""
        holder = self._table.get(pid)
        return holder is not None and self._is_orphan([holder, *self._table.ancestors(pid)])

    def _is_orphan(self, chain: Sequence[Process]) -> bool:
        named = [one for one in chain if self._name(one.pid).startswith(_CHILDREN_OF_SERVERS)]
        return bool(named) and (named[-1].parent <= 1 or self._name(named[-1].parent) in _ADOPTERS | _SHELLS)

    def _in_the_same_place(self, home: Home) -> list[str]:
        """The targets in the holder's container, else in its pod."""
        for mine, theirs in (
            (home.container, {t: h.container for t, h in self._homes.items()}),
            (home.pod, {t: h.pod for t, h in self._homes.items()}),
        ):
            if mine and (found := [target for target, one in theirs.items() if one == mine]):
                return found
        return []

    def _have_one_launcher(self, chain: Sequence[Process], target: str) -> bool:
        return any(one.pid in self._above[target] and self._name(one.pid) in _LAUNCHERS for one in chain[1:])

    def _is_left_over(self, chain: Sequence[Process], target: str) -> bool:
        listener = self._listeners[target]
        top = self._line(chain)[-1]
        is_apart = top.pid != listener.pid and top.pid not in self._above[target]
        return is_apart and chain[0].start_ticks < listener.start_ticks

    def _line(self, chain: Sequence[Process]) -> list[Process]:
        """A process and those above it, up to whatever adopts orphans."""
        return [chain[0], *itertools.takewhile(lambda one: self._name(one.pid) not in _ADOPTERS, chain[1:])]

    def _name(self, pid: int) -> str:
        if pid not in self._names:
            self._names[pid] = self._table.name(pid)
        return self._names[pid]
