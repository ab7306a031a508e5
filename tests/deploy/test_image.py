"""Both images, built for real with buildah and run as a cluster runs them: read-only, as a number, without a shell.

Building takes minutes and fetches a Debian and the wheels: it is done only where WATTMILL_TEST_REQUIRE names buildah.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fix_database import required
from support.deployed import ROOT
from support.image import USER, Container, Image, Store
from support.processes import eventually, free_port

IMAGES = Path(os.environ.get("WATTMILL_TEST_IMAGES", "/var/tmp/wattmill/images"))
needs_images = pytest.mark.skipif(
    not required("buildah"), reason="images are built where WATTMILL_TEST_REQUIRE names buildah: it takes minutes"
)
DOCKERFILE = (ROOT / "deploy/image/Dockerfile").read_text()
STARTED_KERNELS = """
import time
from wattmill_analytics import rehearsal, warm_up
began = time.monotonic()
warm_up()
rehearsal.rehearse()
import gc
from numba.core.registry import CPUDispatcher
kernels = [found for found in gc.get_objects() if isinstance(found, CPUDispatcher) and found.signatures]
ours = [kernel for kernel in kernels if kernel.py_func.__module__.startswith("wattmill_")]
missed = [kernel.py_func.__name__ for kernel in ours if kernel.stats.cache_misses]
print(len(ours), sum(len(kernel.stats.cache_hits) for kernel in ours), missed)
"""


@pytest.fixture(scope="module")
def built() -> Iterator[Callable[[str], Image]]:
    subprocess.run(
        [ROOT / "scripts/images", IMAGES], cwd=ROOT, env={**os.environ, "PYTHON": sys.executable}, check=True
    )
    store = Store(IMAGES)
    yield store.image
    store.clear()


@pytest.fixture(scope="module")
def agent(built: Callable[[str], Image]) -> Image:
    return built("wattmill-agent")


@pytest.fixture(scope="module")
def service(built: Callable[[str], Image]) -> Image:
    return built("wattmill-service")


def test_both_images_end_in_a_number_for_a_user_and_run_nothing_of_a_shell() -> None:
    stages = dict(re.findall(r"(?ms)^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", DOCKERFILE))
    assert list(stages) == ["agent-build", "agent", "service-build", "service"]
    for name in ("agent", "service"):
        assert "\nRUN " not in stages[name]
        assert f"\nUSER {USER}:{USER}\n" in stages[name]
        assert '\nENTRYPOINT ["/opt/wattmill/bin/wattmill"]\n' in stages[name]
    for name in ("agent-build", "service-build"):
        assert stages[name].count("pip install") == 2
        assert stages[name].count("--require-hashes") == 1
        assert stages[name].count("--no-deps --no-build-isolation --no-index .") == 1


@needs_images
@pytest.mark.timeout(900)
def test_the_agent_is_light_and_compiled(agent: Image) -> None:
    packages = agent.root / "opt/wattmill/lib/python3.11/site-packages"
    there = {path.name for path in packages.iterdir()}
    assert {"pynvml.py", "yaml", "wattmill_collector"} <= there
    assert there.isdisjoint({"numpy", "numba", "fastapi", "psycopg", "pip", "setuptools", "hatchling"})
    assert list((packages / "__pycache__").glob("pynvml.*.pyc"))


@needs_images
@pytest.mark.timeout(900)
def test_the_agent_reads_once_as_a_number_on_a_read_only_root(agent: Image) -> None:
    done = agent.run(
        "agent", "--once", writable=("/tmp", "/var/lib/wattmill"), WATTMILL_ENGINES="http://127.0.0.1:9/metrics"
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["kind"] for line in done.stdout.splitlines()] == ["absence"]
    inside = agent.run(
        "-c",
        "import os; print(os.getuid(), os.getgid(), os.access('/opt/wattmill', os.W_OK)); open('/etc/x', 'w')",
        entrypoint=["/opt/wattmill/bin/python"],
    )
    assert inside.stdout == f"{USER} {USER} False\n"
    assert "OSError" in inside.stderr or "PermissionError" in inside.stderr


@needs_images
@pytest.mark.timeout(900)
def test_the_agents_doctor_finds_the_spool_it_may_write_to(agent: Image) -> None:
    done = agent.run("doctor", "--json", writable=("/tmp", "/var/lib/wattmill"))
    checks = {check["subject"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["spool"]["status"] != "FAIL"
    assert "/var/lib/wattmill" in checks["spool"]["text"]
    readable_only = agent.run("doctor", "--json")
    assert {c["subject"]: c["status"] for c in json.loads(readable_only.stdout)["checks"]}["spool"] == "FAIL"


@needs_images
@pytest.mark.timeout(900)
def test_the_service_starts_read_only_and_is_ready(service: Image, database_url: str, tmp_path: Path) -> None:
    port = free_port()
    container = Container(
        service, tmp_path / "log", WATTMILL_DATABASE_URL=database_url, WATTMILL_PORT=str(port)
    ).start()
    try:
        eventually(lambda: answers(f"http://127.0.0.1:{port}/readyz"), 60, container.text())
        doctor = service.run("doctor", "--json", WATTMILL_DATABASE_URL=database_url)
        found = {check["subject"]: check for check in json.loads(doctor.stdout)["checks"]}
        assert found["schema"]["status"] == "OK", found
    finally:
        container.signal(signal.SIGTERM)
        assert container.process is not None
        assert container.process.wait(15) == 0, container.text()


@needs_images
@pytest.mark.timeout(900)
def test_no_kernel_is_compiled_in_the_image(service: Image) -> None:
    done = service.run("-c", STARTED_KERNELS, entrypoint=["/opt/wattmill/bin/python"])
    assert done.returncode == 0, done.stderr
    kernels, loaded, missed = done.stdout.split(maxsplit=2)
    assert int(kernels) > 10
    assert int(loaded) >= int(kernels)
    assert missed.strip() == "[]"


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
