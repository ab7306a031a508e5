"""A real browser, where this machine has one; `WATTMILL_TEST_REQUIRE=chromium` makes its absence a failure."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from fix_database import required


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium without a window."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None and not required("chromium"):
        pytest.skip("no chromium here: apt-get install chromium; CI does")
    assert found is not None, "chromium is required and is not here"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield opened
        opened.close()
