"""A disk in memory that keeps its promises and no more: what was not fsynced may be gone after a power loss.

Files have a content (the page cache) and a durable content; names likewise. A power loss keeps of everything that was
not synced a random part: bytes as written, bytes as zeros (the size reached the disk, the data did not), or nothing.
After a failed fsync the pages count as clean, as on Linux: a later fsync says yes and has saved nothing.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import random
from collections import Counter
from pathlib import Path


@dataclasses.dataclass(slots=True)
class _File:
    content: bytearray = dataclasses.field(default_factory=bytearray)
    durable: bytes = b""
    poisoned: bool = False


class FaultyDisk:
    def __init__(self, seed: int = 0, capacity: int = 1 << 40) -> None:
        self.capacity = capacity
        self.directory = "17"
        self.calls: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._names: dict[Path, _File] = {}
        self._durable_names: dict[Path, _File] = {}
        self._open: dict[int, _File] = {}
        self._next = 3
        self._faults: dict[str, list[int]] = {}

    # ---- what a test does

    def fail(self, operation: str, *numbers: int) -> None:
        """The next calls of an operation fail with these errors, one each."""
        self._faults.setdefault(operation, []).extend(numbers)

    def heal(self) -> None:
        self._faults.clear()
        self.capacity = 1 << 40

    def kill(self) -> None:
        """The process dies; the page cache stays."""
        self._open.clear()

    def lose_power(self) -> None:
        self._open.clear()
        names = dict(self._durable_names)
        for path in sorted(set(self._names) ^ set(self._durable_names)):
            if self._random.random() < 0.5:
                if path in self._names:
                    names[path] = self._names[path]
                else:
                    del names[path]
        for path in sorted(set(self._names) & set(self._durable_names)):
            if self._names[path] is not self._durable_names[path] and self._random.random() < 0.5:
                names[path] = self._names[path]
        for file in {id(file): file for file in names.values()}.values():
            file.content = bytearray(self._after_power_loss(file))
            file.durable = bytes(file.content)
            file.poisoned = False
        self._names, self._durable_names = names, dict(names)

    def _after_power_loss(self, file: _File) -> bytes:
        if not file.content.startswith(file.durable):  # truncated or rewritten, not synced
            return file.durable if self._random.random() < 0.5 else bytes(file.content)
        tail = bytes(file.content[len(file.durable) :])
        cut = self._random.randrange(len(tail) + 1)
        return file.durable + self._random.choice(
            (b"", tail[:cut], tail, bytes(cut), tail[:cut] + bytes(len(tail) - cut))
        )

    def content(self, path: Path) -> bytes:
        return bytes(self._names[path].content)

    def put(self, path: Path, data: bytes) -> None:
        self._names[path] = self._durable_names[path] = _File(bytearray(data), data)

    def forget(self, path: Path) -> None:
        self._names.pop(path, None)
        self._durable_names.pop(path, None)

    def copy(self) -> FaultyDisk:
        """`cp -r` to another directory: the same contents, another identity."""
        other = FaultyDisk()
        other.directory = self.directory + "1"
        for path, file in self._names.items():
            other.put(path, bytes(file.content))
        return other

    def used(self) -> int:
        return sum(len(file.content) for file in {id(f): f for f in self._names.values()}.values())

    def paths(self) -> list[Path]:
        return sorted(self._names)

    # ---- what the spool does

    def _call(self, operation: str) -> None:
        self.calls[operation] += 1
        if self._faults.get(operation):
            number = self._faults[operation].pop(0)
            if number:
                raise OSError(number, os.strerror(number))

    def make_directory(self, path: Path) -> None:
        self._call("make_directory")

    def names(self, path: Path) -> list[str]:
        self._call("names")
        return sorted(p.name for p in self._names if p.parent == path)

    def size(self, path: Path) -> int:
        return len(self._file(path).content)

    def identity(self, path: Path) -> str:
        return self.directory

    def _file(self, path: Path) -> _File:
        if path not in self._names:
            raise FileNotFoundError(errno.ENOENT, "No such file", str(path))
        return self._names[path]

    def read(self, path: Path, offset: int, length: int) -> bytes:
        self._call("read")
        return bytes(self._file(path).content[offset : offset + length])

    def open_append(self, path: Path, *, empty: bool) -> int:
        self._call("open_append")
        file = self._names.setdefault(path, _File())
        if empty:
            file.content.clear()
        self._next += 1
        self._open[self._next] = file
        return self._next

    def write(self, number: int, data: bytes | memoryview) -> int:
        self._call("write")
        room = self.capacity - self.used()
        if room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._open[number].content += data[:room]
        return min(room, len(data))

    def fsync(self, number: int) -> None:
        file = self._open[number]
        try:
            self._call("fsync")
        except OSError:
            file.poisoned = True
            raise
        if not file.poisoned:
            file.durable = bytes(file.content)

    def truncate(self, number: int, size: int) -> None:
        self._call("truncate")
        del self._open[number].content[size:]

    def close(self, number: int) -> None:
        self._call("close")
        del self._open[number]

    def reserve(self, path: Path, size: int) -> None:
        self._call("reserve")
        have = len(self._names[path].content) if path in self._names else 0
        if self.used() - have + size > self.capacity:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._names[path] = _File(bytearray(size))

    def replace(self, source: Path, target: Path) -> None:
        self._call("replace")
        self._names[target] = self._file(source)
        del self._names[source]

    def remove(self, path: Path) -> None:
        self._call("remove")
        self._file(path)
        del self._names[path]

    def sync_directory(self, path: Path) -> None:
        self._call("sync_directory")
        for known in [p for p in self._durable_names if p.parent == path and p not in self._names]:
            del self._durable_names[known]
        for known, file in self._names.items():
            if known.parent == path:
                self._durable_names[known] = file
