"""A process table made of files under a folder, as /proc shows it: for placement, which reads nothing else.

tree = ProcessTree(tmp_path)
tree.add(20, name="vllm")                       # a child of init, started at tick 1020
tree.add(21, 20, name="VLLM::EngineCore")
tree.table                                       # what placement is given
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wattmill_collector.placement.process import Process, Processes

HOST = "net:[4026531840]"


def docker(container: int, form: str = "/system.slice/docker-{}.scope") -> str:
    """The control group of a container; its id is the number in 64 hexadecimal digits."""
    return form.format(f"{container:064x}")


class ProcessTree:
    """Processes that can be added and ended."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.table = Processes(root, ticks_per_second=100, boot_us=lambda: 0)
        (root / "self/ns").mkdir(parents=True)
        (root / "self/ns/net").symlink_to(HOST)

    def add(
        self,
        pid: int,
        parent: int = 1,
        *,
        name: str = "python3",
        group: int | None = None,
        start: int | None = None,
        cgroup: str = "/",
        command: Sequence[str] = (),
        network: str = HOST,
        sockets: Sequence[int] = (),
    ) -> Process:
        """One process; its group is its own and its start its pid past tick 1000, unless told otherwise."""
        folder = self.root / str(pid)
        (folder / "fd").mkdir(parents=True)
        (folder / "ns").mkdir()
        (folder / "ns/net").symlink_to(network)
        ids = f"{parent} {pid if group is None else group} 1 0 -1 4194304"
        (folder / "stat").write_text(f"{pid} ({name}) S {ids} {'0 ' * 12}{1000 + pid if start is None else start} 0\n")
        (folder / "comm").write_text(f"{name[:15]}\n")
        (folder / "cgroup").write_text(cgroup if "\n" in cgroup else f"0::{cgroup}\n")
        (folder / "cmdline").write_text("".join(f"{word}\0" for word in command or (name,)))
        for nth, inode in enumerate(sockets):
            (folder / "fd" / str(nth + 3)).symlink_to(f"socket:[{inode}]")
        return self[pid]

    def __getitem__(self, pid: int) -> Process:
        process = self.table.get(pid)
        assert process is not None
        return process

    def end(self, *pids: int, heir: int = 1) -> None:
        """Processes are gone; their children have another parent now."""
        for pid in pids:
            for file in self.root.glob("[0-9]*/stat"):
                file.write_text(file.read_text().replace(f" S {pid} ", f" S {heir} "))
            (self.root / str(pid)).rename(self.root / f"ended-{pid}")

    def listen(self, pid: int, address: str, port: int, inode: int, *local: str) -> None:
        """A socket that listens in the network namespace of a process, which has these addresses."""
        folder = self.root / str(pid) / "net"
        folder.mkdir(exist_ok=True)
        hexed = "".join(f"{int(part):02X}" for part in reversed(address.split(".")))
        row = (
            f"   0: {hexed}:{port:04X} 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 {inode} 1 0 100 0\n"
        )
        with (folder / "tcp").open("a") as table:
            table.write(row)
        leaves = "".join(f"     |-- {one}\n        /32 host LOCAL\n" for one in ("127.0.0.1", *local))
        (folder / "fib_trie").write_text(f"Main:\n  +-- 0.0.0.0/0 3 0 5\n{leaves}")
