"""The disk, passed in: the few operations the spool needs, so that every fault of a disk can be replayed.

Promises nothing the kernel does not: `write` may be short, every operation may raise OSError, and what was written is
only there after a power loss when `fsync` returned (and `sync_directory`, for a name).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol


class Disk(Protocol):
    """Files by path, open files by number. Every operation may raise OSError."""

    def make_directory(self, path: Path) -> None: ...
    def names(self, path: Path) -> list[str]: ...
    def size(self, path: Path) -> int: ...
    def identity(self, path: Path) -> str: ...
    def read(self, path: Path, offset: int, length: int) -> bytes: ...
    def open_append(self, path: Path, *, empty: bool) -> int: ...
    def write(self, number: int, data: bytes | memoryview) -> int: ...
    def fsync(self, number: int) -> None: ...
    def truncate(self, number: int, size: int) -> None: ...
    def close(self, number: int) -> None: ...
    def reserve(self, path: Path, size: int) -> None: ...
    def replace(self, source: Path, target: Path) -> None: ...
    def remove(self, path: Path) -> None: ...
    def sync_directory(self, path: Path) -> None: ...


class OsDisk:
    """The disk of this machine."""

    def make_directory(self, path: Path) -> None:
        path.mkdir(mode=0o750, parents=True, exist_ok=True)

    def names(self, path: Path) -> list[str]:
        return sorted(os.listdir(path))

    def size(self, path: Path) -> int:
        return path.stat().st_size

    def identity(self, path: Path) -> str:
        """Changes when a directory is copied, stays when it is moved within its file system."""
        return str(path.stat().st_ino)

    def read(self, path: Path, offset: int, length: int) -> bytes:
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            pieces: list[bytes] = []
            while length > 0 and (piece := os.pread(number, length, offset)):
                pieces.append(piece)
                offset += len(piece)
                length -= len(piece)
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        finally:
            os.close(number)

    def open_append(self, path: Path, *, empty: bool) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | (os.O_TRUNC if empty else 0)
        return os.open(path, flags, 0o640)

    def write(self, number: int, data: bytes | memoryview) -> int:
        return os.write(number, data)

    def fsync(self, number: int) -> None:
        os.fsync(number)

    def truncate(self, number: int, size: int) -> None:
        os.ftruncate(number, size)

    def close(self, number: int) -> None:
        os.close(number)

    def reserve(self, path: Path, size: int) -> None:
        """A file whose blocks are taken now, to be given back when the disk is full."""
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            os.posix_fallocate(number, 0, size)
        except OSError:
            os.unlink(path)
            raise
        finally:
            os.close(number)

    def replace(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def remove(self, path: Path) -> None:
        os.unlink(path)

    def sync_directory(self, path: Path) -> None:
        number = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def write_all(disk: Disk, number: int, data: bytes) -> None:
    """Write every byte, however short the single writes are."""
    view = memoryview(data)
    while view:
        view = view[disk.write(number, view) :]


def append_durably(disk: Disk, path: Path, data: bytes) -> None:
    """Add to a file so that it is there after a power loss; also the name, should the file be new."""
    number = disk.open_append(path, empty=False)
    try:
        write_all(disk, number, data)
        disk.fsync(number)
    finally:
        disk.close(number)
    disk.sync_directory(path.parent)


def replace_file(disk: Disk, path: Path, data: bytes, *, durable: bool) -> None:
    """Put a new content in place of the old one in a single step; old or new is there after a crash, never half."""
    part = path.with_name(path.name + ".part")
    number = disk.open_append(part, empty=True)
    try:
        write_all(disk, number, data)
        if durable:
            disk.fsync(number)
    finally:
        disk.close(number)
    disk.replace(part, path)
    if durable:
        disk.sync_directory(path.parent)
