"""An image run as a container runtime runs it: its own environment, user and command, and a root that is read-only.

Needs root. Of the host the program sees /proc, /dev and the network; it may write to the folders in `writable` alone.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from support.processes import Program

USER = 65532
_CHROOT = shutil.which("chroot", path="/usr/sbin:/usr/bin") or "chroot"  # the image's own PATH has no sbin


class Store:
    """The images that scripts/images left in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._command = ["buildah", "--storage-driver", "vfs", f"--root={folder}/storage", f"--runroot={folder}/run"]

    def image(self, name: str) -> Image:
        """The image, unpacked. Errors: CalledProcessError when it is not there."""
        config = json.loads(self._run("inspect", "--type=image", f"localhost/{name}"))["Docker"]["config"]
        container = self._run("from", "--pull-never", f"localhost/{name}")
        return Image(Path(self._run("mount", container)), config)

    def clear(self) -> None:
        """Forget what was unpacked; the images stay."""
        self._run("rm", "--all")

    def _run(self, *arguments: str) -> str:
        return subprocess.run(
            [*self._command, *arguments], check=True, stdout=subprocess.PIPE, text=True, timeout=300
        ).stdout.strip()


class Image:
    """One image: `root` is its file system, `config` what it says of itself."""

    def __init__(self, root: Path, config: Mapping[str, Any]) -> None:
        self.root, self.config = root, config
        self.environment = dict(pair.partition("=")[::2] for pair in config["Env"])

    def argv(
        self, command: Sequence[str], writable: Sequence[str], entrypoint: Sequence[str] | None = None
    ) -> list[str]:
        """What starts `command` in the image from outside of it."""
        root = shlex.quote(str(self.root))
        steps = [f"mount --rbind {root} {root}", f"mount -o remount,bind,ro {root}"]
        steps += [f"mount --rbind /{name} {root}/{name}" for name in ("proc", "dev")]
        steps += [f"mount -t tmpfs -o uid={USER},gid={USER},mode=0755 none {root}{folder}" for folder in writable]
        program = [*(self.config["Entrypoint"] if entrypoint is None else entrypoint), *command]
        user = self.config["User"]
        steps.append(f"exec {_CHROOT} --userspec={user} {root} {shlex.join(program)}")
        return ["/usr/bin/unshare", "--mount", "/bin/sh", "-ec", "\n".join(steps)]

    def run(
        self, *command: str, writable: Sequence[str] = ("/tmp",), entrypoint: Sequence[str] | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(command, writable, entrypoint),
            env={**self.environment, **env},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


class Container(Program):
    """The image's own command, running."""

    def __init__(self, image: Image, log: Path, writable: Sequence[str] = ("/tmp",), **env: str) -> None:
        super().__init__(log)
        self._argv = image.argv(image.config["Cmd"], writable)
        self._environment = {**image.environment, **env}

    def start(self) -> Container:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self._argv, env=self._environment, stdout=output, stderr=output, start_new_session=True
            )
        return self
