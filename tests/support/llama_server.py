"""The real llama-server on a tiny random model, for tests that want an engine which really counts.

Found in the rootfs named by WATTMILL_TEST_LLAMA_ROOTFS (default /var/tmp/wattmill/llama; entered by chroot, which takes
root), or as `llama-server` on PATH.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.tiny_model import write_tiny_model

ROOTFS = Path(os.environ.get("WATTMILL_TEST_LLAMA_ROOTFS", "/var/tmp/wattmill/llama"))


class LlamaServer:
    """A running llama-server; `url` is its `/metrics`."""

    def __init__(self, command: list[str], port: int) -> None:
        self._command = command
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/metrics"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 30
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise RuntimeError(f"llama-server ended with {self._process.returncode}")
            with (
                contextlib.suppress(OSError, urllib.error.URLError),
                urllib.request.urlopen(self._at("/health")) as answer,
            ):
                if answer.status == 200:
                    return
            time.sleep(0.05)
        raise RuntimeError("llama-server did not become healthy within 30 s")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def complete(self, prompt: str, output_tokens: int) -> dict[str, Any]:
        """Generate exactly `output_tokens`; the server's answer."""
        asked = {"prompt": prompt, "n_predict": output_tokens, "ignore_eos": True, "cache_prompt": True, "id_slot": 0}
        request = urllib.request.Request(self._at("/completion"), json.dumps(asked).encode())
        with urllib.request.urlopen(request) as answer:
            said: dict[str, Any] = json.load(answer)
            return said

    def _at(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


def command() -> tuple[list[str], Path] | None:
    """How to start a llama-server here, and the root of the files that it sees; None where there is none."""
    if (ROOTFS / "usr/bin/llama-server").exists() and os.geteuid() == 0:
        return ["chroot", str(ROOTFS), "llama-server"], ROOTFS
    found = shutil.which("llama-server")
    return None if found is None else ([found], Path("/"))


@contextlib.contextmanager
def llama_server() -> Iterator[LlamaServer]:
    """A llama-server that serves, with 2 slots of 256 tokens and one thread.

    Errors: RuntimeError when there is none on this machine, or it does not start.
    """
    found = command()
    if found is None:
        raise RuntimeError(f"There is no llama-server in {ROOTFS} nor on PATH; set WATTMILL_TEST_LLAMA_ROOTFS.")
    start, root = found
    folder = Path(tempfile.mkdtemp(prefix="wattmill-", dir=root / "tmp"))
    try:
        model = write_tiny_model(folder / "tiny.gguf")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        options = f"--metrics -c 512 -t 1 -tb 1 -np 2 --no-webui --host 127.0.0.1 --port {port} -m"
        server = LlamaServer([*start, *options.split(), "/" + str(model.relative_to(root))], port)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)
